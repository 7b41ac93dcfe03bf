//! Reads single values of pkcs11proxyd.conf: numbers, times, paths, modes, users and addresses.
//!
//! A value comes with its place in the file; an error names the place and says what was expected.
//! Looks up users and host names, and opens nothing.

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use config_file::{At, Fault, Float, Place};
use nix::unistd::{Gid, Group, Uid, User, geteuid};

use super::sections::{AddressSection, Mode};
use super::{Address, Identity, Protocol};
use crate::logging::Severity;
use crate::logging::line_format::{self, LineFormat};
use crate::proxy::Balancers;

/// Reads a time in seconds, which must be greater than zero.
pub(super) fn seconds(option: Option<At<Float>>, default: u64) -> Result<Duration, Fault> {
    option.map_or(Ok(Duration::from_secs(default)), |at| {
        Duration::try_from_secs_f64(at.value.0)
            .ok()
            .filter(|seconds| !seconds.is_zero())
            .ok_or_else(|| at.fault("expected more than 0.0 seconds"))
    })
}

pub(super) fn required<T>(
    option: Option<At<T>>,
    name: &str,
    section: &Place,
) -> Result<At<T>, Fault> {
    option.ok_or_else(|| section.fault(format!("`{name}` is missing")))
}

/// Refuses the given options that do not belong to the type.
pub(super) fn only(
    r#type: &At<String>,
    allowed: &[&str],
    given: &[(&str, Option<&Place>)],
) -> Result<(), Fault> {
    for (name, place) in given {
        if let Some(place) = place.filter(|_| !allowed.contains(name)) {
            return Err(place.fault(format!("is not a parameter of type {}", r#type.value)));
        }
    }
    Ok(())
}

pub(super) fn within(
    option: Option<At<i64>>,
    default: i64,
    least: i64,
    most: i64,
) -> Result<i64, Fault> {
    match option {
        None => Ok(default),
        Some(at) if (least..=most).contains(&at.value) => Ok(at.value),
        Some(at) if at.value < least => Err(at.fault(format!("expected {least} or more"))),
        Some(at) => Err(at.fault(format!("expected {most} or less"))),
    }
}

/// Converts a number that [`within`] has found not to be negative.
pub(super) fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

pub(super) fn level(option: Option<At<String>>, default: Severity) -> Result<Severity, Fault> {
    const EXPECTED: &str = "expected emerg, alert, crit, err, warning, notice, info, debug or all";
    option.map_or(Ok(default), |at| {
        Severity::from_name(&at.value).ok_or_else(|| at.fault(EXPECTED))
    })
}

pub(super) fn default_format(place: &Place) -> Result<LineFormat, Fault> {
    LineFormat::parse(line_format::DEFAULT).map_err(|error| place.fault(error))
}

/// Makes a path absolute. A relative one is relative to `base`, or else to the working directory.
pub(super) fn path(at: &At<String>, base: Option<&Path>) -> Result<PathBuf, Fault> {
    if at.value.is_empty() || at.value.contains('\0') {
        return Err(at.fault("expected a path"));
    }
    let joined = base.map_or_else(|| PathBuf::from(&at.value), |base| base.join(&at.value));
    absolute(joined).map_err(|error| at.fault(format!("invalid path: {error}")))
}

pub(super) fn identity(
    user: Option<At<String>>,
    group: Option<At<String>>,
) -> Result<Option<Identity>, Fault> {
    let Some(user) = user else {
        return match group {
            Some(group) => Err(group.fault("expected `user` as well")),
            None => Ok(None),
        };
    };
    if !geteuid().is_root() {
        return Err(
            user.fault("only root can change the user, and the daemon was not started by root")
        );
    }
    let account = match User::from_name(&user.value) {
        Ok(Some(account)) => account,
        Ok(None) => {
            return Err(user.fault(
                "expected the name of a user: write one that exists here, or create it, as by useradd --system",
            ));
        }
        Err(error) => return Err(user.fault(format!("cannot be looked up: {error}"))),
    };
    let gid = match group {
        None => account.gid,
        Some(group) => match Group::from_name(&group.value) {
            Ok(Some(group)) => group.gid,
            Ok(None) => {
                return Err(group.fault(
                    "expected the name of a group: write one that exists here, or create it, as by groupadd --system",
                ));
            }
            Err(error) => return Err(group.fault(format!("cannot be looked up: {error}"))),
        },
    };
    Ok(Some(Identity {
        user: user.value,
        uid: account.uid,
        gid,
    }))
}

pub(super) fn address(
    section: At<AddressSection>,
    socket_directory: Option<&Path>,
) -> Result<Address, Fault> {
    let At {
        value:
            AddressSection {
                r#type,
                bind,
                path: file,
                name,
            },
        place,
    } = section;
    let allowed: &[&str] = match r#type.value.as_str() {
        "internet" => &["bind"],
        "local" | "unixdomain" | "socket_file" => &["path"],
        "container" | "internal" | "w32_pipe" | "w32_pipe_file" => {
            return Err(r#type.fault("not supported: expected internet, local or socket_file"));
        }
        _ => return Err(r#type.fault("expected internet, local, unixdomain or socket_file")),
    };
    only(
        &r#type,
        allowed,
        &[
            ("bind", bind.as_ref().map(|at| &at.place)),
            ("path", file.as_ref().map(|at| &at.place)),
            ("name", name.as_ref().map(|at| &at.place)),
        ],
    )?;
    if r#type.value == "internet" {
        return internet(&required(bind, "bind", &place)?).map(Address::Internet);
    }
    let file = required(file, "path", &place)?;
    if socket_directory.is_none() && Path::new(&file.value).is_relative() {
        return Err(file.fault("expected an absolute path, as there is no socket_directory"));
    }
    let path = path(&file, socket_directory)?;
    Ok(if r#type.value == "socket_file" {
        Address::SocketFile(path)
    } else {
        Address::Local(path)
    })
}

/// Resolves `a.b.c.d:port`, `[v6]:port` or `host:port` to all of its addresses.
fn internet(bind: &At<String>) -> Result<Vec<SocketAddr>, Fault> {
    const EXPECTED: &str = "expected host:port, a.b.c.d:port or [v6]:port";
    let (host, port) = bind
        .value
        .rsplit_once(':')
        .ok_or_else(|| bind.fault(EXPECTED))?;
    if port.is_empty() || !port.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(bind.fault(EXPECTED));
    }
    let port: u16 = port
        .parse()
        .map_err(|_| bind.fault("expected a port of at most 65535"))?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = bracketed.unwrap_or(host);
    // The original also accepts an IPv6 address without brackets.
    let is_v6 = host.parse::<Ipv6Addr>().is_ok();
    if host.is_empty() || !is_v6 && (bracketed.is_some() || host.contains([':', '[', ']'])) {
        return Err(bind.fault(EXPECTED));
    }
    let resolved = (host, port)
        .to_socket_addrs()
        .map_err(|error| bind.fault(format!("cannot be resolved: {error}")))?;
    let mut addresses = Vec::new();
    for address in resolved {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        Err(bind.fault("resolves to no address"))
    } else {
        Ok(addresses)
    }
}

pub(super) fn looks_octal(text: &str) -> bool {
    text.strip_prefix('0')
        .is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// Parses a mode in OCaml's notation: `0o777`, `0x1ff`, `0b111_111_111`, and anything else in decimal.
pub(super) fn mode(at: &At<Mode>) -> Result<u32, Fault> {
    let bits = match &at.value {
        Mode::Integer(bits) => u32::try_from(*bits).ok(),
        Mode::Text(text) => {
            let lower = text.to_ascii_lowercase().replace('_', "");
            let (digits, radix) = match lower.get(..2) {
                Some("0o") => (lower.get(2..), 8),
                Some("0x") => (lower.get(2..), 16),
                Some("0b") => (lower.get(2..), 2),
                _ => (Some(lower.as_str()), 10),
            };
            digits
                .filter(|digits| !digits.starts_with('+'))
                .and_then(|digits| u32::from_str_radix(digits, radix).ok())
        }
    };
    bits.filter(|bits| *bits <= 0o7777)
        .ok_or_else(|| at.fault("expected a mode such as \"0o770\", at most 0o7777"))
}

/// Parses `user:group`, which may be names or numbers.
pub(super) fn owner(at: &At<String>) -> Result<(Uid, Gid), Fault> {
    let (user, group) = at
        .value
        .split_once(':')
        .ok_or_else(|| at.fault("expected user:group"))?;
    let uid = User::from_name(user)
        .ok()
        .flatten()
        .map(|user| user.uid)
        .or_else(|| user.parse().ok().map(Uid::from_raw))
        .ok_or_else(|| at.fault("expected the name or number of a user before the colon"))?;
    let gid = Group::from_name(group)
        .ok()
        .flatten()
        .map(|group| group.gid)
        .or_else(|| group.parse().ok().map(Gid::from_raw))
        .ok_or_else(|| at.fault("expected the name or number of a group after the colon"))?;
    Ok((uid, gid))
}

/// Reads the addresses of the load balancers, if connections begin with a PROXY header.
pub(super) fn balancers(
    enabled: Option<At<bool>>,
    from: Option<At<String>>,
) -> Result<Option<Balancers>, Fault> {
    match (enabled.filter(|at| at.value), from) {
        (None, None) => Ok(None),
        (None, Some(from)) => Err(from.fault("expected `proxy_protocol = true` as well")),
        (Some(enabled), None) => {
            Err(enabled.fault("expected `proxy_from` as well: the addresses of the load balancers"))
        }
        (Some(_), Some(from)) => Balancers::parse(&from.value)
            .map(Some)
            .map_err(|error| from.fault(error.to_string())),
    }
}

/// Refuses `proxy_protocol` for Unix sockets: their connections have no address to compare with the load balancers'.
pub(super) fn only_tcp(
    proxy_protocol: Option<At<bool>>,
    protocols: &[Protocol],
) -> Result<(), Fault> {
    let mut addresses = protocols.iter().flat_map(|protocol| &protocol.addresses);
    let is_local = addresses.any(|address| matches!(address, Address::Local(_)));
    match proxy_protocol {
        Some(at) if at.value && is_local => Err(at
            .fault("is for TCP: a Unix socket needs a service of its own, without this parameter")),
        _ => Ok(()),
    }
}

pub(super) fn mechanisms(at: At<String>) -> Result<Vec<u64>, Fault> {
    at.value
        .split_ascii_whitespace()
        .map(|number| {
            let parsed = match number.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => number.parse(),
            };
            parsed.map_err(|_| at.fault("expected numbers such as 0x80000001, with blanks between"))
        })
        .collect()
}

#[cfg(test)]
mod tests;
