//! Lists the filter files under which both daemons are compared.

use crate::support::original;

/// The shipped configuration has patch set 1 on, patch set 2 in a comment, and wants a key.
const KEY: &str = "wrapping_format_key = \"00112233445566778899aabbccddeeff\"\n";

/// A filter file without its `modules`, and whether its C_WrapKey appends the wrapping format.
pub struct Configuration {
    pub name: &'static str,
    pub rules: String,
    pub wrapping_format: bool,
}

fn rules(name: &'static str, rules: impl Into<String>) -> Configuration {
    Configuration {
        name,
        rules: rules.into(),
        wrapping_format: false,
    }
}

/// An action on the functions it is for, post.
fn action(name: &'static str, action: &str, functions: &[&str]) -> Configuration {
    let pairs: Vec<String> = functions
        .iter()
        .map(|function| format!("({function}, {action})"))
        .collect();
    rules(
        name,
        format!("filter_actions_post = [(\".*\", [{}])]", pairs.join(", ")),
    )
}

const USES: &[&str] = &[
    "C_EncryptInit",
    "C_DecryptInit",
    "C_SignInit",
    "C_SignRecoverInit",
    "C_VerifyInit",
    "C_VerifyRecoverInit",
    "C_DigestKey",
    "C_DeriveKey",
    "C_WrapKey",
    "C_UnwrapKey",
    "C_FindObjects",
];
const MAKERS: &[&str] = &[
    "C_CreateObject",
    "C_CopyObject",
    "C_UnwrapKey",
    "C_GenerateKey",
    "C_GenerateKeyPair",
    "C_DeriveKey",
];

