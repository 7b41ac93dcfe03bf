//! `wrapping_format_patch`: binds the attributes of a wrapped key to it with a MAC, so that it cannot be unwrapped with
//! other attributes.
//!
//! ```text
//! what the token wrapped | CLASS, 4 bytes | a byte for each boolean | AES-128-CMAC of all before
//! ```
//!
//! The format is the original's, in which some of the booleans occur only where key usage is segregated. The action
//! calls the module itself, so no later action of the chain sees the call.

use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};
use xdr::{AttributeType, Call, CkRv, Input, ObjectHandle, Reply, Room, Template, Written};
use zeroize::Zeroize;

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Class, is_same};
use crate::patches::Refused;
use crate::patches::sanitize_creation_templates_patch::complete;
use crate::room::within;

/// The booleans that are stored with a wrapped key, in this order.
const BOUND: &[Boolean] = &[
    Boolean::Sensitive,
    Boolean::Extractable,
    Boolean::AlwaysSensitive,
    Boolean::NeverExtractable,
    Boolean::Encrypt,
    Boolean::Decrypt,
    Boolean::Wrap,
    Boolean::Unwrap,
    Boolean::Private,
    Boolean::Derive,
];

/// More booleans, where key usage is segregated.
const BOUND_SEGREGATED: &[Boolean] = &[
    Boolean::Sign,
    Boolean::Verify,
    Boolean::SignRecover,
    Boolean::VerifyRecover,
];

/// Every byte of the field of an attribute that the key does not have.
const ABSENT: u8 = 0xff;

const MAC: usize = 16;
const CLASS_FIELD: usize = 4;

fn bound(is_segregated: bool) -> impl Iterator<Item = Boolean> {
    let more = if is_segregated { BOUND_SEGREGATED } else { &[] };
    BOUND.iter().chain(more).copied()
}

/// The site's key for the MAC. It is wiped when it is dropped, and no log line shows it.
pub struct WrappingKey([u8; 16]);

impl Drop for WrappingKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl WrappingKey {
    /// Reads exactly 32 hexadecimal digits, in upper or lower case.
    pub fn from_hex(digits: &str) -> Option<WrappingKey> {
        let mut key = WrappingKey([0; 16]);
        if digits.len() != 2 * key.0.len() {
            return None;
        }
        for (byte, pair) in key.0.iter_mut().zip(digits.as_bytes().chunks(2)) {
            for digit in pair {
                let digit = char::from(*digit).to_digit(16)?;
                *byte = *byte << 4 | u8::try_from(digit).ok()?;
            }
        }
        Some(key)
    }

    fn mac(&self, bytes: &[u8]) -> Cmac<Aes128> {
        let mut mac = <Cmac<Aes128> as KeyInit>::new(&self.0.into());
        mac.update(bytes);
        mac
    }

    /// Appends the MAC of the blob.
    fn seal(&self, blob: &mut Vec<u8>) {
        let mac = self.mac(blob).finalize().into_bytes();
        blob.extend_from_slice(&mac);
    }

    /// Returns the bytes before the MAC, if the MAC is right. Takes the same time for every wrong MAC.
    fn unseal<'a>(&self, blob: &'a [u8]) -> Option<&'a [u8]> {
        let (sealed, mac) = blob.split_at_checked(blob.len().checked_sub(MAC)?)?;
        self.mac(sealed).verify_slice(mac).ok()?;
        Some(sealed)
    }
}

/// Encodes the attributes of a wrapped key; `None` if the format has no place for its class.
fn encode(attributes: Attributes, is_segregated: bool) -> Option<Vec<u8>> {
    let class = match attributes.class {
        None => [ABSENT; CLASS_FIELD],
        Some(Class(number)) => {
            let number = u32::try_from(number).ok().filter(|it| *it != u32::MAX)?;
            number.to_be_bytes()
        }
    };
    let mut encoded = class.to_vec();
    encoded.extend(bound(is_segregated).map(|boolean| {
        if attributes.booleans.has((boolean, true)) {
            1
        } else if attributes.booleans.has((boolean, false)) {
            0
        } else {
            ABSENT
        }
    }));
    Some(encoded)
}

