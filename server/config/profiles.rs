//! Reads the sections `profile` of `processor`, and `without_profile`.
//!
//! Sections come from `sections`, with their places; [`Profile`]s go to the checker, in the order of the file. A
//! profile for a kind of client that the service cannot have is refused, because clients would get another profile than
//! the file says. Looks up users and groups, and opens nothing.

use std::path::Path;

use config_file::{At, Fault, Place};
use serde::Deserialize;

use super::rule_source;
use super::sandbox::{self, SandboxSection};
use super::values::{required, size, within};
use super::{Address, Protocol};
use crate::profiles::limits::Limits;
use crate::profiles::{Fingerprint, Network, Otherwise, Profile, Who, imagined};
use crate::tls::{Credentials, TlsConfig};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileSection {
    name: Option<At<String>>,
    certificate: Option<At<String>>,
    subject: Option<At<String>>,
    issuer: Option<At<String>>,
    psk: Option<At<String>>,
    uid: Option<At<String>>,
    gid: Option<At<String>>,
    network: Option<At<String>>,
    filter_config: Option<At<String>>,
    modules: Option<At<String>>,
    max_sessions: Option<At<i64>>,
    max_calls_per_second: Option<At<i64>>,
    max_calls_in_flight: Option<At<i64>>,
    max_signatures_per_day: Option<At<i64>>,
    max_connections: Option<At<i64>>,
    sandbox: Option<At<SandboxSection>>,
}

/// The kinds of clients that a service can have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clients {
    /// Over TCP.
    pub(super) tcp: bool,
    /// Over Unix sockets.
    pub(super) unix: bool,
    /// With certificates.
    pub(super) certificates: bool,
    /// With pre-shared keys.
    pub(super) keys: bool,
}

impl Clients {
    /// Returns the kinds for a service with these addresses and TLS settings.
    pub(super) fn of(protocols: &[Protocol], tls: Option<&TlsConfig>) -> Clients {
        let addresses = || protocols.iter().flat_map(|protocol| &protocol.addresses);
        let is_local = |address: &Address| matches!(address, Address::Local(_));
        let credentials = tls.map(|tls| &tls.credentials);
        Clients {
            tcp: addresses().any(|address| !is_local(address)),
            unix: addresses().any(is_local),
            certificates: matches!(credentials, Some(Credentials::Certificates { .. })),
            keys: matches!(credentials, Some(Credentials::Psk(_))),
        }
    }
}

/// What is needed to read the sections.
pub(super) struct Surroundings<'a> {
    /// The service's clients.
    pub(super) clients: Clients,
    /// `record_memory`, in bytes.
    pub(super) record_memory: usize,
    /// The directory of the configuration file.
    pub(super) base: &'a Path,
    /// Gets warnings with their places.
    pub(super) warn: &'a mut dyn FnMut(&Place, &str),
}

/// Turns the sections into profiles.
pub(super) fn of_sections(
    sections: Vec<At<ProfileSection>>,
    around: &mut Surroundings<'_>,
) -> Result<Vec<Profile>, Fault> {
    let mut profiles: Vec<Profile> = Vec::new();
    for section in sections {
        let profile = of_section(section, around)?;
        let name = &profile.name;
        if let Some(same) = profiles.iter().find(|it| it.name.value == name.value) {
            let line = same.name.place.line;
            return Err(name.fault(format!("line {line} has a profile of this name")));
        }
        if let Some(wider) = profiles.iter().find(|it| it.who.covers(&profile.who)) {
            let (wider, line) = (&wider.name.value, wider.name.place.line);
            let text = format!(
                "is for nobody: the profile {wider}, line {line}, comes first and matches the same clients"
            );
            (around.warn)(&name.place, &text);
        }
        profiles.push(profile);
    }
    Ok(profiles)
}

/// Reads `without_profile`: what happens to clients that no profile matches.
pub(super) fn otherwise(
    option: Option<At<String>>,
    profiles: &[Profile],
) -> Result<Otherwise, Fault> {
    match option {
        None => Ok(Otherwise::Serve),
        Some(at) => match at.value.as_str() {
            "serve" => Ok(Otherwise::Serve),
            "refuse" if profiles.is_empty() => {
                Err(at.fault("expected a section `profile`, as everybody would be refused"))
            }
            "refuse" => Ok(Otherwise::Refuse),
            _ => Err(at.fault("expected serve or refuse")),
        },
    }
}

