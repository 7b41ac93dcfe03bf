//! Translates GnuTLS priority strings (`tls.algorithms`) for OpenSSL.
//!
//! The result goes to `builder`, as lists of OpenSSL's names. A string may name algorithms that GnuTLS knows but that
//! we never offer: TLS 1.1 and older, static RSA, DSS, anonymous key exchange, obsolete ciphers. Adding one of them
//! explicitly causes a warning. A name that GnuTLS does not know is an error, as in the original.

mod tables;

use tables::*;

/// What a priority string selects.
#[derive(Clone, Debug, PartialEq)]
pub struct Priority {
    /// TLS 1.2 is offered.
    pub tls12: bool,
    /// TLS 1.3 is offered.
    pub tls13: bool,
    /// OpenSSL's names of the suites of TLS 1.2, best first, separated by colons; may be empty.
    pub suites12: String,
    /// The same for TLS 1.3.
    pub suites13: String,
    /// OpenSSL's names of the groups; may be empty if only suites of TLS 1.2 are offered, which need none.
    pub groups: String,
    /// OpenSSL's names of the signature algorithms; `None` if all of them are accepted.
    pub signatures: Option<String>,
    /// The OpenSSL security level that clients' certificates must have.
    pub strength: u32,
    /// Warnings about parts of the string that are not followed exactly.
    pub warnings: Vec<String>,
}

/// The string that applies if a `tls` section has no `algorithms`: the original's default without its `-VERS-TLS1.3`,
/// because TLS 1.3 works here.
pub const DEFAULT: &str = "NORMAL";

/// One kind of algorithm that a string selects from, best first.
struct Selected {
    known: Vec<&'static str>,
    old: Names,
    chosen: Vec<&'static str>,
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Add,
    Remove,
}

impl Selected {
    fn new(known: impl IntoIterator<Item = &'static str>, old: Names, chosen: Names) -> Selected {
        let (known, chosen) = (known.into_iter().collect(), chosen.to_vec());
        Selected { known, old, chosen }
    }

    fn add(&mut self, name: &'static str) {
        if !self.chosen.contains(&name) {
            self.chosen.push(name);
        }
    }

    fn add_all(&mut self) {
        for name in self.known.clone() {
            self.add(name);
        }
    }