/// Whether the template asks only for attributes that the wrapped key had. In the encoding, any byte except 0 and 1
/// counts as absent; the bytes in the template are compared as they are.
fn agrees(template: &Template, encoded: &[u8], is_segregated: bool) -> Result<bool, CkRv> {
    let Some((class, booleans)) = encoded.split_at_checked(CLASS_FIELD) else {
        return Ok(false);
    };
    let wanted = Attributes::of_template(template)?.class;
    let class = <[u8; CLASS_FIELD]>::try_from(class).ok();
    let class = class.filter(|class| *class != [ABSENT; CLASS_FIELD]);
    let class = class.map(|class| Class(u32::from_be_bytes(class).into()));
    if class.is_some() && wanted.is_some() && class != wanted {
        return Ok(false);
    }
    let said = |attribute_type: AttributeType| {
        let mut said = template.0.iter();
        said.find(move |it| is_same(it.attribute_type, attribute_type))
    };
    let mut fields = bound(is_segregated).zip(booleans);
    Ok(fields.all(|(boolean, field)| {
        let wanted = said(boolean.attribute_type());
        *field > 1 || wanted.is_none_or(|wanted| wanted.bytes() == [*field])
    }))
}

/// The action.
pub struct WrappingFormat;

impl Action for WrappingFormat {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "other calls neither wrap nor unwrap: a test compares with the facts"
        )]
        let result = match call.clone() {
            Call::C_WrapKey(session, mechanism, wrapping, key, room) => {
                let whole = Call::C_WrapKey(session, mechanism, wrapping, key, Room::Unbounded);
                wrap(whole, context, key, room)
            }
            Call::C_WrapKeyAuthenticated(session, mechanism, wrapping, key, data, room) => {
                let room_for_all = Room::Unbounded;
                let whole = Call::C_WrapKeyAuthenticated(
                    session,
                    mechanism,
                    wrapping,
                    key,
                    data,
                    room_for_all,
                );
                wrap(whole, context, key, room)
            }
            call @ (Call::C_UnwrapKey(..) | Call::C_UnwrapKeyAuthenticated(..)) => {
                unwrap(call, context)
            }
            _ => return Verdict::Continue,
        };
        match result {
            Ok(reply) => Verdict::Decide(reply),
            Err(refused) => Refused::verdict(Err(refused), context),
        }
    }
}

fn key<'a>(context: &Context<'a>) -> Result<&'a WrappingKey, Refused> {
    context
        .wrapping_key
        .ok_or_else(|| Refused::new(CkRv::GENERAL_ERROR, "wrapping_format_key is not set"))
}

/// Wraps a key with a call that has enough room, then answers according to the client's room. Wrapping changes nothing
/// on the token, so this is possible even if the client only asks for the length.
fn wrap(
    call: Call<'_>,
    context: &Context<'_>,
    wrapped: ObjectHandle,
    room: Room,
) -> Result<Reply, Refused> {
    let key = key(context)?;
    let session = call.session().unwrap_or_default();
    // Done first, so that the token itself reports an invalid handle or key.
    let mut reply = context.execute(call);
    let (Reply::C_WrapKey(result) | Reply::C_WrapKeyAuthenticated(result)) = &mut reply else {
        return Err(Refused::new(
            CkRv::GENERAL_ERROR,
            "the module returned the reply of another function",
        ));
    };
    if !result.rv.is_ok() {
        let reason = "wrapping by the module failed";
        return Err(Refused::new(result.rv, reason));
    }
    let attributes = context.objects.attributes(session, wrapped);
    let attributes = attributes.map_err(|rv| Refused::unreadable(rv, CkRv::KEY_NOT_WRAPPABLE))?;
    let encoded = encode(attributes, context.is_segregated()).ok_or_else(|| {
        let reason = "the format cannot store this CKA_CLASS";
        Refused::new(CkRv::KEY_NOT_WRAPPABLE, reason)
    })?;
    let blob = std::mem::take(&mut result.data).into_vec();
    let mut blob = blob.map_err(|_| Refused::new(CkRv::HOST_MEMORY, "no memory for the blob"))?;
    blob.extend_from_slice(&encoded);
    key.seal(&mut blob);
    let (rv, length, blob) = within(room, blob);
    (result.rv, result.length, result.data) = (rv, length, blob.into());
    if result.data.is_empty() {
        // The module wrote it for a wrapped key that the client does not get.
        result.written = Written::default();
    }
    Ok(reply)
}