fn of_section(
    At {
        value: section,
        place,
    }: At<ProfileSection>,
    around: &mut Surroundings<'_>,
) -> Result<Profile, Fault> {
    let name = required(section.name, "name", &place)?;
    if name.value.is_empty() || name.value.contains(char::is_control) {
        return Err(name.fault("expected a name without control characters"));
    }
    let clients = around.clients;
    let filter_file = |at: &At<String>| rule_source::filter_file(at, around.base);
    let only = |option: &Option<At<String>>, can: bool, what: &str| match option {
        Some(at) if !can => Err(at.fault(format!("can match nobody: the service has no {what}"))),
        _ => Ok(()),
    };
    for option in [&section.certificate, &section.subject, &section.issuer] {
        only(option, clients.certificates, "TLS with client certificates")?;
    }
    only(&section.psk, clients.keys, "TLS with pre-shared keys")?;
    for option in [&section.uid, &section.gid] {
        only(option, clients.unix, "Unix socket")?;
    }
    only(&section.network, clients.tcp, "internet address")?;
    let user = section.uid.as_ref().or(section.gid.as_ref());
    if let (Some(at), Some(_)) = (user, &section.network) {
        return Err(at.fault("can match nobody: a client with a `network` is on no Unix socket"));
    }
    let modules = section.modules.map(|at| {
        // The empty name is written as an empty value, or as a word of two quotes among other names.
        let words = at.value.split_ascii_whitespace();
        let names = words.map(|word| if word == "\"\"" { "" } else { word });
        let mut value: Vec<String> = names.map(str::to_owned).collect();
        if at.value.is_empty() {
            value.push(String::new());
        }
        let place = at.place;
        match value.is_empty() {
            true => Err(place.fault("expected names of modules, with blanks between")),
            false => Ok(At { value, place }),
        }
    });
    let number = |option, most: i64| match option {
        None => Ok(None),
        some => within(some, 1, 1, most).map(Some),
    };
    const MOST: i64 = i32::MAX as i64;
    let count = |option| number(option, MOST).map(|value| value.map(size));
    let narrow = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let sandbox = section.sandbox.map(|section| {
        let place = section.place.clone();
        let sandbox = sandbox::of_section(Some(section), around.record_memory)?;
        match sandbox.root {
            // Only root can change the root directory, and the worker is no longer root when it knows its client.
            Some(_) => Err(place.fault("`root` belongs in the section `sandbox` of `processor`")),
            None => Ok(sandbox),
        }
    });
    Ok(Profile {
        name,
        who: Who {
            certificate: list(section.certificate, |text| {
                let expected = "expected SHA-256 fingerprints, 64 hexadecimal digits each, with blanks between";
                Fingerprint::parse(text).ok_or_else(|| expected.to_owned())
            })?,
            subject: whole(section.subject)?,
            issuer: whole(section.issuer)?,
            psk: whole(section.psk)?,
            uid: list(section.uid, |text| {
                imagined::user(text).ok_or_else(|| format!("there is no user `{text}`"))
            })?,
            gid: list(section.gid, |text| {
                imagined::group(text).ok_or_else(|| format!("there is no group `{text}`"))
            })?,
            network: list(section.network, Network::parse)?,
        },
        filter_config: section
            .filter_config
            .as_ref()
            .map(filter_file)
            .transpose()?,
        modules: modules.transpose()?,
        limits: Limits {
            sessions: count(section.max_sessions)?,
            calls_per_second: narrow(number(section.max_calls_per_second, 1_000_000)?),
            calls_in_flight: number(section.max_calls_in_flight, 256)?.map(size),
            signatures_per_day: narrow(number(section.max_signatures_per_day, MOST)?),
        },
        max_connections: count(section.max_connections)?,
        sandbox: sandbox.transpose()?,
    })
}

