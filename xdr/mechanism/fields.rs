//! Lists the names of the fields in mechanism parameters, so that rules can refer to them.
//!
//! A path is what [`Parameter::field`](super::Parameter::field) takes. The values of fields are not looked at here.

use super::notation::{Field, Kind, Layout, Ref, Target, Use};
use super::parameters::layouts;
use crate::integers::MechanismType;

/// What the values of a field are, so that a rule can compare them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FieldKind {
    /// Numbers, in the structure or behind a pointer.
    Number,
    /// Bytes, in the structure or behind a pointer.
    Bytes,
    /// Something that no rule can compare: structures, templates, mechanisms, room for outputs.
    Other,
}

/// A field: its path, and the kind of its values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FieldName {
    /// Its name in C. If it is in a structure behind a pointer, the pointer's name and a dot come first.
    pub path: String,
    /// The kind of its values.
    pub kind: FieldKind,
}

/// Every field of the structures that a mechanism takes, whatever it is used for, without repetition. The elements of
/// an array have no path.
pub fn fields(mechanism: MechanismType) -> Vec<FieldName> {
    let mut found = Vec::new();
    for (usage, _) in Use::ALL {
        for layout in layouts(mechanism, usage) {
            collect(layout, "", &mut found);
        }
    }
    found
}

fn collect(layout: &Layout, prefix: &str, found: &mut Vec<FieldName>) {
    for field in layout.fields.0 {
        let name = FieldName {
            path: format!("{prefix}{}", field.name),
            kind: kind(field),
        };
        if let Kind::Pointer(Target::Structure(Ref(inner))) = field.kind {
            collect(inner, &format!("{}.", name.path), found);
        }
        if !found.contains(&name) {
            found.push(name);
        }
    }
}

fn kind(field: &Field) -> FieldKind {
    match field.kind {
        Kind::Number | Kind::Mechanism | Kind::Key | Kind::Length | Kind::Flag | Kind::Byte => {
            FieldKind::Number
        }
        Kind::Pointer(Target::Number | Target::Length | Target::Key) => FieldKind::Number,
        Kind::Bytes(_) | Kind::Pointer(Target::Bytes(_) | Target::Text) => FieldKind::Bytes,
        Kind::Pointer(
            Target::Unknown
            | Target::Ignored
            | Target::Structure(_)
            | Target::Structures(..)
            | Target::Mechanism
            | Target::Template(_)
            | Target::Tagged(_),
        ) => FieldKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use cryptoki_sys::*;

    use super::*;
    use crate::word_size::wide;

    fn kind_of(mechanism: CK_MECHANISM_TYPE, path: &str) -> Option<FieldKind> {
        let fields = fields(MechanismType(wide(mechanism)));
        let mut named = fields.iter().filter(|field| field.path == path);
        let found = named.next().map(|field| field.kind);
        assert!(named.next().is_none(), "{path} twice");
        found
    }

    #[test]
    fn names_the_fields_of_every_structure_and_of_those_behind_pointers() {
        for (mechanism, path, kind) in [
            (CKM_AES_GCM, "ulTagBits", Some(FieldKind::Number)),
            (CKM_AES_GCM, "ivGenerator", Some(FieldKind::Number)),
            (CKM_AES_GCM, "pIv", Some(FieldKind::Bytes)),
            (CKM_AES_CTR, "cb", Some(FieldKind::Bytes)),
            (CKM_ECDH1_DERIVE, "kdf", Some(FieldKind::Number)),
            (CKM_RSA_PKCS_OAEP, "hashAlg", Some(FieldKind::Number)),
            (CKM_RSA_AES_KEY_WRAP, "pOAEPParams", Some(FieldKind::Other)),
            (
                CKM_RSA_AES_KEY_WRAP,
                "pOAEPParams.hashAlg",
                Some(FieldKind::Number),
            ),
            (CKM_RSA_AES_KEY_WRAP, "hashAlg", None),
            (CKM_AES_CBC, "iv", None),
        ] {
            assert_eq!(kind_of(mechanism, path), kind, "{path}");
        }
    }
}
