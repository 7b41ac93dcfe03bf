//! Tests which filter files are accepted, which are refused, and with which messages.

use super::options::OPTIONS;
use super::*;

fn rules(text: &str) -> Result<Rules, String> {
    with(text, "")
}

fn with(text: &str, switches: &str) -> Result<Rules, String> {
    let compatibility = Compatibility::parse(switches).unwrap();
    Rules::parse(text.as_bytes(), Path::new("filter.conf"), &compatibility)
        .map_err(|error| error.to_string())
}

const MODULES: &str = "modules = [(\"softhsm\", \"/lib/p11.so\")]\n";

/// Returns the warnings for an option, in line 2 after a usable `modules`.
fn warnings(option: &str) -> Vec<String> {
    rules(&format!("{MODULES}{option}")).unwrap().warnings
}

/// Returns the error for an option, in line 2 after a usable `modules`.
fn refusal(option: &str) -> String {
    rules(&format!("{MODULES}{option}")).unwrap_err()
}

#[test]
fn reads_modules_debug_and_subchannel() {
    let rules = rules(
        "modules = [(\"soft.*\", \"/a.so\"),\n(other, '/'), (7, \"/c.so\")]\n\
         debug = 2 log_subchannel = filter\nallowed_labels = []",
    )
    .unwrap();
    assert_eq!((rules.debug, rules.log_subchannel.as_str()), (2, "filter"));
    assert_eq!(rules.warnings, [""; 0]);
    let second = &rules.modules[1];
    assert_eq!(
        (second.alias_text.as_slice(), second.line),
        (b"other".as_slice(), 2)
    );
    assert_eq!(rules.module(b"softhsm").unwrap().path, Path::new("/a.so"));
    assert_eq!(rules.module(b"7").unwrap().path, Path::new("/c.so"));
    for unknown in [
        b"sof".as_slice(),
        b"",
        b"other\n",
        b"soft\0",
        b"soft\nx",
        b"OTHER",
    ] {
        assert!(rules.module(unknown).is_none(), "{unknown:?}");
    }
}

#[test]
fn takes_the_first_of_two_entries_for_a_name() {
    let rules = rules("modules = [(a, \"/1\"), (\"a.*\", \"/2\"),\n(a, \"/3\")]").unwrap();
    assert_eq!(rules.module(b"a").unwrap().path, Path::new("/1"));
    assert_eq!(rules.module(b"ab").unwrap().path, Path::new("/2"));
    let warning = "filter.conf:2: modules[2]: never used: line 1 has the same module name";
    assert_eq!(rules.warnings, [warning]);
}

#[test]
fn warns_of_patterns_that_cannot_mean_what_they_say() {
    let told = |option: &str| warnings(option).join("\n");
    assert_eq!(
        told("\nallowed_labels = [(softhsm,\n[\"web\\.x\"])]"),
        "filter.conf:4: `\\.` in quotes means `.`; to write a backslash, double it"
    );
    assert_eq!(
        told("allowed_labels = [(softhsm, [\"web\\\\.x\", \"\\\"\"])]"),
        ""
    );
    assert_eq!(
        told("allowed_ids = [(softhsm, [\"0a.*\", \"0A.*\"])]"),
        "filter.conf:2: allowed_ids[0][1][1]: identifiers are compared in \
         lower-case hexadecimal, so a capital letter matches nothing"
    );
    assert_eq!(told("allowed_ids = [(softhsm, [\"[0-9A-Fa-f]+\"])]"), "");
}

#[test]
fn serves_the_empty_name_under_the_empty_alias() {
    let rules = rules("modules = [(\"\", \"/1\")]").unwrap();
    assert!(rules.module(b"").is_some() && rules.module(b"\nx").is_none());
}

#[test]
fn demands_modules() {
    assert_eq!(
        rules("debug = 1").unwrap_err(),
        "filter.conf:1: `modules` is missing"
    );
    let empty = rules("\nmodules = []").unwrap_err();
    assert_eq!(
        empty,
        "filter.conf:2: modules: expected at least one module"
    );
    for (text, expected) in [
        ("modules = x", "1: modules: expected a list, found a string"),
        (
            "modules = [x]",
            "1: modules[0]: expected a tuple of 2 members, found a string",
        ),
        (
            "modules = [(a, b, c)]",
            "1: modules[0]: expected a tuple of 2 members, found 3",
        ),
        (
            "modules = [(a, [b])]",
            "1: modules[0][1]: expected a string, found a list or section",
        ),
        (
            "modules = [(a, 1.5)]",
            "1: modules[0][1]: expected a string, found a number with a decimal point",
        ),
        (
            "modules = [(a, \"\")]",
            "1: modules[0][1]: expected the path of a PKCS#11 library",
        ),
        (
            "modules = [(\"a\\\\\", b)]",
            "1: modules[0][0]: invalid pattern: a backslash at the end; to match a backslash, write four",
        ),
    ] {
        assert_eq!(rules(text).unwrap_err(), format!("filter.conf:{expected}"));
    }
}

