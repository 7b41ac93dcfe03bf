//! Lists the names that GnuTLS 3.7.9 knows in priority strings, and OpenSSL's names for them.
//!
//! A test compares them with `gnutls-cli --list --priority`.

pub(super) type Names = &'static [&'static str];

pub(super) const TLS12: &str = "VERS-TLS1.2";
pub(super) const TLS13: &str = "VERS-TLS1.3";
pub(super) const VERSIONS: Names = &[TLS13, TLS12];
pub(super) const OLD_VERSIONS: Names = &[
    "VERS-TLS1.1",
    "VERS-TLS1.0",
    "VERS-SSL3.0",
    "VERS-DTLS1.2",
    "VERS-DTLS1.0",
    "VERS-DTLS0.9",
];

pub(super) const EXCHANGES: Names = &["ECDHE-ECDSA", "ECDHE-RSA", "DHE-RSA"];
pub(super) const OLD_EXCHANGES: Names = &[
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

pub(super) const CIPHERS: Names = &[
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
pub(super) const OLD_CIPHERS: Names = &[
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

pub(super) const MACS: Names = &["SHA1", "AEAD", "SHA256", "SHA384"];
pub(super) const OLD_MACS: Names = &[
    "MD5",
    "SHA512",
    "UMAC-96",
    "UMAC-128",
    "GOST28147-TC26Z-IMIT",
];

/// Groups: GnuTLS's name and OpenSSL's name.
pub(super) const GROUPS: &[(&str, &str)] = &[
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
pub(super) const OLD_GROUPS: Names = &["SECP224R1", "SECP192R1"];

/// Signature algorithms: GnuTLS's name and OpenSSL's name.
pub(super) const SIGNATURES: &[(&str, &str)] = &[
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
pub(super) const OLD_SIGNATURES: Names = &[
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

/// Options without effect: they ask for what is the case anyway, or for something that our clients do not use.
pub(super) const NO_EFFECT: Names = &[
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
pub(super) const REFUSED: Names = &[
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

/// OpenSSL's security level 2, 112 bits: the lowest that clients may have.
pub(super) const MEDIUM: u32 = 2;

/// Security level 3, 128 bits.
pub(super) const HIGH: u32 = 3;

/// Each `%PROFILE_...` and its security level: the lowest one with at least as many bits, but at least [`MEDIUM`].
pub(super) const PROFILES: &[(&str, u32)] = &[
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

/// The algorithms that an initial keyword stands for, without static `RSA` and TLS 1.1 and older.
pub(super) struct Level {
    pub(super) name: &'static str,
    pub(super) versions: Names,
    pub(super) exchanges: Names,
    pub(super) ciphers: Names,
    pub(super) macs: Names,
    pub(super) groups: Names,
    pub(super) signatures: Signatures,
    /// None if the keyword does not set it.
    pub(super) strength: Option<u32>,
}

#[derive(Clone, Copy)]
pub(super) enum Signatures {
    Every,
    /// Those whose names have one of these ends.
    Ending(Names),
    Only(Names),
}

pub(super) const EVERY_GROUP: Names = &[
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
pub(super) const STRONG_SIGNATURES: Signatures = Signatures::Ending(&["SHA384", "SHA512", "ED448"]);
pub(super) const STRONG_GROUPS: Names = &["SECP384R1", "SECP521R1", "FFDHE8192"];
pub(super) const NORMAL_CIPHERS: Names = &[
    "AES-256-GCM",
    "CHACHA20-POLY1305",
    "AES-256-CCM",
    "AES-256-CBC",
    "AES-128-GCM",
    "AES-128-CCM",
    "AES-128-CBC",
];
pub(super) const STRONG_CIPHERS: Names = &[
    "AES-256-GCM",
    "CHACHA20-POLY1305",
    "AES-256-CBC",
    "AES-256-CCM",
];

pub(super) const NORMAL: Level = Level {
    name: "NORMAL",
    versions: VERSIONS,
    exchanges: EXCHANGES,
    ciphers: NORMAL_CIPHERS,
    macs: &["SHA1", "AEAD"],
    groups: EVERY_GROUP,
    signatures: Signatures::Every,
    strength: Some(MEDIUM),
};

pub(super) const SECURE128: Level = Level {
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

/// The initial selection of a string without an initial keyword: only the versions.
pub(super) const UNSAID: Level = Level {
    name: "",
    exchanges: &[],
    ciphers: &[],
    macs: &[],
    groups: &[],
    signatures: Signatures::Only(&[]),
    strength: None,
    ..NORMAL
};

pub(super) const NONE: Level = Level {
    name: "NONE",
    versions: &[],
    ..UNSAID
};

pub(super) const LEVELS: &[Level] = &[
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

/// Suites of TLS 1.2: cipher, MAC, OpenSSL's name without the key exchange, and the key exchanges that exist.
pub(super) const SUITES: &[(&str, &str, &str, Names)] = &[
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

/// Suites of TLS 1.3: cipher and OpenSSL's name.
pub(super) const SUITES13: &[(&str, &str)] = &[
    ("AES-256-GCM", "TLS_AES_256_GCM_SHA384"),
    ("CHACHA20-POLY1305", "TLS_CHACHA20_POLY1305_SHA256"),
    ("AES-128-GCM", "TLS_AES_128_GCM_SHA256"),
    ("AES-128-CCM", "TLS_AES_128_CCM_SHA256"),
    ("AES-128-CCM-8", "TLS_AES_128_CCM_8_SHA256"),
];

impl Signatures {
    /// Their names, in the order of [`SIGNATURES`].
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let names = SIGNATURES.iter().map(|(name, _)| *name);
        names.filter(move |name| match self {
            Signatures::Every => true,
            Signatures::Ending(ends) => ends.iter().any(|end| name.ends_with(end)),
            Signatures::Only(only) => only.contains(name),
        })
    }
}
