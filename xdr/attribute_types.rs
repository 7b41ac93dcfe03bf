//! Says which attributes have numbers, booleans or templates as values, and converts the numbers
//! between a client's layout and this host's.
//!
//! Values that are CK_ULONGs are converted while a record is decoded or written, so that no rule sees
//! the client's layout. They are exactly those that the original converts
//! (`encode_ck_attribute_arch`): its clients expect the others as the module wrote them, arrays of
//! CK_ULONG included. Nothing here refuses an attribute.

use cryptoki_sys::*;

use crate::integers::{Architecture, AttributeType, Ulong};
use crate::wire_types::{Attribute, Template};
use crate::word_size::{Abi, narrow};

/// Whether a client of this architecture lays out numbers in another way than this host.
pub(crate) fn differs(client: Architecture) -> bool {
    let client = Abi::of_client(client);
    client.word != Abi::HOST.word || client.little != Abi::HOST.little
}

/// NSS's vendor attributes. Their types happen to have the bit that marks an array attribute, but
/// their values hold no addresses (the trust of a certificate, its URL).
const NSS_ATTRIBUTES: std::ops::RangeInclusive<CK_ATTRIBUTE_TYPE> = 0xce53_4350..=0xce53_6400;

/// Whether values of this type are arrays of CK_ATTRIBUTE, which hold addresses: every array
/// attribute except the arrays of numbers. Such a value never leaves the client and never reaches a
/// module, unless it is empty.
pub fn is_nested(attribute_type: AttributeType) -> bool {
    let attribute_type = narrow(attribute_type.0);
    attribute_type & CKF_ARRAY_ATTRIBUTE != 0
        && attribute_type != CKA_ALLOWED_MECHANISMS
        && !NSS_ATTRIBUTES.contains(&attribute_type)
}

/// Values of the client as this host lays them out.
pub fn to_host(template: Template, client: Architecture) -> Template {
    convert(template, Abi::of_client(client), Abi::HOST)
}

/// Values of this host as the client lays them out.
pub fn to_client(mut template: Template, client: Architecture) -> Template {
    let client = Abi::of_client(client);
    for attribute in &mut template.0 {
        resize_nested(attribute, Abi::HOST, client);
    }
    convert(template, Abi::HOST, client)
}

/// The answer to who asked for the size of a nested template: as many CK_ATTRIBUTEs of the receiver as the
/// module has. The value is zeros, or empty.
fn resize_nested(attribute: &mut Attribute, from: Abi, to: Abi) {
    let (ours, theirs) = (from.attribute_size() as u64, to.attribute_size() as u64);
    let is_whole = attribute.value_len.0 % ours == 0;
    if is_nested(attribute.attribute_type) && is_whole {
        attribute.value_len.0 = attribute.value_len.0 / ours * theirs;
        let size = attribute.value.len() / from.attribute_size() * to.attribute_size();
        attribute.value.resize(size, 0);
    }
}

/// Converts each CK_ULONG that is as long as the sender's word. A value of another length is no
/// number and stays as it is. Where the receiver's words are shorter, a number loses its upper
/// half.
fn convert(mut template: Template, from: Abi, to: Abi) -> Template {
    if from.word == to.word && from.little == to.little {
        return template;
    }
    for attribute in &mut template.0 {
        if is_number(attribute.attribute_type) && attribute.value.len() == from.word {
            let number = from.read(&attribute.value);
            attribute.value.resize(to.word, 0);
            to.write(number, &mut attribute.value);
            attribute.value_len = Ulong(to.word as u64);
        }
    }
    template
}

