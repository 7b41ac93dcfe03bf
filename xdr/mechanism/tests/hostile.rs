//! Feeds the decoder input that no honest peer sends.

use super::support::{Random, decoded, encoded, mechanism, number_of, takers};
use crate::call::MOST_ELEMENTS;
#[allow(unused_imports)]
use crate::codec::{DecodeError, Decoder, Encoder, Wire as _};
use crate::mechanism::notation::DEEPEST;
use crate::mechanism::*;

/// One encoded mechanism of each structure, and of each other kind of parameter.
fn samples() -> Vec<Vec<u8>> {
    let mut random = Random(5);
    let mut samples = vec![
        encoded(&Mechanism::bare(number_of("CKM_SHA256"))).unwrap(),
        encoded(&mechanism(
            "CKM_AES_CBC",
            Parameter::Bytes(PlainBytes(vec![7; 16].into())),
        ))
        .unwrap(),
    ];
    for (name, _, layout) in takers() {
        let sent = mechanism(name, Parameter::Structure(random.structure(layout)));
        samples.push(encoded(&sent).unwrap());
    }
    samples
}

/// Checks, for whatever a peer sent, that a module is given either complete memory or nothing.
fn use_up(mechanism: &Mechanism) {
    let _ = mechanism.named_keys();
    let _ = format!("{mechanism:?}");
    for (usage, _) in Use::ALL {
        if let Ok(mut assembly) = mechanism.assemble(usage, true) {
            let images = assembly.images();
            for place in assembly.pointers() {
                assert!(place.offset + size_of::<usize>() <= images[place.block].len());
                assert!(place.target < images.len());
            }
            assembly.fill(0xff);
            let _ = assembly.written(true);
        }
    }
}

#[test]
fn every_prefix_of_a_mechanism_is_refused() {
    for sample in samples() {
        assert!(decoded(&sample).is_ok());
        for length in 0..sample.len() {
            assert!(decoded(&sample[..length]).is_err());
        }
    }
}

#[test]
fn every_change_of_one_byte_is_refused_or_is_a_value() {
    for sample in samples() {
        for position in 0..sample.len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = sample.clone();
                changed[position] ^= change;
                if let Ok(mechanism) = decoded(&changed) {
                    use_up(&mechanism);
                }
            }
        }
    }
}

#[test]
fn random_changes_of_many_bytes_are_refused_or_are_values() {
    let mut random = Random(6);
    for sample in samples() {
        for _ in 0..200 {
            let mut changed = sample.clone();
            for _ in 0..1 + random.below(4) {
                let position = random.below(changed.len() as u64) as usize;
                changed[position] = random.next() as u8;
            }
            changed.truncate(1 + random.below(2 * changed.len() as u64) as usize);
            if let Ok(mechanism) = decoded(&changed) {
                use_up(&mechanism);
            }
        }
    }
}

/// Writes the wire by hand.
#[derive(Default)]
struct Wire(Vec<u8>);