/// Reads values that are separated by blanks.
fn list<T>(
    option: Option<At<String>>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Fault> {
    let Some(at) = option else {
        return Ok(Vec::new());
    };
    let values = at.value.split_ascii_whitespace().map(read);
    let values: Vec<T> = values
        .collect::<Result<_, _>>()
        .map_err(|text| at.fault(text))?;
    match values.is_empty() {
        true => Err(at.fault("expected a value")),
        false => Ok(values),
    }
}

/// Reads one value, which may contain blanks.
fn whole(option: Option<At<String>>) -> Result<Vec<String>, Fault> {
    match option {
        Some(at) if at.value.is_empty() => Err(at.fault("expected a value")),
        option => Ok(option.into_iter().map(|at| at.value).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{inside, refused};
    use super::*;

    const LOCAL: &str = "address { type = \"local\"; path = \"/s\" } };";

    fn profiles(text: &str) -> Vec<Profile> {
        let configuration = inside("processor", text).unwrap();
        configuration.services[0].processor.profiles.clone()
    }

    #[test]
    fn the_empty_name_is_one_of_a_module() {
        for (text, names) in [("", vec![""]), (r#"a \"\""#, vec!["a", ""])] {
            let read = profiles(&format!(
                "profile {{ name = \"a\"; modules = \"{text}\" }};"
            ));
            assert_eq!(read[0].modules.as_ref().unwrap().value, names);
        }
    }

    #[test]
    fn profiles_are_in_the_order_of_the_file() {
        let read = profiles(
            "profile { name = \"office\"; network = \"10.0.0.0/8 2001:db8::/32\"; modules = \"a b\";
               filter_config = \"/f\"; max_sessions = 1; max_calls_per_second = 2;
               max_calls_in_flight = 3; max_signatures_per_day = 4; max_connections = 5;
               sandbox { preset = \"strict\" } };
             profile { name = \"others\" };",
        );
        let [office, others] = read.as_slice() else {
            panic!("{read:?}");
        };
        assert_eq!(
            office.who.to_string(),
            "network 10.0.0.0/8 or 2001:db8::/32"
        );
        assert_eq!(office.modules.as_ref().unwrap().value, ["a", "b"]);
        assert_eq!(office.filter_config.as_deref(), Some(Path::new("/f")));
        assert_eq!(
            office.limits.to_string(),
            "max_sessions 1, max_calls_per_second 2, max_calls_in_flight 3, max_signatures_per_day 4"
        );
        assert_eq!(office.max_connections, Some(5));
        assert!(office.sandbox.is_some());
        assert_eq!(others.who, Who::default());
        assert!(others.sandbox.is_none() && others.modules.is_none());
    }

    #[test]
    fn refuses_what_can_match_nobody_or_is_no_value() {
        for (text, expected) in [
            ("", "profile[0]: `name` is missing"),
            ("name = \"\"", "name: expected a name"),
            ("name = \"a\\nb\"", "name: expected a name"),
            (
                "name = \"a\"; certificate = \"00\"",
                "no TLS with client certificates",
            ),
            (
                "name = \"a\"; subject = \"cn=a\"",
                "subject: can match nobody",
            ),
            (
                "name = \"a\"; issuer = \"cn=a\"",
                "issuer: can match nobody",
            ),
            ("name = \"a\"; psk = \"a\"", "no TLS with pre-shared keys"),
            (
                "name = \"a\"; uid = \"0\"",
                "the service has no Unix socket",
            ),
            (
                "name = \"a\"; gid = \"0\"",
                "the service has no Unix socket",
            ),
            (
                "name = \"a\"; network = \"10.0.0.1/8\"",
                "expected 10.0.0.0/8 instead",
            ),
            ("name = \"a\"; network = \"\"", "network: expected a value"),
            ("name = \"a\"; modules = \" \"", "modules: expected names"),
            (
                "name = \"a\"; max_sessions = 0",
                "max_sessions: expected 1 or more",
            ),
            (
                "name = \"a\"; max_calls_in_flight = 257",
                "expected 256 or less",
            ),
            (
                "name = \"a\"; max_signatures_per_day = -1",
                "expected 1 or more",
            ),
            (
                "name = \"a\"; sandbox { read = \"/a\" }",
                "read: expected preset",
            ),
            ("name = \"a\"; user = \"b\"", "user: unknown option"),
            (
                "name = \"a\" }; profile { name = \"a\"",
                "has a profile of this name",
            ),
        ] {
            refused("processor", &format!("profile {{ {text} }};"), expected);
        }
        for (text, expected) in [
            ("\"refuse\"", "expected a section"),
            ("\"no\"", "expected serve"),
        ] {
            refused("processor", &format!("without_profile = {text};"), expected);
        }
    }

    #[test]
    fn users_and_groups_are_numbers_or_names_on_unix_sockets() {
        let local = |profile: &str| {
            let text = format!(
                "{LOCAL} processor {{ type = \"rpc_pkcs11\"; filter_config = \"f\"; profile {{ name = \"a\"; {profile} }} }};"
            );
            let file = "netplex { service { name = \"s\"; protocol { name = \"p\"; ".to_owned()
                + &text
                + "workload_manager { type = \"constant\"; threads = 1 } } }";
            super::super::tests::check(&file)
        };
        let read = local("uid = \"root 7\"; gid = \"0\"").unwrap();
        let who = &read.services[0].processor.profiles[0].who;
        assert_eq!(who.to_string(), "uid 0 or 7, gid 0");
        for (text, expected) in [
            ("uid = \"no-such-user\"", "there is no user `no-such-user`"),
            ("gid = \"-1\"", "there is no group `-1`"),
            ("network = \"10.0.0.0/8\"", "no internet address"),
        ] {
            let message = local(text).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn warns_of_a_profile_that_nobody_reaches() {
        for (text, expected) in [
            (
                "profile { name = \"all\" };\n profile { name = \"late\"; network = \"10.0.0.0/8\" };",
                1,
            ),
            (
                "profile { name = \"a\"; network = \"10.0.0.0/8\" };\n profile { name = \"b\"; network = \"10.1.0.0/16\" };",
                1,
            ),
            (
                "profile { name = \"a\"; network = \"10.1.0.0/16\" };\n profile { name = \"b\"; network = \"10.0.0.0/8\" };",
                0,
            ),
        ] {
            let warnings = inside("processor", text).unwrap().warnings;
            assert_eq!(warnings.len(), expected, "{warnings:?}");
            for warning in warnings {
                assert!(
                    warning.contains("is for nobody: the profile a"),
                    "{warning}"
                );
                assert!(warning.contains(".profile[1].name"), "{warning}");
            }
        }
    }
}
