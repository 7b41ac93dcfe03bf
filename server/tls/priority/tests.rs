//! Tests that priority strings select the same as in GnuTLS 3.7.9.

use super::*;

fn parsed(text: &str) -> Priority {
    Priority::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The string of the original's pkcs11proxyd.conf; `gnutls-cli --list` of GnuTLS 3.7.9 shows what it selects.
#[test]
fn the_shipped_string_means_what_gnutls_makes_of_it() {
    let shipped = parsed(
        "SECURE256:+SECURE128:-VERS-TLS-ALL:+VERS-TLS1.2:-RSA:-DHE-DSS:-CAMELLIA-128-CBC:-CAMELLIA-256-CBC",
    );
    assert!(shipped.tls12 && !shipped.tls13);
    assert_eq!(
        shipped.suites12,
        "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-SHA:\
         ECDHE-ECDSA-AES256-CCM:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA:\
         ECDHE-ECDSA-AES128-CCM:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305:\
         ECDHE-RSA-AES256-SHA:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA:\
         DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES256-SHA:\
         DHE-RSA-AES256-CCM:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-SHA:DHE-RSA-AES128-CCM"
    );
    assert_eq!(shipped.warnings, [""; 0]);
    assert_eq!((shipped.signatures, shipped.strength), (None, MEDIUM));
    assert!(
        shipped
            .groups
            .starts_with("P-384:P-521:ffdhe8192:P-256:X25519")
    );
}

#[test]
fn versions_follow_the_string() {
    for (text, expected) in [
        ("NORMAL", (true, true)),
        ("normal:-vers-tls1.3", (true, false)),
        ("NORMAL:-VERS-ALL:+VERS-TLS1.3", (false, true)),
        ("NONE:+VERS-TLS1.2:+NORMAL", (true, false)),
        ("SUITEB192", (true, false)),
        ("NORMAL:-KX-ALL", (false, true)),
    ] {
        let priority = parsed(text);
        assert_eq!((priority.tls12, priority.tls13), expected, "{text}");
    }
}

#[test]
fn names_are_added_and_removed() {
    let without = parsed("NORMAL:!AES-256-CBC:-AES-128-CBC:-CHACHA20-POLY1305:-DHE-RSA");
    assert!(!without.suites12.contains("SHA:") && !without.suites12.contains("CHACHA20"));
    assert!(!without.suites13.contains("CHACHA20"));
    assert!(!without.suites12.contains(":DHE-RSA"));
    assert!(
        parsed("NORMAL:+SHA384")
            .suites12
            .contains("ECDHE-RSA-AES256-SHA384")
    );
    assert_eq!(
        parsed("NORMAL:-GROUP-ALL:+GROUP-X25519:+CURVE-SECP256R1").groups,
        "X25519:P-256"
    );
    let signatures = parsed("NORMAL:-SIGN-ALL:+SIGN-ECDSA-SHA256:+SIGN-EDDSA-ED25519");
    assert_eq!(signatures.signatures.unwrap(), "ECDSA+SHA256:ed25519");
    assert!(
        parsed("NORMAL:%SERVER_PRECEDENCE:%PROFILE_MEDIUM")
            .warnings
            .is_empty()
    );
}

#[test]
fn keywords_and_profiles_say_how_strong_certificates_have_to_be() {
    for (text, expected) in [
        ("NORMAL", 2),
        ("SECURE256", 3),
        ("SECURE192:+SECURE128", 2),
        ("NONE:+VERS-TLS1.2:+SECURE256", 3),
        ("SUITEB192", 4),
        ("NORMAL:%PROFILE_LOW", 2),
        ("NORMAL:%PROFILE_HIGH", 3),
        ("NORMAL:%PROFILE_ULTRA", 4),
        ("NORMAL:%PROFILE_FUTURE:+SECURE256", 3),
    ] {
        assert_eq!(parsed(text).strength, expected, "{text}");
    }
    let strong = parsed("SECURE256").signatures.unwrap();
    assert!(
        strong.starts_with("RSA+SHA384:") && !strong.contains("256"),
        "{strong}"
    );
    assert_eq!(parsed("SUITEB192").signatures.unwrap(), "ECDSA+SHA384");
}

#[test]
fn all_that_gnutls_takes_is_taken() {
    let normal = parsed("NORMAL");
    for text in [
        "+NORMAL",
        " NORMAL",
        "%COMPAT:NORMAL",
        "-RSA:NORMAL",
        "NORMAL: -RSA",
        "NORMAL:NORMAL",
        "NORMAL:-CIPHER-GOST-ALL",
        "NORMAL:+GROUP-DH-ALL:%DISABLE_WILDCARDS",
    ] {
        assert_eq!(parsed(text), normal, "{text}");
    }
    assert_eq!(
        parsed("SECURE"),
        parsed("SECURE128"),
        "one name for the other"
    );
    let finite = parsed("NORMAL:-GROUP-EC-ALL");
    assert!(finite.groups.starts_with("ffdhe2048") && finite.tls13);
    assert!(finite.suites12.starts_with("DHE-RSA-AES256-GCM"));
    let without = parsed("NORMAL:-CURVE-ALL");
    assert_eq!((without.groups.as_str(), without.tls13), ("", false));
    assert!(!without.suites12.contains("ECDHE") && without.tls12);
    let authenticated = parsed("NORMAL:%FORCE_ETM");
    assert!(!authenticated.suites12.contains("-SHA:") && authenticated.warnings.len() == 1);
}

#[test]
fn what_is_out_of_use_is_never_offered() {
    for name in [
        "RSA",
        "VERS-TLS1.0",
        "3DES-CBC",
        "ANON-ECDH",
        "SIGN-RSA-SHA1",
    ] {
        let priority = parsed(&format!("NORMAL:+{name}"));
        assert_eq!(priority.warnings.len(), 1, "{name}");
        assert_eq!(priority.suites12, parsed("NORMAL").suites12, "{name}");
        assert!(parsed(&format!("NORMAL:-{name}")).warnings.is_empty());
    }
    assert_eq!(parsed("NORMAL:%UNSAFE_RENEGOTIATION").warnings.len(), 1);
}

#[test]
fn what_gnutls_does_not_know_is_an_error() {
    for text in [
        "HIGH",
        "",
        "NORMAL:",
        "NORMAL:-FOO",
        "NORMAL:RSA",
        "NORMAL:%FOO",
        "NORMAL:+GROUP-X",
        "SYSTEM",
        "@SYSTEM",
        "NORMAL:-NORMAL",
        "NORMAL:NONE",
        "NORMAL:%PROFILE_FOO",
        "NORMAL :-RSA",
        "NORMAL:+\u{e4}",
        "NORMAL:\u{e4}",
    ] {
        assert!(Priority::parse(text).is_err(), "{text}");
    }
    for text in [
        "NONE",
        "NORMAL:-VERS-ALL",
        "NORMAL:-CIPHER-ALL",
        "NORMAL:-VERS-TLS1.2:-VERS-TLS1.3",
        "NORMAL:-GROUP-ALL:-DHE-RSA",
        "+AES-128-GCM",
    ] {
        assert!(
            Priority::parse(text).unwrap_err().contains("no suite"),
            "{text}"
        );
    }
}