impl Wire {
    fn word(mut self, number: u32) -> Wire {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn hyper(mut self, number: u64) -> Wire {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn opaque(self, bytes: &[u8]) -> Wire {
        let mut wire = self.word(bytes.len() as u32);
        wire.0.extend(bytes);
        wire.0.resize(wire.0.len().next_multiple_of(4), 0);
        wire
    }

    fn number(self, number: u64) -> Wire {
        self.word(0).hyper(number)
    }

    fn null(self) -> Wire {
        self.word(2)
    }

    fn data(self, bytes: &[u8]) -> Wire {
        self.word(3).opaque(bytes)
    }

    /// The start of a mechanism with a structure.
    fn structure(self, mechanism: &str, name: &str, fields: u32) -> Wire {
        self.hyper(number_of(mechanism).0)
            .word(2)
            .opaque(name.as_bytes())
            .word(fields)
    }

    fn read(self) -> Result<Mechanism, DecodeError> {
        decoded(&self.0)
    }
}

fn oaep() -> Wire {
    let wire = Wire::default().structure("CKM_RSA_PKCS_OAEP", "CK_RSA_PKCS_OAEP_PARAMS", 5);
    wire.number(0x250).number(2).number(1)
}

#[test]
fn the_length_has_to_be_that_of_the_data() {
    assert!(oaep().data(b"label").number(5).read().is_ok());
    assert!(oaep().data(b"label").number(4).read() == Err(DecodeError::Invalid));
    assert!(oaep().data(b"label").number(6).read() == Err(DecodeError::Invalid));
    assert!(oaep().data(b"").number(0).read().is_ok());
    // Any length is allowed beside NULL.
    assert!(oaep().null().number(6).read().is_ok());
    assert!(oaep().null().number(u64::MAX).read().is_ok());
}

#[test]
fn each_field_has_to_be_of_its_kind() {
    let label = |wire: Wire| wire.number(5).read();
    assert!(label(oaep().word(4).hyper(5)) == Err(DecodeError::Invalid)); // room
    assert!(label(oaep().word(5).hyper(5)) == Err(DecodeError::Invalid)); // a number behind it
    assert!(label(oaep().number(0x41)) == Err(DecodeError::Invalid)); // an address
    assert!(label(oaep().word(1).opaque(b"label")) == Err(DecodeError::Invalid)); // in place
    assert!(label(oaep().word(9)) == Err(DecodeError::Invalid));
    assert!(oaep().data(b"label").data(b"").read() == Err(DecodeError::Invalid));
}

/// Begins a CK_SP800_108_KDF_PARAMS, up to the array of its data.
fn sp800(count: u64) -> Wire {
    let wire = Wire::default();
    let wire = wire.structure("CKM_SP800_108_COUNTER_KDF", "CK_SP800_108_KDF_PARAMS", 5);
    wire.number(0x251).number(count)
}

/// Begins a CK_PRF_DATA_PARAM of a type, up to its value.
fn data_param(wire: Wire, kind: u64) -> Wire {
    wire.opaque(b"CK_PRF_DATA_PARAM").word(3).number(kind)
}

#[test]
fn counts_have_to_be_those_of_the_elements() {
    let data = |count, sent: u32| {
        let mut wire = sp800(count).word(6).word(sent);
        for _ in 0..sent {
            wire = data_param(wire, 4).data(b"label").number(5);
        }
        wire.number(0).null().read()
    };
    assert!(data(2, 2).is_ok() && data(0, 0).is_ok());
    assert!(data(1, 2) == Err(DecodeError::Invalid));
    assert!(data(3, 2) == Err(DecodeError::Invalid));
    let wire = sp800(1).word(6).word(1);
    let short = data_param(wire, 4).data(b"label").number(4);
    assert!(short.number(0).null().read() == Err(DecodeError::Invalid)); // inside of an element
    // Two structures where the pointer refers to one.
    let wrap = |count: u32| {
        let wire = Wire::default();
        let wire = wire.structure("CKM_RSA_AES_KEY_WRAP", "CK_RSA_AES_KEY_WRAP_PARAMS", 2);
        let mut wire = wire.number(256).word(6).word(count);
        for _ in 0..count {
            wire = wire.opaque(b"CK_RSA_PKCS_OAEP_PARAMS").word(5);
            wire = wire.number(0).number(0).number(0).null().number(0);
        }
        wire.read()
    };
    assert!(wrap(1).is_ok());
    assert!(wrap(0) == Err(DecodeError::Invalid));
    assert!(wrap(2) == Err(DecodeError::Invalid));
    let keys = |attributes: u64| {
        let wire = sp800(0).null().number(1).word(6).word(1);
        let wire = wire.opaque(b"CK_DERIVED_KEY").word(3);
        let wire = template(wire, b"name").number(attributes).null();
        wire.read()
    };
    assert!(keys(1).is_ok());
    assert!(keys(2) == Err(DecodeError::Invalid));
}

/// A pointer to a template of one CKA_LABEL.
fn template(wire: Wire, value: &[u8]) -> Wire {
    // CKA_LABEL, as bytes.
    wire.word(7).word(1).hyper(3).word(1).opaque(value)
}

#[test]
fn the_kind_of_a_value_has_to_be_that_of_its_type() {
    let value = |kind, value: fn(Wire) -> Wire| {
        let wire = data_param(sp800(1).word(6).word(1), kind);
        value(wire).number(0).null().read()
    };
    let key = |wire: Wire| wire.word(5).hyper(7).number(0);
    let bytes = |wire: Wire| wire.data(&[7; 8]).number(8);
    let counter = |wire: Wire| {
        let wire = wire.word(6).word(1).opaque(b"CK_SP800_108_COUNTER_FORMAT");
        wire.word(2).number(0).number(32).number(0)
    };
    let key_of = value(5, key).unwrap();
    assert_eq!(key_of.named_keys(), Ok(vec![ObjectHandle(7)]));
    assert!(value(4, bytes).is_ok() && value(1, counter).is_ok());
    // The kind of value does not fit the type, so a key among them would not be checked.
    assert!(value(5, bytes) == Err(DecodeError::Invalid));
    assert!(value(4, key) == Err(DecodeError::Invalid));
    assert!(value(5, counter) == Err(DecodeError::Invalid));
    assert!(value(3, counter) == Err(DecodeError::Invalid));
    assert!(value(1, key) == Err(DecodeError::Invalid));
    // The size is not that of the structure: the module will judge it.
    assert!(value(1, bytes).is_ok());
    // The receiver computes the size of a number or structure itself.
    let sized = |wire: Wire| wire.word(5).hyper(7).number(8);
    assert!(value(5, sized) == Err(DecodeError::Invalid));
}

#[test]
fn rooms_have_to_be_as_the_length_says_and_text_has_no_zero() {
    let prf = |room, length| {
        let wire = Wire::default().structure("CKM_TLS_PRF", "CK_TLS_PRF_PARAMS", 6);
        let wire = wire.null().number(0).null().number(0);
        wire.word(4).hyper(room).word(5).hyper(length).read()
    };
    assert!(prf(12, 12).is_ok());
    assert!(prf(13, 12) == Err(DecodeError::Invalid));
    assert!(prf(11, 12) == Err(DecodeError::Invalid));
    let text = |text: &[u8]| {
        let wire = Wire::default().structure("CKM_CMS_SIG", "CK_CMS_SIG_PARAMS", 8);
        let wire = wire.number(0).null().null().data(text);
        wire.null().number(0).null().number(0).read()
    };
    assert!(text(b"text/plain").is_ok() && text(b"").is_ok());
    assert!(text(b"text\0plain") == Err(DecodeError::Invalid));
}

#[test]
fn a_structure_has_to_have_its_fields() {
    let short = Wire::default().structure("CKM_RSA_PKCS_PSS", "CK_RSA_PKCS_PSS_PARAMS", 2);
    assert!(short.number(0).number(0).read() == Err(DecodeError::Invalid));
    let long = Wire::default().structure("CKM_RSA_PKCS_PSS", "CK_RSA_PKCS_PSS_PARAMS", 4);
    let long = long.number(0).number(0).number(0).number(0);
    assert!(long.read() == Err(DecodeError::Invalid));
    // A CK_BBOOL is one byte.
    let flag = |flag| {
        let wire = Wire::default().structure("CKM_EDDSA", "CK_EDDSA_PARAMS", 3);
        wire.number(flag).number(0).null().read()
    };
    assert!(flag(0xff).is_ok());
    assert!(flag(0x100) == Err(DecodeError::Invalid));
}

/// This is no error of the protocol, because the other side may know more mechanisms.
#[test]
fn a_structure_that_the_mechanism_does_not_take_reaches_no_module() {
    for name in ["CK_GCM_PARAMS", "CK_FOO_PARAMS", ""] {
        let wire = Wire::default().structure("CKM_RSA_PKCS_PSS", name, 3);
        let received = wire.number(0).data(b"data").null().read().unwrap();
        assert!(matches!(received.parameter(), Parameter::Unread(_)));
        let refused = Some(CkRv::MECHANISM_PARAM_INVALID);
        assert_eq!(received.assemble(Use::Operation, true).err(), refused);
        assert!(encoded(&received).is_none());
    }
    for length in [1, 7, 40, 47, 48, 49, 56] {
        let passes = |mechanism, usage| {
            let wire = Wire::default().hyper(number_of(mechanism).0).word(1);
            let received = wire.opaque(&vec![0x41; length]).read().unwrap();
            received.assemble(usage, true).is_ok()
        };
        for (usage, _) in Use::ALL {
            assert!(!passes("CKM_AES_GCM", usage), "{length}");
        }
        assert!(passes("CKM_AES_CBC", Use::Operation));
    }
}

/// The third field of CK_GCM_MESSAGE_PARAMS is a number where CK_GCM_PARAMS has an address.
#[test]
fn a_structure_of_another_use_reaches_no_module() {
    let mut random = Random(7);
    for (name, usage, layout) in takers() {
        let sent = mechanism(name, Parameter::Structure(random.structure(layout)));
        for (other, _) in Use::ALL {
            let takes = parameters::layouts(sent.mechanism_type(), other).contains(&layout);
            assert_eq!(
                sent.assemble(other, true).is_ok(),
                takes,
                "{name} {other:?}"
            );
        }
        assert!(sent.assemble(usage, false).is_ok());
    }
    let message = mechanism(
        "CKM_AES_GCM",
        Parameter::Structure(random.structure(super::support::layout("CK_GCM_MESSAGE_PARAMS"))),
    );
    assert!(message.assemble(Use::Operation, true).is_err());
    assert!(message.assemble(Use::Wrap, true).is_err());
}

/// A module of v2.40 takes the length for a pointer to the length.
#[test]
fn the_length_of_a_password_is_no_address() {
    let pbkdf2 = |password: Option<&[u8]>, length: u64| {
        let wire = Wire::default().structure("CKM_PKCS5_PBKD2", "CK_PKCS5_PBKD2_PARAMS2", 9);
        let wire = wire.number(1).null().number(0).number(1).number(4);
        let wire = wire.null().number(0);
        let wire = match password {
            Some(password) => wire.data(password),
            None => wire.null(),
        };
        let received = wire.number(length).read().unwrap();
        received.assemble(Use::Operation, true).is_ok()
    };
    assert!(pbkdf2(Some(b"password"), 8));
    assert!(pbkdf2(None, 0xf_ffff));
    assert!(!pbkdf2(None, 0x10_0000));
    assert!(!pbkdf2(None, 0x7fff_1234_5678));
    assert!(!pbkdf2(None, u64::MAX));
}

/// CK_GCM_PARAMS of v2.20 has a pointer where that of v2.40 has ulIvBits, and CK_GCM_PARAMS has one where
/// CK_GCM_WRAP_PARAMS has ivGenerator.
#[test]
fn a_number_is_no_address_in_another_structure_of_the_mechanism() {
    let gcm = |bits: u64| {
        let wire = Wire::default().structure("CKM_AES_GCM", "CK_GCM_PARAMS", 6);
        let wire = wire.null().number(12).number(bits);
        let received = wire.null().number(0).number(128).read().unwrap();
        received.assemble(Use::Operation, true).is_ok()
    };
    let wrap = |generator: u64| {
        let wire = Wire::default().structure("CKM_AES_GCM", "CK_GCM_WRAP_PARAMS", 7);
        let wire = wire.null().number(12).number(0).number(generator);
        let received = wire.null().number(0).number(128).read().unwrap();
        received.assemble(Use::Wrap, true).is_ok()
    };
    for number in [0, 1, 96, 0xf_ffff] {
        assert!(gcm(number) && wrap(number));
    }
    for number in [0x10_0000, 0x7fff_1234_5678, u64::MAX] {
        assert!(!gcm(number) && !wrap(number));
    }
}

#[test]
fn nesting_ends_at_its_limit() {
    // A CK_KIP_PARAMS with a mechanism with a CK_KIP_PARAMS, and so on.
    let nested = |levels: usize| {
        let mut wire = Wire::default();
        for _ in 1..levels {
            wire = wire.structure("CKM_KIP_MAC", "CK_KIP_PARAMS", 4).word(8);
        }
        wire = wire.structure("CKM_KIP_MAC", "CK_KIP_PARAMS", 4).null();
        for _ in 0..levels {
            wire = wire.number(1).null().number(0);
        }
        wire.read()
    };
    let deepest = nested(DEEPEST).unwrap();
    assert_eq!(deepest.named_keys(), Ok(vec![ObjectHandle(1); DEEPEST]));
    assert_eq!(deepest.inner_mechanisms().len(), DEEPEST - 1);
    assert!(nested(DEEPEST + 1) == Err(DecodeError::Invalid));
    assert!(nested(100_000) == Err(DecodeError::Invalid));

    // Other things than mechanisms with structures at the last level and behind it.
    let below = |levels: usize, last: fn(Wire) -> Wire| {
        let mut wire = Wire::default();
        for _ in 0..levels {
            wire = wire.structure("CKM_KIP_MAC", "CK_KIP_PARAMS", 4).word(8);
        }
        wire = last(wire);
        for _ in 0..levels {
            wire = wire.number(1).null().number(0);
        }
        wire.read()
    };
    let bare = |wire: Wire| wire.hyper(0x250).word(0).hyper(0);
    assert!(below(DEEPEST - 1, bare).is_ok());
    assert!(below(DEEPEST, bare) == Err(DecodeError::Invalid));
    let with_data = |mut wire: Wire| {
        wire.0.extend(sp800(1).word(6).word(1).0);
        data_param(wire, 4)
            .data(b"label")
            .number(5)
            .number(0)
            .null()
    };
    assert!(below(DEEPEST - 2, with_data).is_ok());
    assert!(below(DEEPEST - 1, with_data) == Err(DecodeError::Invalid));
    let with_template = |mut wire: Wire| {
        wire.0.extend(sp800(0).null().number(1).word(6).word(1).0);
        let wire = wire.opaque(b"CK_DERIVED_KEY").word(3);
        template(wire, b"name").number(1).null()
    };
    assert!(below(DEEPEST - 3, with_template).is_ok());
    assert!(below(DEEPEST - 2, with_template) == Err(DecodeError::TooDeep));
    // CKA_WRAP_TEMPLATE in the template, and one more in it.
    let wrap = |wire: Wire| wire.word(1).hyper(0x4000_0211).word(4);
    let with_inner = |mut wire: Wire, inner: &dyn Fn(Wire) -> Wire| {
        wire.0.extend(sp800(0).null().number(1).word(6).word(1).0);
        let wire = wire.opaque(b"CK_DERIVED_KEY").word(3).word(7);
        inner(wire).number(1).null().read()
    };
    let empty = |wire: Wire| wrap(wire).word(0);
    assert!(with_inner(Wire::default(), &empty).is_ok());
    let too_deep = with_inner(Wire::default(), &|wire| wrap(wrap(wire)).word(0));
    assert!(too_deep == Err(DecodeError::TooDeep));

    // The same in structures that are skipped.
    let unknown = |levels: usize| {
        let mut wire = Wire::default().hyper(0x8000_0001).word(2);
        for _ in 0..levels {
            wire = wire.opaque(b"CK_FOO").word(1).word(6).word(1);
        }
        wire.opaque(b"CK_FOO").word(0).read()
    };
    assert!(unknown(DEEPEST - 1).is_ok());
    assert!(unknown(DEEPEST) == Err(DecodeError::Invalid));
    assert!(unknown(100_000) == Err(DecodeError::Invalid));
}

#[test]
fn a_parameter_over_the_limit_is_refused_before_memory_is_used() {
    let label = vec![0; LONGEST_PARAMETER];
    let wire = oaep().data(&label).number(LONGEST_PARAMETER as u64);
    assert!(wire.read() == Err(DecodeError::TooLong)); // with the structure itself
    let label = vec![0; LONGEST_PARAMETER - 40];
    let wire = oaep().data(&label).number(label.len() as u64);
    assert!(wire.read().is_ok());
    for room in [1 << 20, 1 << 40, u64::MAX] {
        let wire = Wire::default().structure("CKM_TLS_PRF", "CK_TLS_PRF_PARAMS", 6);
        let wire = wire.null().number(0).null().number(0);
        let wire = wire.word(4).hyper(room).word(5).hyper(room);
        assert!(wire.read() == Err(DecodeError::TooLong), "{room}");
    }
    let wire = sp800(0).null().number(1).word(6).word(1);
    let wire = wire.opaque(b"CK_DERIVED_KEY").word(3);
    let wire = template(wire, &vec![0; LONGEST_PARAMETER]).number(1).null();
    assert!(wire.read() == Err(DecodeError::TooLong));
    // Arrays of numbers count, too. CKA_ALLOWED_MECHANISMS.
    let numbers = |arrays: u32, result: Result<(), DecodeError>| {
        let wire = sp800(0).null().number(1).word(6).word(1);
        let mut wire = wire.opaque(b"CK_DERIVED_KEY").word(3).word(7).word(arrays);
        for _ in 0..arrays {
            wire = wire.hyper(0x4000_0600).word(3).word(MOST_ELEMENTS as u32);
            wire.0
                .extend(1_u64.to_be_bytes().repeat(MOST_ELEMENTS as usize));
        }
        assert!(wire.number(arrays.into()).null().read().map(drop) == result);
    };
    numbers(1, Ok(()));
    numbers(2, Err(DecodeError::TooLong));
    // What the table does not have is not copied either.
    for (length, result) in [
        (LONGEST_PARAMETER, Err(DecodeError::TooLong)),
        (LONGEST_PARAMETER - 24, Ok(())),
    ] {
        let wire = Wire::default().hyper(0x8000_0001).word(2);
        let wire = wire.opaque(b"CK_FOO").word(1);
        let wire = template(wire, &vec![0; length]);
        assert!(wire.read().map(drop) == result);
    }
    // Structures without any data have a size as well.
    let count = LONGEST_PARAMETER / 24 + 1;
    let mut wire = Wire::default().structure("CKM_HOTP", "CK_OTP_PARAMS", 2);
    wire = wire.word(6).word(count as u32);
    for _ in 0..count {
        wire = wire.opaque(b"CK_OTP_PARAM").word(3);
        wire = wire.number(0).null().number(0);
    }
    assert!(wire.number(count as u64).read() == Err(DecodeError::TooLong));
}

#[test]
fn a_daemon_that_lies_about_what_was_written_is_not_believed() {
    let place = |length, kind| OutputPlace {
        address: 0x1000,
        length,
        kind,
    };
    struct Untouched;
    impl Memory for Untouched {
        fn read(&self, _: usize, length: usize) -> Result<Vec<u8>, CkRv> {
            Ok(vec![0; length])
        }
    }
    let written = |wire: Wire| {
        let mut input = Decoder::new(&wire.0, Architecture::host());
        Written::read(&mut input)
    };
    let twelve = || written(Wire::default().word(1).word(1).opaque(&[1; 12])).unwrap();
    let room = |length| [place(length, OutputKind::Bytes)];
    let changes = |written: Written, places: &[OutputPlace]| {
        let changes = written.changes(places, &Untouched)?;
        Ok(changes.iter().map(|change| change.bytes.len()).sum())
    };
    assert_eq!(changes(twelve(), &room(12)), Ok(12));
    assert_eq!(changes(twelve(), &room(16)), Ok(12));
    assert_eq!(changes(twelve(), &room(11)), Err(CkRv::GENERAL_ERROR));
    assert_eq!(changes(twelve(), &[]), Err(CkRv::GENERAL_ERROR));
    let number = [place(size_of::<usize>(), OutputKind::Number)];
    assert_eq!(changes(twelve(), &number), Err(CkRv::GENERAL_ERROR));
    assert_eq!(changes(Written::default(), &number), Ok(0));
    assert!(written(Wire::default().word(1).word(2)) == Err(DecodeError::Invalid));
    assert!(written(Wire::default().word(u32::MAX)) == Err(DecodeError::Short));
    let long = Wire::default()
        .word(1)
        .word(1)
        .opaque(&vec![0; LONGEST_PARAMETER + 1]);
    assert!(written(long) == Err(DecodeError::TooLong));
}
