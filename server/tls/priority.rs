//! GnuTLS priority strings (`tls.algorithms`), translated for OpenSSL.
//!
//! The text of one option comes in; lists in OpenSSL's names go out to `acceptor`. The tables are
//! those of GnuTLS 3.7.9 (`gnutls-cli --list --priority`), which a test compares. What it knows and
//! we never offer, TLS 1.1 and older, static RSA, DSS, anonymous key exchange, ciphers out of use,
//! may be named; adding it explicitly is a warning. Anything else is an error, as in the original.

/// What a priority string selects.
#[derive(Clone, Debug, PartialEq)]
pub struct Priority {
    /// TLS 1.2 is offered.
    pub tls12: bool,
    /// TLS 1.3 is offered.
    pub tls13: bool,
    /// OpenSSL's names of the suites of TLS 1.2, best first, with colons between; may be empty.
    pub suites12: String,
    /// The same for TLS 1.3.
    pub suites13: String,
    /// OpenSSL's names of the groups; may be empty, with suites of TLS 1.2 that need none.
    pub groups: String,
    /// OpenSSL's names of the signature algorithms, if they are not all that there are.
    pub signatures: Option<String>,
    /// How strong the certificates of clients have to be, as an OpenSSL security level.
    pub strength: u32,
    /// What was asked for and is not offered.
    pub warnings: Vec<String>,
}

/// What applies when a `tls` section has no `algorithms`: the original's default but for its
/// `-VERS-TLS1.3`, as TLS 1.3 works here.
pub const DEFAULT: &str = "NORMAL";

type Names = &'static [&'static str];

const TLS12: &str = "VERS-TLS1.2";
const TLS13: &str = "VERS-TLS1.3";
const VERSIONS: Names = &[TLS13, TLS12];
const OLD_VERSIONS: Names = &[
    "VERS-TLS1.1",
    "VERS-TLS1.0",
    "VERS-SSL3.0",
    "VERS-DTLS1.2",
    "VERS-DTLS1.0",
    "VERS-DTLS0.9",
];

const EXCHANGES: Names = &["ECDHE-ECDSA", "ECDHE-RSA", "DHE-RSA"];
const OLD_EXCHANGES: Names = &[
    "RSA",
    "DHE-DSS",
    "ANON-DH",
    "ANON-ECDH",
    "PSK",
    "DHE-PSK",
    "ECDHE-PSK",
    "RSA-PSK",
    "SRP",
    "SRP-RSA",
    "SRP-DSS",
    "RSA-EXPORT",
    "VKO-GOST-12",
];

const CIPHERS: Names = &[
    "AES-256-GCM",
    "CHACHA20-POLY1305",
    "AES-256-CCM",
    "AES-256-CBC",
    "AES-128-GCM",
    "AES-128-CCM",
    "AES-128-CBC",
    "AES-256-CCM-8",
    "AES-128-CCM-8",
];
const OLD_CIPHERS: Names = &[
    "AES-192-CBC",
    "CAMELLIA-256-GCM",
    "CAMELLIA-128-GCM",
    "CAMELLIA-256-CBC",
    "CAMELLIA-192-CBC",
    "CAMELLIA-128-CBC",
    "3DES-CBC",
    "DES-CBC",
    "ARCFOUR-128",
    "ARCFOUR-40",
    "RC2-40",
    "NULL",
    "CHACHA20-32",
    "CHACHA20-64",
    "SALSA20-256",
    "ESTREAM-SALSA20-256",
    "GOST28147-TC26Z-CNT",
];

const MACS: Names = &["SHA1", "AEAD", "SHA256", "SHA384"];
const OLD_MACS: Names = &[
    "MD5",
    "SHA512",
    "UMAC-96",
    "UMAC-128",
    "GOST28147-TC26Z-IMIT",
];

/// GnuTLS's name, OpenSSL's.
const GROUPS: &[(&str, &str)] = &[
    ("SECP256R1", "P-256"),
    ("SECP384R1", "P-384"),
    ("SECP521R1", "P-521"),
    ("X25519", "X25519"),
    ("X448", "X448"),
    ("FFDHE2048", "ffdhe2048"),
    ("FFDHE3072", "ffdhe3072"),
    ("FFDHE4096", "ffdhe4096"),
    ("FFDHE6144", "ffdhe6144"),
    ("FFDHE8192", "ffdhe8192"),
];
const OLD_GROUPS: Names = &["SECP224R1", "SECP192R1"];

