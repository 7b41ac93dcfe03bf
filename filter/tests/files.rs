//! Tests whole filter files: ours, and those that come with the original.

#[path = "../../tests/support/original.rs"]
mod original;

use std::path::{Path, PathBuf};

use filter::module_rules::ModuleRules;
use filter::{Compatibility, Rules};

/// A key that is in no sample.
const KEY: &str = "\nwrapping_format_key = \"0f1e2d3c4b5a69788796a5b4c3d2e1f0\"\n";

fn etc(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../etc")
        .join(name)
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn parse(text: &str, switches: &str) -> Result<Rules, String> {
    let switches = Compatibility::parse(switches).unwrap();
    Rules::parse(text.as_bytes(), Path::new("f"), &switches).map_err(|error| error.to_string())
}

#[test]
fn our_sample_changes_no_call() {
    let rules = Rules::load(&etc("filter.conf"), &Compatibility::default()).unwrap();
    assert_eq!(rules.warnings, [""; 0]);
    assert!(ModuleRules::new(&rules, b"softhsm").is_empty());
}

/// Each option is commented out with an example at the end of its explanation.
#[test]
fn the_examples_in_our_sample_can_be_used() {
    let sample = read(&etc("filter.conf"));
    let examples: Vec<&str> = sample
        .lines()
        .filter_map(|line| line.strip_prefix("(* ")?.strip_suffix(" *)"))
        .filter(|example| example.contains(" = ") && !example.starts_with("wrapping"))
        .collect();
    assert_eq!(examples.len(), 10, "{examples:?}");
    let modules = "modules = [(softhsm, a), (other, b)]\n";
    let rules = parse(&format!("{modules}{}", examples.join("\n")), "").unwrap();
    assert_eq!(rules.warnings, [""; 0]);
    assert!(ModuleRules::new(&rules, b"softhsm").read_only.is_some());
}

#[test]
fn the_strict_rules_load_without_warnings_once_they_have_a_key() {
    let strict = read(&etc("filter-strict.conf"));
    assert!(
        parse(&strict, "")
            .unwrap_err()
            .contains("wrapping_format_key: expected 32")
    );
    let rules = parse(&format!("{strict}{KEY}"), "").unwrap();
    assert_eq!(rules.warnings, [""; 0]);
    let applying = ModuleRules::new(&rules, b"softhsm");
    assert!(applying.no_admin.is_some() && applying.padding.len() == 5);
    assert_eq!(applying.requirements.len(), 7);
}

/// The file comes from the package caml-crush-server, which the tests need anyway.
#[test]
fn debians_file_loads_once_it_has_a_key() {
    let text = original::configuration("filter.conf");
    assert!(
        parse(&text, "")
            .unwrap_err()
            .contains("wrapping_format_key: expected 32")
    );
    let rules = parse(&format!("{text}{KEY}"), "").unwrap();
    assert_eq!(rules.warnings, [""; 0]);
    let softhsm = ModuleRules::new(&rules, b"softhsm");
    assert!(softhsm.forbids(xdr::MechanismType(3)).is_some() && softhsm.post.len() > 15);
    assert!(
        ModuleRules::new(&rules, b"opencryptoki")
            .forbids(xdr::MechanismType(3))
            .is_none()
    );

    // Uses patch set 2, which the file has in comments, instead of 1, and the sample's key.
    let (one, two) = text
        .split_once("(**** Fixing PKCS#11 with patchset 2")
        .unwrap();
    let (head, _) = one.split_once("filter_actions_post").unwrap();
    let (_, chain) = two.split_once("filter_actions_post").unwrap();
    let (chain, _) = chain.rsplit_once("*)").unwrap();
    let sample = "wrapping_format_key = \"00112233445566778899aabbccddeeff\"";
    let rules = parse(&format!("{head}filter_actions_post{chain}\n{sample}"), "").unwrap();
    let softhsm = ModuleRules::new(&rules, b"softhsm");
    assert!(
        softhsm
            .post
            .values()
            .flatten()
            .any(|step| step.name == "secure_templates_patch")
    );
    assert!(
        rules.warnings[0].contains("has no effect"),
        "{:?}",
        rules.warnings
    );
}

/// Has every option in the style of the original's documentation.
#[test]
fn a_file_in_the_style_of_the_originals_documentation_loads() {
    let text = r#"
        debug = 3
        log_subchannel = mine
        modules = [ ("softhsm", "/usr/lib/libsofthsm.so"),
                    ("opencryptoki", "/usr/lib/libopencryptoki.so") ]
        allowed_labels = [ ("\\(softh.*\\|opencryptoki\\)", ["WEB.*", "EXACT"]),
                           ("softhsm", [".*SUFFIX", "pre.*"]) ]
        allowed_ids = [ ("softhsm.*", ["0123.*"]) ]
        forbidden_mechanisms = [ ("sof.*", [CKM_RSA_PKCS; CKM_MD5_RSA_PKCS]), ("softhsm", [CKM_DES_ECB]) ]
        remove_padding_oracles = [ (".*", [wrap, unwrap, encrypt]), ("softhsm", [sign]) ]
        forbidden_functions  = [ ("soft.*", [C_Login, C_Logout]), ("softhsm", [C_Sign]) ]
        enforce_ro_sessions  = [ ("soft.*", no), ("opencryptoki", yes) ]
        forbid_admin_operations = [ (".*", yes) ]
        filter_actions_pre = [ (".*", [(C_Login, c_Login_hook), (C_Initialize, c_Initialize_hook)]),
                               ("soft.*", [(C_CloseSession, identity)]) ]
    "#;
    let rules = parse(text, "").unwrap();
    assert_eq!(rules.warnings, [""; 0]);
    let [softhsm, other] =
        [b"softhsm".as_slice(), b"opencryptoki"].map(|n| ModuleRules::new(&rules, n));
    assert!(softhsm.labels.as_ref().unwrap().allows(b"pretty"));
    assert!(!other.labels.as_ref().unwrap().allows(b"pretty"));
    assert!(softhsm.read_only.is_none() && other.read_only.is_some());
    assert_eq!((softhsm.padding.len(), other.padding.len()), (4, 3));
    assert_eq!((softhsm.pre.len(), other.pre.len()), (4, 3));
    // The documentation also has two names that no version knows.
    for (obsolete, hint) in [
        ("log_subchanel = x", "did you mean `log_subchannel`?"),
        (
            "filter_actions = []",
            "did you mean `filter_actions_pre` or `filter_actions_post`?",
        ),
    ] {
        let text = format!("modules = [(m, n)] {obsolete}");
        assert!(parse(&text, "").unwrap_err().contains(hint));
        assert!(parse(&text, "unknown-options").unwrap().warnings[0].contains(hint));
    }
}

#[test]
fn the_rules_of_a_module_can_be_read() {
    let text = "modules = [(m, n)]\nforbidden_functions = [(m,\n[C_Sign])]\n\
                forbidden_mechanisms = [(m, [3, \"0x80000001\"])]\nallowed_labels = [(m, [\"a\\nb\"])]\n\
                allowed_ids = [(m, [])] enforce_ro_sessions = [(m, yes)]\n\
                forbid_admin_operations = [(m, yes)] remove_padding_oracles = [(m, [wrap])]\n\
                filter_actions_pre = [(m, [(C_Login, identity)])]";
    let rules = parse(text, "").unwrap();
    let expected = "    f:3: forbidden_functions: C_Sign is refused
    f:3: forbidden_functions: C_SignMessage is refused
    f:4: forbidden_mechanisms: cKM_RSA_X_509 is refused
    f:4: forbidden_mechanisms: cKM_UNKNOWN! (0x80000001) is refused
    f:5: allowed_labels: objects need CKA_LABEL to match 'a\\x0ab'
    f:6: allowed_ids: no object can be used
    f:6: enforce_ro_sessions: sessions are read-only
    f:7: forbid_admin_operations: C_Login and C_LoginUser as SO or context-specific, C_InitToken, C_InitPIN are refused
    f:7: remove_padding_oracles: mechanisms with a padding oracle are refused for wrap
    f:8: filter_actions_pre: C_Login runs identity
    f:8: filter_actions_pre: C_LoginUser runs identity
";
    assert_eq!(ModuleRules::new(&rules, b"m").to_string(), expected);
    assert_eq!(
        ModuleRules::new(&rules, b"x").to_string(),
        "    no rule: all calls pass\n"
    );
}

/// If a file is changed at random, it is either read to its end or refused with a line, never cut short: what comes
/// after the change is read, or what comes before is wrong.
#[test]
fn a_changed_file_is_never_cut_short() {
    const PIECES: [&str; 20] = [
        "(*", "*)", "\"", ";", ",", "(", ")", "[", "]", "{", "}", "=", "\\", "'", "#", "7", "-",
        "1.5", "\0", "\u{e9}",
    ];
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut below = move |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % end
    };
    let shipped = original::configuration("filter.conf") + KEY;
    let originals = [shipped, read(&etc("filter.conf"))];
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..600 {
        let mut text = originals[round % 2].clone().into_bytes();
        let at = below(text.len());
        match below(4) {
            0 => drop(text.remove(at)),
            1 => drop(text.splice(at..at, PIECES[below(PIECES.len())].bytes())),
            2 => drop(text.drain(at..(at + below(40)).min(text.len() - 1).max(at))),
            _ => text[at] = below(256) as u8,
        }
        let load = |text: &[u8]| Rules::parse(text, Path::new("f"), &Compatibility::default());
        match load(&text) {
            Ok(_) => accepted += 1,
            Err(error) => {
                refused += 1;
                let error = error.to_string();
                let line = error.split(':').nth(1).map(str::parse::<usize>);
                assert!(
                    error.starts_with("f:") && matches!(line, Some(Ok(1..))),
                    "{error}"
                );
            }
        }
        text.extend_from_slice(b"\nno_option = 1\n");
        assert!(
            load(&text).is_err(),
            "cut short:\n{}",
            String::from_utf8_lossy(&text)
        );
    }
    assert!(accepted > 50 && refused > 50, "{accepted} {refused}");
}
