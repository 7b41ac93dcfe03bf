//! Builds calls that make, copy and change objects, from templates that are written as text.

use xdr::{Call, ObjectHandle};

use crate::chain::{ALL, S, mechanism, t};

/// Makes a call of each function that makes a key from one template.
pub fn creations(template: &str) -> [Call<'static>; 7] {
    let m = || mechanism(0x1080, &[]);
    let template = || t(template);
    let data = b"associated".into();
    [
        Call::C_CreateObject(S, template()),
        Call::C_GenerateKey(S, m(), template()),
        Call::C_UnwrapKey(S, m(), ObjectHandle(1), b"wrapped".into(), template()),
        Call::C_DeriveKey(S, m(), ObjectHandle(1), template()),
        Call::C_EncapsulateKey(S, m(), ObjectHandle(1), template(), ALL),
        Call::C_DecapsulateKey(S, m(), ObjectHandle(1), template(), b"ciphertext".into()),
        Call::C_UnwrapKeyAuthenticated(
            S,
            m(),
            ObjectHandle(1),
            b"wrapped".into(),
            template(),
            data,
        ),
    ]
}

pub fn pair(public: &str, private: &str) -> Call<'static> {
    Call::C_GenerateKeyPair(S, mechanism(0, &[]), t(public), t(private))
}

pub fn set(object: ObjectHandle, template: &str) -> Call<'static> {
    Call::C_SetAttributeValue(S, object, t(template))
}

pub fn copy(object: ObjectHandle, template: &str) -> Call<'static> {
    Call::C_CopyObject(S, object, t(template))
}

pub const CHANGES: [fn(ObjectHandle, &str) -> Call<'static>; 2] = [set, copy];

/// Returns the same attribute with its other value.
pub fn other(setting: &str) -> String {
    match setting.split_once('=') {
        Some((name, "T")) => format!("{name}=F"),
        Some((name, "F")) => format!("{name}=T"),
        _ => panic!("{setting}"),
    }
}