/// GnuTLS's name, OpenSSL's.
const SIGNATURES: &[(&str, &str)] = &[
    ("RSA-SHA256", "RSA+SHA256"),
    ("RSA-PSS-SHA256", "rsa_pss_pss_sha256"),
    ("RSA-PSS-RSAE-SHA256", "rsa_pss_rsae_sha256"),
    ("ECDSA-SHA256", "ECDSA+SHA256"),
    ("ECDSA-SECP256R1-SHA256", "ECDSA+SHA256"),
    ("EDDSA-ED25519", "ed25519"),
    ("RSA-SHA384", "RSA+SHA384"),
    ("RSA-PSS-SHA384", "rsa_pss_pss_sha384"),
    ("RSA-PSS-RSAE-SHA384", "rsa_pss_rsae_sha384"),
    ("ECDSA-SHA384", "ECDSA+SHA384"),
    ("ECDSA-SECP384R1-SHA384", "ECDSA+SHA384"),
    ("EDDSA-ED448", "ed448"),
    ("RSA-SHA512", "RSA+SHA512"),
    ("RSA-PSS-SHA512", "rsa_pss_pss_sha512"),
    ("RSA-PSS-RSAE-SHA512", "rsa_pss_rsae_sha512"),
    ("ECDSA-SHA512", "ECDSA+SHA512"),
    ("ECDSA-SECP521R1-SHA512", "ECDSA+SHA512"),
];
const OLD_SIGNATURES: Names = &[
    "RSA-SHA1",
    "ECDSA-SHA1",
    "DSA-SHA1",
    "DSA-SHA224",
    "DSA-SHA256",
    "DSA-SHA384",
    "DSA-SHA512",
    "RSA-SHA224",
    "ECDSA-SHA224",
    "RSA-MD5",
];

/// Options that ask for what is so here anyway, or for what no client of ours meets.
const NO_EFFECT: Names = &[
    "COMPAT",
    "SERVER_PRECEDENCE",
    "SAFE_RENEGOTIATION",
    "PARTIAL_RENEGOTIATION",
    "NO_TICKETS",
    "NO_TICKETS_TLS12",
    "NO_STATUS_REQUEST",
    "NO_EXTENSIONS",
    "NO_SHUFFLE_EXTENSIONS",
    "DISABLE_TLS13_COMPAT_MODE",
    "FALLBACK_SCSV",
    "DUMBFW",
    "SSL3_RECORD_VERSION",
    "LATEST_RECORD_VERSION",
    "ALLOW_SMALL_RECORDS",
    "STATELESS_COMPRESSION",
    "FORCE_SESSION_HASH",
    "DISABLE_WILDCARDS",
];

/// Options that would weaken a connection.
const REFUSED: Names = &[
    "UNSAFE_RENEGOTIATION",
    "DISABLE_SAFE_RENEGOTIATION",
    "NO_ETM",
    "NO_SESSION_HASH",
    "VERIFY_ALLOW_SIGN_RSA_MD5",
    "VERIFY_ALLOW_SIGN_WITH_SHA1",
    "VERIFY_ALLOW_BROKEN",
    "VERIFY_ALLOW_X509_V1_CA_CRT",
    "VERIFY_DISABLE_CRL_CHECKS",
];

/// OpenSSL's security level 2, 112 bits: what is asked of clients at least.
const MEDIUM: u32 = 2;

/// Security level 3, 128 bits.
const HIGH: u32 = 3;

/// `%PROFILE_...` and the security level that has as many bits, or the next.
const PROFILES: &[(&str, u32)] = &[
    ("VERY_WEAK", MEDIUM),
    ("LOW", MEDIUM),
    ("LEGACY", MEDIUM),
    ("MEDIUM", MEDIUM),
    ("HIGH", HIGH),
    ("ULTRA", 4),
    ("FUTURE", 5),
    ("SUITEB128", HIGH),
    ("SUITEB192", 4),
];

