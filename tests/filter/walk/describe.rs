//! Writes a call as text for a report.

use xdr::Parameter;
use xdr::version3::{Call, Template};

/// A call for the eye.
pub(super) fn describe(call: &Call<'_>) -> String {
    let name = call.function().name();
    let attributes = |template: &Template| -> String {
        let one = |attribute: &xdr::version3::Attribute| {
            let value: String = attribute
                .value
                .iter()
                .take(10)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!(
                "{:x}={value}({})",
                attribute.attribute_type.0,
                attribute.value.len()
            )
        };
        template.0.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    match call {
        Call::C_FindObjectsInit(s, t) | Call::C_CreateObject(s, t) => {
            format!("{name} s{} {}", s.0, attributes(t))
        }
        Call::C_CopyObject(s, o, t)
        | Call::C_GetAttributeValue(s, o, t)
        | Call::C_SetAttributeValue(s, o, t) => {
            format!("{name} s{} o{} {}", s.0, o.0, attributes(t))
        }
        Call::C_GenerateKey(s, m, t) => format!(
            "{name} s{} m{:x} {}",
            s.0,
            m.mechanism_type().0,
            attributes(t)
        ),
        Call::C_GenerateKeyPair(s, m, public, private) => {
            format!(
                "{name} s{} m{:x} {} / {}",
                s.0,
                m.mechanism_type().0,
                attributes(public),
                attributes(private)
            )
        }
        Call::C_UnwrapKey(s, m, k, blob, t) => {
            format!(
                "{name} s{} m{:x} k{} {} bytes {}",
                s.0,
                m.mechanism_type().0,
                k.0,
                blob.len(),
                attributes(t)
            )
        }
        Call::C_DeriveKey(s, m, k, t) => format!(
            "{name} s{} m{:x} k{} {}",
            s.0,
            m.mechanism_type().0,
            k.0,
            attributes(t)
        ),
        Call::C_WrapKey(s, m, w, k) => format!(
            "{name} s{} m{:x} w{} k{}",
            s.0,
            m.mechanism_type().0,
            w.0,
            k.0
        ),
        Call::C_EncryptInit(s, m, k)
        | Call::C_DecryptInit(s, m, k)
        | Call::C_SignInit(s, m, k)
        | Call::C_VerifyInit(s, m, k)
        | Call::C_SignRecoverInit(s, m, k)
        | Call::C_VerifyRecoverInit(s, m, k) => {
            format!(
                "{name} s{} m{:x}({} bytes) k{}",
                s.0,
                m.mechanism_type().0,
                match m.parameter() {
                    Parameter::Unread(bytes) => bytes.len(),
                    _ => 0,
                },
                k.0
            )
        }
        other => format!("{name} {}", arguments(other)),
    }
}

fn arguments(call: &Call<'_>) -> String {
    let mut buffer = Vec::new();
    let bytes = xdr::rpc::write_call(xdr::rpc::Xid(0), call, false, &mut buffer)
        .expect("small")
        .to_vec();
    bytes[44..]
        .iter()
        .take(48)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