#[test]
fn warns_of_likely_mistakes() {
    let text = "debug = 9 modules = [(\"\\(a\\|b\\)\", \"/1\"), (\"a\\\\|b\", \"/2\")]";
    let warnings = rules(text).unwrap().warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].starts_with("filter.conf:1: debug: "));
    assert!(warnings[1].starts_with("filter.conf:1: modules[0][0]: "));
    assert!(warnings[2].starts_with("filter.conf:1: modules[1][0]: "));
}

#[test]
fn wants_the_pattern_of_every_rule_to_match_an_alias() {
    for rule in [
        "forbidden_mechanisms = [(x, [])]",
        "allowed_labels = [(x, [])]",
        "allowed_ids = [(x, [])]",
        "forbidden_functions = [(x, [])]",
        "enforce_ro_sessions = [(x, no)]",
        "forbid_admin_operations = [(x, no)]",
        "remove_padding_oracles = [(x, [])]",
        "filter_actions_pre = [(x, [])]",
        "filter_actions_post = [(x, [])]",
    ] {
        let option = rule.split(' ').next().unwrap();
        let expected = "expected a pattern that matches a name in `modules`; `x` matches none";
        assert_eq!(
            refusal(rule),
            format!("filter.conf:2: {option}[0][0]: {expected}")
        );
        assert_eq!(warnings(&rule.replace("(x", "(\"sof.*\"")), [""; 0]);
    }
    // The pattern is matched against the alias as it is written.
    let pattern = "modules = [(\"soft.*\", m)] enforce_ro_sessions = ";
    assert!(rules(&format!("{pattern} [(softhsm, yes)]")).is_err());
    assert!(rules(&format!("{pattern} [(\"soft.*\", yes)]")).is_ok());
}

#[test]
fn wants_a_key_exactly_where_the_wrapping_format_is_used() {
    let used = "filter_actions_post = [(\".*\", [\n(C_WrapKey, wrapping_format_patch)])]";
    let key = |text: &str| format!("{used} wrapping_format_key = \"{text}\"");
    assert!(warnings(&key("000102030405060708090a0b0c0d0eFF")).is_empty());
    let sample = warnings(&key("00112233445566778899AABBCCDDEEFF"));
    assert!(sample[0].starts_with("filter.conf:3: wrapping_format_key: is the example"));
    for bad in [
        "",
        "00",
        "000102030405060708090a0b0c0d0e0g",
        &"0".repeat(33),
    ] {
        let message = refusal(&key(bad));
        assert_eq!(
            message,
            "filter.conf:3: wrapping_format_key: expected 32 hexadecimal digits: write wrapping_format_key = \"...\" \
             with what `openssl rand -hex 16` prints"
        );
    }
    assert!(refusal(used).starts_with("filter.conf:3: wrapping_format_key: expected 32"));
    let unused = warnings("wrapping_format_key = x");
    assert!(unused[0].starts_with("filter.conf:2: wrapping_format_key: has no effect"));
}

#[test]
fn refuses_an_action_where_it_does_nothing() {
    let rule = "filter_actions_pre = [(\".*\", [(C_Logout, c_Login_hook)])]";
    let expected = "filter.conf:2: filter_actions_pre[0][1][0][1]: action `c_Login_hook` has no effect on C_Logout";
    assert_eq!(refusal(rule), expected);
    let lenient = with(&format!("{MODULES}{rule}"), "unfit-actions").unwrap();
    assert_eq!(lenient.warnings, [expected]);
    assert!(lenient.filter_actions_pre[0].value.is_empty());
}