fn unwrap(mut call: Call<'_>, context: &Context<'_>) -> Result<Reply, Refused> {
    let key = key(context)?;
    let (Call::C_UnwrapKey(_, _, _, blob, template)
    | Call::C_UnwrapKeyAuthenticated(_, _, _, blob, template, _)) = &mut call
    else {
        return Err(Refused::new(CkRv::GENERAL_ERROR, "another call"));
    };
    let template = template.get_or_insert_default();
    let is_segregated = context.is_segregated();
    let encoded = CLASS_FIELD + bound(is_segregated).count();
    let failed = |reason| Refused::new(CkRv::FUNCTION_FAILED, reason);
    let sealed = key
        .unseal(blob.bytes())
        .ok_or_else(|| failed("the MAC is wrong"))?;
    let parts = (sealed.len().checked_sub(encoded)).and_then(|it| sealed.split_at_checked(it));
    let (wrapped, encoded) = parts.ok_or_else(|| failed("the wrapped key is too short"))?;
    if !agrees(template, encoded, is_segregated).map_err(Refused::unsound)? {
        let reason = "the template differs from the attributes of the wrapped key";
        return Err(Refused::new(CkRv::TEMPLATE_INCONSISTENT, reason));
    }
    let class = Attributes::of_template(template)
        .map_err(Refused::unsound)?
        .class;
    complete(
        template,
        class.ok_or_else(|| failed("no CKA_CLASS in the template"))?,
    );
    *blob = Input::Bytes(wrapped);
    Ok(context.execute(call))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digits: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    fn key(digits: &str) -> WrappingKey {
        WrappingKey::from_hex(digits).expect("a key")
    }

    /// The example of RFC 4493, section 4, and values that another implementation computed for a key.
    #[test]
    fn computes_the_cmac() {
        let rfc = "2b7e151628aed2a6abf7158809cf4f3c";
        let message = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
            30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710";
        let ours = "00112233445566778899aabbccddeeff";
        for (digits, message, mac) in [
            (rfc, "", "bb1d6929e95937287fa37d129b756746"),
            (rfc, &message[..32], "070a16b46b4d4144f79bdd9dd04a287c"),
            (rfc, &message[..80], "dfa66747de9ae63030ca32611497c827"),
            (rfc, message, "51f0bebf7e3b9d92fc49741779363cfe"),
            (ours, "", "91773796cf510124d3593a331b9d7c51"),
            (ours, &"00".repeat(16), "53e107b36ef2c5381b62d83d46bb2149"),
            (ours, &"ff".repeat(14), "3ba11aa3d16def77347f38317ca5904e"),
        ] {
            let mut sealed = hex(message);
            key(digits).seal(&mut sealed);
            assert_eq!(sealed, hex(&format!("{message}{mac}")));
            assert_eq!(key(digits).unseal(&sealed), Some(&hex(message)[..]));
        }
    }

    #[test]
    fn opens_nothing_that_was_altered() {
        let key = key("00112233445566778899AABBCCDDEEFF");
        let mut sealed = b"wrapped".to_vec();
        key.seal(&mut sealed);
        assert!(key.unseal(&sealed).is_some());
        for bit in 0..8 * sealed.len() {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(key.unseal(&altered).is_none());
        }
        for length in 0..sealed.len() {
            assert!(key.unseal(&sealed[..length]).is_none());
            assert!(key.unseal(&sealed[length + 1..]).is_none());
        }
    }

    #[test]
    fn takes_32_digits_for_a_key() {
        for text in [
            "",
            "00112233445566778899aabbccddeef",
            "00112233445566778899aabbccddeeff0",
            "00112233445566778899aabbccddeefg",
            "0x112233445566778899aabbccddeeff",
            "+0112233445566778899aabbccddeeff",
            "00112233445566778899aabbccddee\u{e9}",
        ] {
            assert!(WrappingKey::from_hex(text).is_none(), "{text}");
        }
    }

    #[test]
    fn wraps_no_class_that_would_unwrap_as_another() {
        let of = |class| {
            encode(
                Attributes {
                    class: Some(Class(class)),
                    ..Default::default()
                },
                false,
            )
        };
        assert_eq!(
            of(0x8000_0001).map(|it| it[..4].to_vec()),
            Some(hex("80000001"))
        );
        assert_eq!(of(0xffff_ffff), None);
        assert_eq!(of(0x1_0000_0004), None);
    }
}