/// What an initial keyword stands for. `RSA` and older versions are left out from the start.
struct Level {
    name: &'static str,
    versions: Names,
    exchanges: Names,
    ciphers: Names,
    macs: Names,
    groups: Names,
    signatures: Signatures,
    /// None where nothing is said of it.
    strength: Option<u32>,
}

#[derive(Clone, Copy)]
enum Signatures {
    Every,
    /// Those with these ends.
    Ending(Names),
    Only(Names),
}

const EVERY_GROUP: Names = &[
    "SECP256R1",
    "SECP384R1",
    "SECP521R1",
    "X25519",
    "X448",
    "FFDHE2048",
    "FFDHE3072",
    "FFDHE4096",
    "FFDHE6144",
    "FFDHE8192",
];
const STRONG_SIGNATURES: Signatures = Signatures::Ending(&["SHA384", "SHA512", "ED448"]);
const STRONG_GROUPS: Names = &["SECP384R1", "SECP521R1", "FFDHE8192"];
const NORMAL_CIPHERS: Names = &[
    "AES-256-GCM",
    "CHACHA20-POLY1305",
    "AES-256-CCM",
    "AES-256-CBC",
    "AES-128-GCM",
    "AES-128-CCM",
    "AES-128-CBC",
];
const STRONG_CIPHERS: Names = &[
    "AES-256-GCM",
    "CHACHA20-POLY1305",
    "AES-256-CBC",
    "AES-256-CCM",
];

const NORMAL: Level = Level {
    name: "NORMAL",
    versions: VERSIONS,
    exchanges: EXCHANGES,
    ciphers: NORMAL_CIPHERS,
    macs: &["SHA1", "AEAD"],
    groups: EVERY_GROUP,
    signatures: Signatures::Every,
    strength: Some(MEDIUM),
};

const SECURE128: Level = Level {
    name: "SECURE128",
    ciphers: &[
        "AES-256-GCM",
        "CHACHA20-POLY1305",
        "AES-256-CBC",
        "AES-256-CCM",
        "AES-128-GCM",
        "AES-128-CBC",
        "AES-128-CCM",
    ],
    ..NORMAL
};

/// What a string begins with that begins with no keyword: the versions alone.
const UNSAID: Level = Level {
    name: "",
    exchanges: &[],
    ciphers: &[],
    macs: &[],
    groups: &[],
    signatures: Signatures::Only(&[]),
    strength: None,
    ..NORMAL
};

const NONE: Level = Level {
    name: "NONE",
    versions: &[],
    ..UNSAID
};

const LEVELS: &[Level] = &[
    NORMAL,
    Level {
        name: "PFS",
        ..NORMAL
    },
    Level {
        name: "LEGACY",
        ..NORMAL
    },
    Level {
        name: "PERFORMANCE",
        ciphers: &[
            "AES-128-GCM",
            "AES-256-GCM",
            "CHACHA20-POLY1305",
            "AES-128-CCM",
            "AES-256-CCM",
            "AES-128-CBC",
            "AES-256-CBC",
        ],
        ..NORMAL
    },
    SECURE128,
    Level {
        name: "SECURE",
        ..SECURE128
    },
    Level {
        name: "SECURE192",
        ciphers: STRONG_CIPHERS,
        macs: &["AEAD"],
        groups: STRONG_GROUPS,
        signatures: STRONG_SIGNATURES,
        strength: Some(HIGH),
        ..NORMAL
    },
    Level {
        name: "SECURE256",
        ciphers: STRONG_CIPHERS,
        macs: &["AEAD"],
        groups: STRONG_GROUPS,
        signatures: STRONG_SIGNATURES,
        strength: Some(HIGH),
        ..NORMAL
    },
    Level {
        name: "SUITEB128",
        versions: &[TLS12],
        exchanges: &["ECDHE-ECDSA"],
        ciphers: &["AES-256-GCM", "AES-128-GCM"],
        macs: &["AEAD"],
        groups: &["SECP256R1", "SECP384R1"],
        signatures: Signatures::Only(&[
            "ECDSA-SHA256",
            "ECDSA-SECP256R1-SHA256",
            "ECDSA-SHA384",
            "ECDSA-SECP384R1-SHA384",
        ]),
        strength: Some(HIGH),
    },
    Level {
        name: "SUITEB192",
        versions: &[TLS12],
        exchanges: &["ECDHE-ECDSA"],
        ciphers: &["AES-256-GCM"],
        macs: &["AEAD"],
        groups: &["SECP384R1"],
        signatures: Signatures::Only(&["ECDSA-SHA384", "ECDSA-SECP384R1-SHA384"]),
        strength: Some(4),
    },
];