    fn change(&mut self, change: Change, name: &str) -> Known {
        if let Some(name) = self.known.iter().copied().find(|known| *known == name) {
            match change {
                Change::Add => self.add(name),
                Change::Remove => self.chosen.retain(|chosen| *chosen != name),
            }
            return Known::Yes;
        }
        match self.old.contains(&name) {
            true if change == Change::Add => Known::NotOffered,
            true => Known::Yes,
            false => Known::No,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Known {
    Yes,
    NotOffered,
    No,
}

/// The state of the selection while a string is parsed.
struct State {
    versions: Selected,
    exchanges: Selected,
    ciphers: Selected,
    macs: Selected,
    groups: Selected,
    signatures: Selected,
    signatures_named: bool,
    strength: Option<u32>,
    without_cbc: bool,
    warnings: Vec<String>,
}

impl Priority {
    /// Reads a priority string; the error says what was expected.
    pub fn parse(text: &str) -> Result<Priority, String> {
        let upper = text.to_ascii_uppercase();
        let mut tokens = upper.split(':').map(str::trim_start).peekable();
        let first = tokens.peek().copied().unwrap_or_default();
        let base = match level(first).or_else(|| (first == NONE.name).then_some(&NONE)) {
            Some(level) => {
                tokens.next();
                level
            }
            None if first.starts_with(['+', '-', '!', '%']) => &UNSAID,
            None => {
                let names: Vec<_> = LEVELS.iter().map(|level| level.name).collect();
                return Err(format!(
                    "expected one of {}, NONE first, found `{first}`",
                    names.join(", ")
                ));
            }
        };
        let mut state = State::new(base);
        for token in tokens {
            state.modify(token)?;
        }
        state.finish()
    }
}

fn level(name: &str) -> Option<&'static Level> {
    LEVELS.iter().find(|level| level.name == name)
}

impl State {
    fn new(level: &Level) -> State {
        let group_names = GROUPS.iter().map(|(name, _)| *name);
        let signature_names = SIGNATURES.iter().map(|(name, _)| *name);
        let mut signatures = Selected::new(signature_names, OLD_SIGNATURES, &[]);
        signatures.chosen.extend(level.signatures.names());
        State {
            versions: Selected::new(VERSIONS.iter().copied(), OLD_VERSIONS, level.versions),
            exchanges: Selected::new(EXCHANGES.iter().copied(), OLD_EXCHANGES, level.exchanges),
            ciphers: Selected::new(CIPHERS.iter().copied(), OLD_CIPHERS, level.ciphers),
            macs: Selected::new(MACS.iter().copied(), OLD_MACS, level.macs),
            groups: Selected::new(group_names, OLD_GROUPS, level.groups),
            signatures,
            signatures_named: false,
            strength: level.strength,
            without_cbc: false,
            warnings: Vec::new(),
        }
    }

    fn modify(&mut self, token: &str) -> Result<(), String> {
        let unknown = || Err(format!("`{token}` is unknown to GnuTLS 3.7"));
        if let Some(option) = token.strip_prefix('%') {
            if REFUSED.contains(&option) {
                self.warnings.push(format!(
                    "%{option} has no effect: it would weaken connections"
                ));
            } else if let Some(name) = option.strip_prefix("PROFILE_") {
                let Some((_, strength)) = PROFILES.iter().find(|(profile, _)| *profile == name)
                else {
                    return unknown();
                };
                self.strength = Some(*strength);
            } else if option == "FORCE_ETM" {
                self.without_cbc = true;
                self.warnings
                    .push("%FORCE_ETM excludes all CBC suites".into());
            } else if !NO_EFFECT.contains(&option) {
                return unknown();
            }
            return Ok(());
        }
        if let Some(level) = level(token) {
            self.add_level(level);
            return Ok(());
        }
        let (change, name) = match token.split_at_checked(1) {
            Some(("+", name)) => (Change::Add, name),
            Some(("-" | "!", name)) => (Change::Remove, name),
            _ => return unknown(),
        };
        if let Some(level) = level(name).filter(|_| change == Change::Add) {
            self.add_level(level);
            return Ok(());
        }
        match self.named(change, name) {
            Known::Yes => Ok(()),
            Known::NotOffered => {
                self.warnings
                    .push(format!("{name} is not offered, because it is obsolete"));
                Ok(())
            }
            Known::No => unknown(),
        }
    }

    /// Adds the algorithms of a keyword. As in GnuTLS, the versions do not change.
    fn add_level(&mut self, level: &Level) {
        for (selected, names) in [
            (&mut self.exchanges, level.exchanges),
            (&mut self.ciphers, level.ciphers),
            (&mut self.macs, level.macs),
            (&mut self.groups, level.groups),
        ] {
            for name in names {
                selected.add(name);
            }
        }
        for name in level.signatures.names() {
            self.signatures.add(name);
        }
        // The weakest keyword counts, until a profile is named.
        self.strength = [self.strength, level.strength].into_iter().flatten().min();
    }

    fn named(&mut self, change: Change, name: &str) -> Known {
        let finite = match name {
            "GROUP-DH-ALL" => Some(true),
            "GROUP-EC-ALL" => Some(false),
            _ => None,
        };
        if let Some(finite) = finite {
            for (name, _) in GROUPS.iter().filter(|(name, _)| is_finite(name) == finite) {
                self.groups.change(change, name);
            }
            return Known::Yes;
        }
        if let Some(every) = self.wildcard(name) {
            match (every, change) {
                (Some(selected), Change::Add) => selected.add_all(),
                (Some(selected), Change::Remove) => selected.chosen.clear(),
                (None, _) => {}
            }
            self.signatures_named |= name == "SIGN-ALL";
            return Known::Yes;
        }
        if let Some(name) = name
            .strip_prefix("GROUP-")
            .or_else(|| name.strip_prefix("CURVE-"))
        {
            return self.groups.change(change, name);
        }
        if let Some(name) = name.strip_prefix("SIGN-") {
            self.signatures_named = true;
            return self.signatures.change(change, name);
        }
        for selected in [
            &mut self.versions,
            &mut self.exchanges,
            &mut self.ciphers,
            &mut self.macs,
        ] {
            match selected.change(change, name) {
                Known::No => {}
                known => return known,
            }
        }
        Known::No
    }

    /// Returns what a wildcard selects from. `None` if the name is not a wildcard, `Some(None)` if it is a wildcard of
    /// something that cannot be selected here.
    fn wildcard(&mut self, name: &str) -> Option<Option<&mut Selected>> {
        Some(match name {
            "VERS-ALL" | "VERS-TLS-ALL" => Some(&mut self.versions),
            "KX-ALL" => Some(&mut self.exchanges),
            "CIPHER-ALL" => Some(&mut self.ciphers),
            "MAC-ALL" => Some(&mut self.macs),
            "GROUP-ALL" | "CURVE-ALL" => Some(&mut self.groups),
            "SIGN-ALL" => Some(&mut self.signatures),
            "VERS-DTLS-ALL" | "COMP-ALL" | "COMP-NULL" | "COMP-DEFLATE" | "KX-GOST-ALL"
            | "CIPHER-GOST-ALL" | "MAC-GOST-ALL" | "GROUP-GOST-ALL" | "SIGN-GOST-ALL"
            | "CTYPE-ALL" | "CTYPE-X509" | "CTYPE-X.509" | "CTYPE-OPENPGP" | "CTYPE-SRV-ALL"
            | "CTYPE-CLI-ALL" | "CTYPE-SRV-X509" | "CTYPE-CLI-X509" => None,
            _ => return None,
        })
    }

    fn finish(mut self) -> Result<Priority, String> {
        let has = |version| self.versions.chosen.contains(&version);
        if self.without_cbc {
            self.ciphers.chosen.retain(|name| !name.ends_with("-CBC"));
        }
        if self.groups.chosen.iter().all(|name| is_finite(name)) {
            self.exchanges
                .chosen
                .retain(|name| !name.starts_with("ECDHE"));
        }
        let mut suites12 = Vec::new();
        for exchange in &self.exchanges.chosen {
            for cipher in &self.ciphers.chosen {
                for (of, mac, name, exchanges) in SUITES {
                    let mac = self.macs.chosen.contains(mac);
                    if of == cipher && mac && exchanges.contains(exchange) {
                        suites12.push(format!("{exchange}-{name}"));
                    }
                }
            }
        }
        let mut suites13: Vec<&str> = named(SUITES13, &self.ciphers.chosen);
        if !self.macs.chosen.contains(&"AEAD") {
            suites13.clear();
        }
        let tls12 = has(TLS12) && !suites12.is_empty();
        let groups = named(GROUPS, &self.groups.chosen);
        let tls13 = has(TLS13) && !suites13.is_empty() && !groups.is_empty();
        let mut signatures = named(SIGNATURES, &self.signatures.chosen);
        signatures.dedup();
        let chooses = !signatures.is_empty() && self.signatures.chosen.len() < SIGNATURES.len();
        if !tls12 && !tls13 {
            return Err(
                "selects no suite of TLS 1.2 or TLS 1.3: write algorithms = \"NORMAL\"".into(),
            );
        }
        if self.signatures_named && signatures.is_empty() {
            return Err("selects no signature algorithm".into());
        }
        Ok(Priority {
            tls12,
            tls13,
            suites12: suites12.join(":"),
            suites13: suites13.join(":"),
            groups: groups.join(":"),
            signatures: chooses.then(|| signatures.join(":")),
            strength: self.strength.unwrap_or(MEDIUM),
            warnings: self.warnings,
        })
    }
}

/// Whether a group is a finite field, not a curve.
fn is_finite(group: &str) -> bool {
    group.starts_with("FFDHE")
}

/// Returns the second column of the rows whose first column is chosen, in the order of `chosen`.
fn named(table: &[(&str, &'static str)], chosen: &[&str]) -> Vec<&'static str> {
    let row = |name| {
        table
            .iter()
            .find(|(of, _)| *of == name)
            .map(|(_, name)| *name)
    };
    chosen.iter().filter_map(|name| row(*name)).collect()
}

#[cfg(test)]
mod tests;