/// Each of them, by its name.
pub fn configuration(name: &'static str) -> Configuration {
    let makers_and_set = [MAKERS, &["C_SetAttributeValue"]].concat();
    match name {
        "minimal" => rules(name, ""),
        "patch_set_1" => Configuration {
            wrapping_format: true,
            ..rules(name, patch_set_1())
        },
        "patch_set_2" => rules(name, patch_set_2()),
        "labels" => rules(
            name,
            r#"allowed_labels = [("soft.*", ["good.*", "\\(base\\|kek\\)"])]"#,
        ),
        "ids" => rules(name, r#"allowed_ids = [(".*", ["01", "ab.*"])]"#),
        // A rule for a module that is not the one in use.
        "other_module" => rules(name, r#"allowed_ids = [("opencryptoki", ["01"])]"#),
        "padding_and_patch_set_1" => Configuration {
            wrapping_format: true,
            ..rules(
                name,
                format!(
                    "{}remove_padding_oracles = [(\".*\", [unwrap])]",
                    patch_set_1()
                ),
            )
        },
        "labels_and_ids" => rules(
            name,
            r#"allowed_labels = [(".*", ["good.*", "base"]), ("softhsm", ["kek"])] allowed_ids = [(".*", ["01", "02"])]"#,
        ),
        "functions" => rules(
            name,
            r#"forbidden_functions = [("soft.*", [C_GetInfo, C_GetSlotInfo, C_GetTokenInfo, C_GetMechanismInfo, C_DigestInit, C_SignUpdate,
               C_GetSessionInfo, C_GetObjectSize, C_WaitForSlotEvent, C_CopyObject, C_GenerateKeyPair, C_EncryptUpdate, C_Verify,
               C_SetOperationState, C_DestroyObject, C_VerifyRecoverInit, C_GenerateRandom, C_InitPIN]), (".*", [C_WrapKey])]"#,
        ),
        "mechanisms" => rules(
            name,
            r#"forbidden_mechanisms = [("soft.*", [CKM_RSA_X_509, CKM_AES_ECB, CKM_RSA_PKCS_OAEP]), (".*", [CKM_SHA256, CKM_AES_KEY_GEN, CKM_DH_PKCS_DERIVE])]"#,
        ),
        "read_only" => rules(name, r#"enforce_ro_sessions = [(".*", yes)]"#),
        "admin" => rules(name, r#"forbid_admin_operations = [(".*", yes)]"#),
        "padding_wrap_unwrap" => {
            rules(name, r#"remove_padding_oracles = [(".*", [wrap, unwrap])]"#)
        }
        "padding_encrypt" => rules(name, r#"remove_padding_oracles = [(".*", [encrypt])]"#),
        "padding_sign" => rules(name, r#"remove_padding_oracles = [("soft.*", [sign])]"#),
        "padding_all" => rules(name, r#"remove_padding_oracles = [(".*", [all])]"#),
        "hooks" => rules(
            name,
            r#"filter_actions_pre = [(".*", [(C_Initialize, c_Initialize_hook), (C_Sign, identity), (C_Login, c_Login_hook)])]"#,
        ),
        "non_local" => action(
            name,
            "non_local_objects_patch",
            &["C_CreateObject", "C_CopyObject", "C_SetAttributeValue"],
        ),
        "leak" => action(
            name,
            "prevent_sensitive_leak_patch",
            &["C_GetAttributeValue", "C_SetAttributeValue"],
        ),
        "conflicting" => action(name, "conflicting_attributes_patch", &makers_and_set),
        "conflicting_existing" => action(
            name,
            "conflicting_attributes_patch_on_existing_objects",
            USES,
        ),
        "paranoid" => action(name, "dangerous_sensitive_keys_paranoid", USES),
        "escrow_encrypt" => action(name, "dangerous_sensitive_keys_escrow_encrypt", USES),
        "escrow_all" => action(name, "dangerous_sensitive_keys_escrow_all", USES),
        "sticky" => action(
            name,
            "sticky_attributes_patch",
            &["C_CopyObject", "C_SetAttributeValue"],
        ),
        "wrapping_format" => {
            let mut made = action(name, "wrapping_format_patch", &["C_WrapKey", "C_UnwrapKey"]);
            made.rules.insert_str(0, KEY);
            Configuration {
                wrapping_format: true,
                ..made
            }
        }
        "secure_templates" => action(name, "secure_templates_patch", &makers_and_set),
        "sanitize" => action(name, "sanitize_creation_templates_patch", MAKERS),
        "segregation" => rules(
            name,
            r#"filter_actions_pre = [(".*", [(C_Initialize, do_segregate_usage)])]
               filter_actions_post = [(".*", [(C_CreateObject, conflicting_attributes_patch), (C_GenerateKeyPair, conflicting_attributes_patch),
               (C_SetAttributeValue, sticky_attributes_patch), (C_CopyObject, secure_templates_patch), (C_GenerateKey, secure_templates_patch),
               (C_SignInit, conflicting_attributes_patch_on_existing_objects)])]"#,
        ),
        other => panic!("no configuration {other}"),
    }
}

/// What the original offers against the attacks, all of it at once: patch set 1 with segregation, the
/// padding option, no administration, no derivation.
pub fn strictest_of_the_original() -> String {
    let set = patch_set_1().replace(
        "(* (C_Initialize, do_segregate_usage), *)",
        "(C_Initialize, do_segregate_usage),",
    );
    format!(
        "{set}\nremove_padding_oracles = [(\".*\", [all])] forbid_admin_operations = [(\".*\", yes)]\n\
         forbidden_functions = [(\".*\", [C_DeriveKey, C_GetOperationState, C_SetOperationState])]\n"
    )
}

fn shipped() -> String {
    let text = original::configuration("filter.conf");
    // The fixture writes its own line.
    text.lines()
        .filter(|line| !line.starts_with("modules ="))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The shipped file as it is, with a key.
pub fn patch_set_1() -> String {
    format!("{KEY}{}", shipped())
}

/// The shipped file with the comment marks moved from patch set 2 to patch set 1.
pub fn patch_set_2() -> String {
    let text = shipped();
    let (before, sets) = text
        .split_once("(**** Fixing PKCS#11 with patchset 1 *")
        .expect("patch set 1");
    let (_, second) = sets
        .split_once("before enabling this one\n*)\n(*\n")
        .expect("patch set 2");
    format!(
        "{before}{}",
        second
            .trim_end()
            .strip_suffix("*)")
            .expect("the end of a comment")
    )
}