#[test]
fn warns_of_actions_behind_one_that_makes_the_call() {
    let key = "wrapping_format_key = \"000102030405060708090a0b0c0d0eFF\"";
    let post = |list: &str| format!("filter_actions_post = [(\".*\", [{list}])] {key}");
    let right = "(C_WrapKey, strong_wrapping_keys), (C_UnwrapKey, strong_wrapping_keys),\n\
                 (C_WrapKey, wrapping_format_patch), (C_UnwrapKey, wrapping_format_patch)";
    assert!(warnings(&post(right)).is_empty());
    let wrong = "(C_WrapKey, wrapping_format_patch),\n(C_WrapKey, strong_wrapping_keys)";
    let expected = "filter.conf:3: filter_actions_post[0][1][1][1]: action `strong_wrapping_keys` never runs on C_WrapKey: \
                    `wrapping_format_patch` in line 2 makes the call itself";
    assert_eq!(warnings(&post(wrong)), [expected]);
    // The rows of C_WrapKey come first in C_WrapKeyAuthenticated, too.
    let newer =
        "(C_WrapKey, wrapping_format_patch),\n(C_WrapKeyAuthenticated, strong_wrapping_keys)";
    assert_eq!(
        warnings(&post(newer)),
        [expected.replace("C_WrapKey:", "C_WrapKeyAuthenticated:")]
    );
    let pre =
        "filter_actions_pre = [(\".*\", [(C_CreateObject, sanitize_creation_templates_patch)])]";
    let expected = "filter.conf:2: filter_actions_pre: action `sanitize_creation_templates_patch` makes the call of \
                    C_CreateObject itself, so that no other rule applies to it: write it in filter_actions_post";
    assert_eq!(warnings(pre), [expected]);
}

#[test]
fn warns_of_rules_for_what_happens_before_they_apply() {
    for rule in [
        "forbidden_functions = [(\".*\", [C_LoadModule])]",
        "filter_actions_post = [(\".*\", [(C_LoadModule, identity)])]",
    ] {
        let warnings = warnings(rule);
        assert!(
            warnings[0].contains("before a module is loaded"),
            "{warnings:?}"
        );
    }
}

#[test]
fn can_be_told_to_ignore_unknown_options() {
    let text = format!("{MODULES}log_subchanel = x filter_actions = []\nmodule = 1");
    assert!(rules(&text).is_err());
    let mut warnings = with(&text, "unknown-options").unwrap().warnings;
    warnings.sort();
    let expected =
        "filter.conf:2: log_subchanel: ignored: unknown option; did you mean `log_subchannel`?";
    assert_eq!((warnings.len(), warnings[1].as_str()), (3, expected));
}

#[test]
fn knows_the_names_of_its_options() {
    let text = "modules = [(m, n)] unheard_of = 1";
    let message = rules(text).unwrap_err();
    assert!(message.ends_with(&OPTIONS.join(", ")), "{message}");
}

#[test]
fn tells_no_level_from_level_0() {
    let silent = |level: i64| rules(&format!("{MODULES}debug = {level}")).unwrap().silent;
    assert!(silent(-1) && !silent(0) && !silent(9));
}

#[test]
fn checks_the_types_of_rules() {
    for (rule, expected) in [
        (
            "debug = \"1\"",
            "debug: expected an integer, found a string",
        ),
        (
            "log_subchannel = [a]",
            "log_subchannel: expected a string, found a list or section",
        ),
        (
            "forbidden_mechanisms = [(a, [CKM_FOO])]",
            "forbidden_mechanisms[0][1][0]: unknown mechanism `CKM_FOO`",
        ),
        (
            "forbidden_mechanisms = [(a, [-1])]",
            "forbidden_mechanisms[0][1][0]: expected the number of a mechanism",
        ),
        (
            "allowed_labels = [(a, [\"[\"])]",
            "allowed_labels[0][1][0]: invalid pattern: a set `[` without its `]`",
        ),
        (
            "forbidden_functions = [(a, [C_Foo])]",
            "forbidden_functions[0][1][0]: unknown function `C_Foo`",
        ),
        (
            "forbidden_functions = [(a, [C_SetupArch])]",
            "forbidden_functions[0][1][0]: unknown function `C_SetupArch`",
        ),
        (
            "enforce_ro_sessions = [(a, on)]",
            "enforce_ro_sessions[0][1]: expected yes or no, found another word",
        ),
        (
            "remove_padding_oracles = [(a, [WRAP])]",
            "remove_padding_oracles[0][1][0]: unknown kind of operation `WRAP`; did you mean `wrap`?",
        ),
        (
            "filter_actions_pre = [(a, [(C_Login, x)])]",
            "filter_actions_pre[0][1][0][1]: unknown action `x`; one that a site has added to Caml Crush does not exist here: remove the couple",
        ),
    ] {
        assert_eq!(refusal(rule), format!("filter.conf:2: {expected}"));
    }
}

#[test]
fn refuses_unknown_options_with_a_hint() {
    let message = refusal("log_subchanel = x");
    assert!(message.contains("2: log_subchanel: unknown option; did you mean `log_subchannel`?"));
    let message = refusal("filter_actions = []");
    assert!(message.contains("did you mean `filter_actions_pre` or `filter_actions_post`?"));
}

#[test]
fn finds_errors_in_the_order_of_the_original() {
    let message = rules("debug = x\nmodules = y").unwrap_err();
    assert!(message.starts_with("filter.conf:2: modules: "), "{message}");
}
