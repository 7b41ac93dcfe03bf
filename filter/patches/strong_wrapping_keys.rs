//! `strong_wrapping_keys`: refuses to wrap a key in a way that gives it away, and to unwrap only a part of a key.
//!
//! The original has no such action. Without it, a client that may make wrapping keys could make an RSA key of 512 bits
//! or a DES key, wrap with it a key that it may not read, and break the weak key elsewhere. Or it could wrap a key that
//! it knows and one that it does not know with the same keystream: their difference is that of the keys. Or it could
//! unwrap the first byte of a key as a key of its own, find it by trying 256 values, and go on with two bytes.

use cryptoki_sys::*;
use xdr::facts::Family;
use xdr::mechanism::FieldValue;
use xdr::word_size::{narrow, wide};
use xdr::{Attribute, AttributeType, Call, CkRv, Mechanism, ObjectHandle, SessionHandle, Value};

use crate::actions::{Action, Context, Verdict};
use crate::patches::Refused;

/// Lower bound on the bits of an RSA modulus, for 112 bits of strength (NIST SP 800-57 part 1, 5.6.1).
const MODULUS_BITS: usize = 2048;

/// Lower bound on the bytes of a secret key, for the same strength.
const SECRET_BYTES: u64 = 14;

/// Room for a modulus in bytes: 16384 bits and a zero byte before them.
const LONGEST_MODULUS: usize = 2049;

/// Mechanisms that add a keystream to what they wrap. Key and IV, which the client chooses, determine the keystream.
const STREAMS: &[CK_MECHANISM_TYPE] = &[
    CKM_AES_CTR,
    CKM_AES_OFB,
    CKM_AES_CFB1,
    CKM_AES_CFB8,
    CKM_AES_CFB64,
    CKM_AES_CFB128,
    CKM_CAMELLIA_CTR,
    CKM_CHACHA20,
    CKM_CHACHA20_POLY1305,
    CKM_DES_CFB8,
    CKM_DES_CFB64,
    CKM_DES_OFB8,
    CKM_DES_OFB64,
    CKM_RC4,
    CKM_SALSA20,
    CKM_SALSA20_POLY1305,
    CKM_SKIPJACK_CFB8,
    CKM_SKIPJACK_CFB16,
    CKM_SKIPJACK_CFB32,
    CKM_SKIPJACK_CFB64,
    CKM_SKIPJACK_OFB64,
];

/// The same, unless the token makes the IV.
const COUNTERS: &[CK_MECHANISM_TYPE] = &[CKM_AES_GCM, CKM_AES_CCM];

/// The action.
pub struct StrongWrappingKeys;

impl Action for StrongWrappingKeys {
    fn judges_templates(&self) -> bool {
        false
    }

    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        let facts = call.function().facts();
        // The wrapping key is the first of the call's two keys.
        match call.session().zip(call.keys().next()) {
            _ if facts.is_of(Family::Unwrap) => Refused::verdict(judge_length(call), context),
            Some((session, wrapping)) if facts.is_of(Family::Wrap) => {
                let judged = judge_mechanism(call).and_then(|()| judge(context, session, wrapping));
                Refused::verdict(judged, context)
            }
            _ => Verdict::Continue,
        }
    }
}

/// Refuses to leave only so much of an unwrapped key that the rest can be found by trying.
fn judge_length(call: &Call<'_>) -> Result<(), Refused> {
    let said = call.values().flat_map(|template| &template.0);
    let mut lengths = said.filter(|it| narrow(it.attribute_type.0) == CKA_VALUE_LEN);
    let is_long = |it: &Attribute| {
        let length = match &it.value {
            Value::Bytes(bytes) => bytes.as_slice().try_into().ok(),
            Value::Null { .. } | Value::Template(_) => None,
        };
        length.is_some_and(|length| wide(CK_ULONG::from_ne_bytes(length)) >= SECRET_BYTES)
    };
    match lengths.all(is_long) {
        true => Ok(()),
        false => Err(Refused::new(
            CkRv::TEMPLATE_INCONSISTENT,
            "CKA_VALUE_LEN would leave less than 112 bits of the key",
        )),
    }
}

fn judge_mechanism(call: &Call<'_>) -> Result<(), Refused> {
    let Some(mechanism) = call.mechanism() else {
        return Ok(());
    };
    let kind = narrow(mechanism.mechanism_type().0);
    if STREAMS.contains(&kind) || (COUNTERS.contains(&kind) && !has_fresh_iv(mechanism)) {
        return Err(Refused::new(
            CkRv::MECHANISM_INVALID,
            "two keys that are wrapped with the same keystream give each other away",
        ));
    }
    Ok(())
}

/// Whether the token makes the IV, so that none comes twice.
fn has_fresh_iv(mechanism: &Mechanism) -> bool {
    let parameter = mechanism.parameter();
    let generators = ["ivGenerator", "nonceGenerator"].into_iter();
    let mut generators = generators.filter_map(|name| parameter.field(name));
    generators.any(|value| {
        matches!(value, FieldValue::Number(generator) if narrow(generator) != CKG_NO_GENERATE)
    })
}

fn judge(context: &Context<'_>, session: SessionHandle, key: ObjectHandle) -> Result<(), Refused> {
    let policy = CkRv::WRAPPING_KEY_SIZE_RANGE;
    match is_strong(context, session, key).map_err(|rv| Refused::unreadable(rv, policy))? {
        true => Ok(()),
        false => Err(Refused::new(
            policy,
            "the wrapping key has less than 112 bits of strength",
        )),
    }
}

/// Whether a key is of a strong type and size. If it does not tell them, it counts as weak.
fn is_strong(
    context: &Context<'_>,
    session: SessionHandle,
    key: ObjectHandle,
) -> Result<bool, CkRv> {
    let read = |kind, room| {
        let kind = AttributeType(wide(kind));
        context.objects.value(session, key, kind, room)
    };
    let number = |kind| {
        let value = read(kind, size_of::<CK_ULONG>())?;
        let bytes = value.and_then(|value| value.try_into().ok());
        Ok(bytes.map(|bytes| wide(CK_ULONG::from_ne_bytes(bytes))))
    };
    let Some(kind) = number(CKA_KEY_TYPE)? else {
        return Ok(false);
    };
    Ok(match narrow(kind) {
        CKK_RSA => read(CKA_MODULUS, LONGEST_MODULUS)?.is_some_and(|it| bits(&it) >= MODULUS_BITS),
        // Keys of these types are never shorter, and need not have CKA_VALUE_LEN.
        CKK_AES | CKK_DES3 => true,
        CKK_DES | CKK_DES2 | CKK_CDMF => false,
        _ => number(CKA_VALUE_LEN)?.is_some_and(|length| length >= SECRET_BYTES),
    })
}

/// Returns the length in bits of a big-endian number.
fn bits(number: &[u8]) -> usize {
    let mut significant = number.iter().skip_while(|byte| **byte == 0);
    let first = significant
        .next()
        .map_or(0, |byte| 8 - byte.leading_zeros() as usize);
    first + 8 * significant.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_bits_of_a_number() {
        for (number, count) in [
            (&[][..], 0),
            (&[0, 0], 0),
            (&[1], 1),
            (&[0, 0x80], 8),
            (&[0x01, 0xff], 9),
            (&[0xff, 0xff], 16),
        ] {
            assert_eq!(bits(number), count, "{number:?}");
        }
    }
}