/// Whether values of this type are CK_BBOOLs: in PKCS#11 v2.20 to v3.2.
pub fn is_boolean(attribute_type: AttributeType) -> bool {
    matches!(
        narrow(attribute_type.0),
        CKA_TOKEN
            | CKA_PRIVATE
            | CKA_TRUSTED
            | CKA_SENSITIVE
            | CKA_ENCRYPT
            | CKA_DECRYPT
            | CKA_WRAP
            | CKA_UNWRAP
            | CKA_SIGN
            | CKA_SIGN_RECOVER
            | CKA_VERIFY
            | CKA_VERIFY_RECOVER
            | CKA_DERIVE
            | CKA_EXTRACTABLE
            | CKA_LOCAL
            | CKA_NEVER_EXTRACTABLE
            | CKA_ALWAYS_SENSITIVE
            | CKA_MODIFIABLE
            | CKA_COPYABLE
            | CKA_DESTROYABLE
            | CKA_SECONDARY_AUTH
            | CKA_ALWAYS_AUTHENTICATE
            | CKA_WRAP_WITH_TRUSTED
            | CKA_OTP_USER_FRIENDLY_MODE
            | CKA_RESET_ON_INIT
            | CKA_HAS_RESET
            | CKA_ENCAPSULATE
            | CKA_DECAPSULATE
    )
}

/// Whether the original converts values of this type.
pub fn is_number(attribute_type: AttributeType) -> bool {
    matches!(
        narrow(attribute_type.0),
        CKA_CLASS
            | CKA_CERTIFICATE_TYPE
            | CKA_JAVA_MIDP_SECURITY_DOMAIN
            | CKA_KEY_TYPE
            | CKA_MODULUS_BITS
            | CKA_VALUE_LEN
            | CKA_KEY_GEN_MECHANISM
            | CKA_AUTH_PIN_FLAGS
            | CKA_PIXEL_X
            | CKA_PIXEL_Y
            | CKA_RESOLUTION
            | CKA_CHAR_ROWS
            | CKA_CHAR_COLUMNS
            | CKA_COLOR
            | CKA_BITS_PER_PIXEL
            | CKA_MECHANISM_TYPE
    )
}

#[cfg(test)]
mod tests {
    use crate::record::MARK_SIZE;
    use crate::rpc::{self, Request, Xid};
    use crate::{
        Attribute, Call, CkRv, Mechanism, MechanismType, ObjectHandle, Reply, SessionHandle,
        TemplateResult,
    };

    use super::*;

    /// Each client architecture with the number 3 in its layout.
    const CLIENTS: [(Architecture, &[u8]); 4] = [
        (Architecture::LITTLE_64, &[3, 0, 0, 0, 0, 0, 0, 0]),
        (Architecture::LITTLE_32, &[3, 0, 0, 0]),
        (Architecture::BIG_64, &[0, 0, 0, 0, 0, 0, 0, 3]),
        (Architecture::BIG_32, &[0, 0, 0, 3]),
    ];

    const NUMBERS: [u64; 16] = [
        0x0, 0x80, 0x88, 0x100, 0x121, 0x161, 0x166, 0x201, 0x400, 0x401, 0x402, 0x403, 0x404,
        0x405, 0x406, 0x500,
    ];

    fn template(attributes: &[(u64, &[u8])]) -> Template {
        let attribute =
            |(number, value): &(u64, &[u8])| Attribute::new(AttributeType(*number), value.to_vec());
        Template(attributes.iter().map(attribute).collect())
    }

    fn abi(client: Architecture) -> Abi {
        Abi::of_client(client)
    }

