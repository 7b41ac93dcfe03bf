//! Converts the numbers in a client's templates between its architecture and this host's.
//!
//! Values are converted while a record is decoded or written, so that no rule sees the client's layout. Exactly the
//! attributes that the original converts (`encode_ck_attribute_arch`) are converted: its clients expect the others as
//! the module wrote them, arrays of CK_ULONG included. Nothing here refuses an attribute.

use crate::attribute_types::{is_nested, is_number};
use crate::integers::{Architecture, Ulong};
use crate::version3::{Attribute, Template};
use crate::word_size::Abi;

/// Whether a client of this architecture lays out numbers in another way than this host.
pub(super) fn differs(client: Architecture) -> bool {
    let client = Abi::of_client(client);
    client.word != Abi::HOST.word || client.little != Abi::HOST.little
}

/// Converts values from the client's layout to this host's.
pub fn to_host(template: Template, client: Architecture) -> Template {
    convert(template, Abi::of_client(client), Abi::HOST)
}

/// Converts values from this host's layout to the client's.
pub fn to_client(mut template: Template, client: Architecture) -> Template {
    let client = Abi::of_client(client);
    for attribute in &mut template.0 {
        resize_nested(attribute, Abi::HOST, client);
    }
    convert(template, Abi::HOST, client)
}

/// Converts the size of a nested template that was asked for: the number of CK_ATTRIBUTEs stays the same, and each has
/// the receiver's size. The value is zeros, or empty.
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

#[cfg(test)]
mod tests {
    use crate::record::MARK_SIZE;
    use crate::rpc::{self, Request, Xid};
    use crate::version3::{Attribute, Call, Mechanism, Reply, TemplateResult};
    use crate::{AttributeType, CkRv, MechanismType, ObjectHandle, SessionHandle};

    use super::*;
    use crate::word_size::narrow;

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

    /// The original's process ends here, because it expects 4 bytes from a big-endian 64-bit module.
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
                let record = rpc::write_call(Xid(1), &call, false, &mut buffer).expect("small");
                let record = record.to_vec();
                let peer = rpc::Peer {
                    architecture: client,
                    versions: 3..=3,
                };
                match rpc::read_request(&record[MARK_SIZE..], &peer) {
                    Request::Call(incoming) => {
                        assert!(incoming.call == expected.into_current(), "{client:?}");
                    }
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
                let reply = rpc::Outgoing::Three(reply);
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
