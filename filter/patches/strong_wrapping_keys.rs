//! `strong_wrapping_keys`: refuses to wrap a key with a wrapping key of less than 112 bits of strength.
//!
//! The original has no such action. Without it, a client that may make wrapping keys could make an RSA key of 512 bits
//! or a DES key, wrap with it a key that it may not read, and break the weak key elsewhere.

use cryptoki_sys::*;
use xdr::facts::Family;
use xdr::word_size::{narrow, wide};
use xdr::{AttributeType, Call, CkRv, ObjectHandle, SessionHandle};

use crate::actions::{Action, Context, Verdict};
use crate::patches::Refused;

/// Lower bound on the bits of an RSA modulus, for 112 bits of strength (NIST SP 800-57 part 1, 5.6.1).
const MODULUS_BITS: usize = 2048;

/// Lower bound on the bytes of a secret key, for the same strength.
const SECRET_BYTES: u64 = 14;

/// Room for a modulus in bytes: 16384 bits and a zero byte before them.
const LONGEST_MODULUS: usize = 2049;

/// The action.
pub struct StrongWrappingKeys;

impl Action for StrongWrappingKeys {
    fn judges_templates(&self) -> bool {
        false
    }

    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        let wraps = call.function().facts().is_of(Family::Wrap);
        // The wrapping key is the first of the call's two keys.
        match call.session().zip(call.keys().next()) {
            Some((session, wrapping)) if wraps => {
                Refused::verdict(judge(context, session, wrapping), context)
            }
            _ => Verdict::Continue,
        }
    }
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
