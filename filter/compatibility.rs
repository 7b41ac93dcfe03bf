//! Defines the switches that bring back the original's behaviour, one point each.
//!
//! The parameter `compatibility` of pkcs11proxyd.conf names them, separated by blanks. All are off by default; the
//! daemon logs those that are on. Each is a row of DIFFERENCES.md.

use thiserror::Error;

/// One point of the original's behaviour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Switch {
    /// An unknown option is a warning.
    UnknownOptions,
    /// An action attached to a function that it does not know is a warning.
    UnfitActions,
    /// `forbid_admin_operations` applies to C_Login only.
    AdminLoginOnly,
    /// `remove_padding_oracles` applies to the original's list of mechanisms only.
    OriginalPaddingList,
    /// `conflicting_attributes_patch` lets a key get a role that it was made without.
    RolesSetLater,
    /// `conflicting_attributes_patch` lets derived keys wrap.
    DerivedKeysWrap,
}

/// Every switch, with its name and what it brings back.
pub const SWITCHES: &[(Switch, &str, &str)] = &[
    (
        Switch::UnknownOptions,
        "unknown-options",
        "filter.conf: an unknown option is a warning, not an error",
    ),
    (
        Switch::UnfitActions,
        "unfit-actions",
        "filter.conf: an action on a function where it has no effect is a warning, not an error",
    ),
    (
        Switch::AdminLoginOnly,
        "admin-login-only",
        "forbid_admin_operations allows C_InitToken and C_InitPIN",
    ),
    (
        Switch::OriginalPaddingList,
        "original-padding-list",
        "remove_padding_oracles allows SHA224_RSA_PKCS and the CBC_PAD mechanisms of CAMELLIA, \
         ARIA, SEED, BLOWFISH and TWOFISH, among others",
    ),
    (
        Switch::RolesSetLater,
        "roles-set-later",
        "conflicting_attributes_patch allows WRAP and DECRYPT to be switched on in a key that was \
         made without them, and any usage where usage is segregated",
    ),
    (
        Switch::DerivedKeysWrap,
        "derived-keys-wrap",
        "conflicting_attributes_patch allows derived keys to wrap",
    ),
];

/// The switches that are on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compatibility(Vec<Switch>);

/// A name that is not in [`SWITCHES`].
#[derive(Debug, Error, PartialEq)]
#[error("unknown switch `{}`; the switches are {}", .0.escape_debug(), names())]
pub struct UnknownSwitch(String);

fn names() -> String {
    let names: Vec<&str> = SWITCHES.iter().map(|(_, name, _)| *name).collect();
    names.join(", ")
}

impl Compatibility {
    /// Reads names that are separated by blanks.
    pub fn parse(text: &str) -> Result<Compatibility, UnknownSwitch> {
        let known = |name: &str| {
            let row = SWITCHES.iter().find(|(_, known, _)| *known == name);
            row.map(|(switch, ..)| *switch)
                .ok_or_else(|| UnknownSwitch(name.to_owned()))
        };
        text.split_whitespace()
            .map(known)
            .collect::<Result<_, _>>()
            .map(Compatibility)
    }

    /// Whether this switch is on.
    pub fn has(&self, switch: Switch) -> bool {
        self.0.contains(&switch)
    }

    /// The name and effect of each switch that is on, in the order of the table.
    pub fn effects(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let on = SWITCHES.iter().filter(|(switch, ..)| self.has(*switch));
        on.map(|(_, name, effect)| (*name, *effect))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_names_and_no_others() {
        let some = Compatibility::parse(" unfit-actions\tunknown-options ").unwrap();
        assert!(some.has(Switch::UnfitActions) && some.has(Switch::UnknownOptions));
        assert!(!some.has(Switch::AdminLoginOnly));
        let names: Vec<_> = some.effects().map(|(name, _)| name).collect();
        assert_eq!(names, ["unknown-options", "unfit-actions"]);
        assert_eq!(Compatibility::parse(""), Ok(Compatibility::default()));
        let error = Compatibility::parse("unfit-action")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("unknown switch `unfit-action`; the switches are unknown-options, ")
        );
    }
}