    #[test]
    fn converts_a_number_between_every_two_architectures() {
        for (from, value) in CLIENTS {
            for (to, expected) in CLIENTS {
                for number in NUMBERS {
                    let converted = convert(template(&[(number, value)]), abi(from), abi(to));
                    assert!(
                        converted == template(&[(number, expected)]),
                        "{from:?} {to:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn converts_no_other_attribute() {
        let others = (0..0x700).chain([0x4000_0600, 0x4000_0211, 0x8000_0000, 0x8000_0100]);
        for number in others.filter(|number| !NUMBERS.contains(number)) {
            for (from, value) in CLIENTS {
                let kept = convert(template(&[(number, value)]), abi(from), Abi::HOST);
                assert!(kept == template(&[(number, value)]), "{number:#x}");
            }
        }
    }

    #[test]
    fn passes_values_of_any_other_length_and_empty_ones() {
        for (client, value) in CLIENTS {
            for length in (0..20).filter(|length| *length != value.len()) {
                let odd = || template(&[(0, &vec![1; length])]);
                assert!(convert(odd(), abi(client), Abi::HOST) == odd());
            }
        }
        let mut unavailable = template(&[(0, &[])]);
        unavailable.0[0].value_len = Ulong::UNAVAILABLE;
        let kept = to_client(unavailable.clone(), Architecture::BIG_32);
        assert!(kept == unavailable);
    }

    #[test]
    fn cuts_a_number_for_a_client_of_shorter_words() {
        let (from, to) = (abi(Architecture::BIG_64), abi(Architecture::LITTLE_32));
        let value = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
        let cut = convert(template(&[(0x161, &value)]), from, to);
        assert!(cut == template(&[(0x161, &[0x88, 0x77, 0x66, 0x55])]));
    }

    #[test]
    fn the_size_of_a_nested_template_is_one_of_the_receivers() {
        let sized = |length: usize, zeros: usize| {
            let mut sized = template(&[(0x4000_0211, &vec![0; zeros])]);
            sized.0[0].value_len = Ulong(length as u64);
            sized
        };
        let ours = Abi::HOST.attribute_size();
        for (client, theirs) in [
            (Architecture::LITTLE_64, 24),
            (Architecture::LITTLE_32, 12),
            (Architecture::BIG_64, 24),
            (Architecture::BIG_32, 12),
        ] {
            for zeros in [0, 3] {
                let told = to_client(sized(3 * ours, zeros * ours), client);
                assert!(told == sized(3 * theirs, zeros * theirs), "{client:?}");
            }
            assert!(to_client(sized(0, 0), client) == sized(0, 0));
            let odd = to_client(sized(3 * ours + 1, 0), client);
            assert!(odd == sized(3 * ours + 1, 0));
            let mut unavailable = sized(0, 0);
            unavailable.0[0].value_len = Ulong::UNAVAILABLE;
            assert!(to_client(unavailable.clone(), client) == unavailable);
        }
    }

    /// The original ends its process here: it wants 4 bytes of a big-endian 64-bit module.
    #[test]
    fn keeps_numbers_between_two_big_endian_hosts() {
        let big = abi(Architecture::BIG_64);
        let value = [0, 0, 0, 0, 0, 0, 0, 3];
        assert!(convert(template(&[(0, &value)]), big, big) == template(&[(0, &value)]));
    }

    #[test]
    fn converts_the_templates_and_parameters_of_whole_calls() {
        let session = SessionHandle(1);
        for (client, three) in CLIENTS {
            let ours = template(&[(0, &narrow(3).to_ne_bytes()), (3, b"gv")]);
            let theirs = || template(&[(0, three), (3, b"gv")]);
            let pss = MechanismType(0xd);
            let sent = || Mechanism::unread(pss, [three, three, three].concat());
            let our_word = narrow(3).to_ne_bytes();
            let received = || {
                let parameter = [our_word, our_word, our_word].concat();
                Mechanism::laid_out(pss, parameter, Architecture::host())
            };
            let arrives = |call: Call<'_>, expected: Call<'_>| {
                let mut buffer = Vec::new();
                let record = rpc::write_call(Xid(1), &call, &mut buffer).expect("small");
                let record = record.to_vec();
                match rpc::read_request(&record[MARK_SIZE..], client) {
                    Request::Call(_, call) => assert!(call == expected, "{client:?}"),
                    other => panic!("{other:?}"),
                }
            };
            arrives(
                Call::C_GenerateKeyPair(session, sent(), theirs(), theirs()),
                Call::C_GenerateKeyPair(session, received(), ours.clone(), ours.clone()),
            );
            let key = ObjectHandle(9);
            arrives(
                Call::C_UnwrapKey(session, sent(), key, b"key", theirs()),
                Call::C_UnwrapKey(session, received(), key, b"key", ours.clone()),
            );

            let written = |template, client| {
                let rv = CkRv::OK;
                let reply = Reply::C_GetAttributeValue(TemplateResult { rv, template });
                let mut buffer = Vec::new();
                let slices = rpc::write_reply(Xid(1), &reply, client, &mut buffer);
                slices.expect("small").to_vec()
            };
            assert_eq!(
                written(ours, client),
                written(theirs(), Architecture::host())
            );
        }
    }
}