/// Cipher and MAC, OpenSSL's name behind that of the key exchange, and the key exchanges it has.
const SUITES: &[(&str, &str, &str, Names)] = &[
    ("AES-256-GCM", "AEAD", "AES256-GCM-SHA384", EXCHANGES),
    ("CHACHA20-POLY1305", "AEAD", "CHACHA20-POLY1305", EXCHANGES),
    (
        "AES-256-CCM",
        "AEAD",
        "AES256-CCM",
        &["ECDHE-ECDSA", "DHE-RSA"],
    ),
    (
        "AES-256-CCM-8",
        "AEAD",
        "AES256-CCM8",
        &["ECDHE-ECDSA", "DHE-RSA"],
    ),
    ("AES-256-CBC", "SHA1", "AES256-SHA", EXCHANGES),
    ("AES-256-CBC", "SHA256", "AES256-SHA256", &["DHE-RSA"]),
    (
        "AES-256-CBC",
        "SHA384",
        "AES256-SHA384",
        &["ECDHE-ECDSA", "ECDHE-RSA"],
    ),
    ("AES-128-GCM", "AEAD", "AES128-GCM-SHA256", EXCHANGES),
    (
        "AES-128-CCM",
        "AEAD",
        "AES128-CCM",
        &["ECDHE-ECDSA", "DHE-RSA"],
    ),
    (
        "AES-128-CCM-8",
        "AEAD",
        "AES128-CCM8",
        &["ECDHE-ECDSA", "DHE-RSA"],
    ),
    ("AES-128-CBC", "SHA1", "AES128-SHA", EXCHANGES),
    ("AES-128-CBC", "SHA256", "AES128-SHA256", EXCHANGES),
];

/// Cipher, OpenSSL's name.
const SUITES13: &[(&str, &str)] = &[
    ("AES-256-GCM", "TLS_AES_256_GCM_SHA384"),
    ("CHACHA20-POLY1305", "TLS_CHACHA20_POLY1305_SHA256"),
    ("AES-128-GCM", "TLS_AES_128_GCM_SHA256"),
    ("AES-128-CCM", "TLS_AES_128_CCM_SHA256"),
    ("AES-128-CCM-8", "TLS_AES_128_CCM_8_SHA256"),
];

/// One kind of thing a string selects from, best first.
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

/// A string on its way.
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

impl Signatures {
    fn names(self) -> impl Iterator<Item = &'static str> {
        let names = SIGNATURES.iter().map(|(name, _)| *name);
        names.filter(move |name| match self {
            Signatures::Every => true,
            Signatures::Ending(ends) => ends.iter().any(|end| name.ends_with(end)),
            Signatures::Only(only) => only.contains(name),
        })
    }
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
        let unknown = || Err(format!("`{token}` is nothing that GnuTLS 3.7 knows"));
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
                    .push("%FORCE_ETM leaves out all CBC suites".into());
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
                    .push(format!("{name} is not offered: it is out of use"));
                Ok(())
            }
            Known::No => unknown(),
        }
    }

    /// As in GnuTLS, versions stay what they are.
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
        // The weakest of them counts, until a profile is named.
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

    /// `None` if it is no wildcard, `Some(None)` if it is one of something that is not selected here.
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
            return Err("selects no suite of TLS 1.2 or TLS 1.3".into());
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

/// Whether a group is one of a finite field, not of a curve.
fn is_finite(group: &str) -> bool {
    group.starts_with("FFDHE")
}

/// The second halves of the rows whose first halves are chosen, in the order chosen.
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
