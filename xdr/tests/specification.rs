//! Checks that the types the crate writes by hand are those of `pkcs11_rpc_v4.x`.
//!
//! build.rs has xdrgen compile the whole interface. xdrgen's types read what ours have written, to the last byte, and
//! write it again as the same bytes.

use xdr::codec::{Encoder, Wire};
use xdr::{
    Answer, Answers, Architecture, Attribute, AttributeType, Found, Hello, Input, Query, Room,
    Template, Ulong, Value, Wanted, WantedRoom,
};

#[allow(clippy::all, clippy::pedantic, unused, non_camel_case_types)]
mod specification {
    include!(concat!(env!("OUT_DIR"), "/specification.rs"));
}

/// Returns the bytes that our type writes.
fn written<'b>(value: &'b impl Wire<'b>) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut encoder = Encoder::new(&mut buffer, Architecture::host());
    value.write(&mut encoder);
    let record = encoder.finish().expect("small");
    record.to_vec().split_off(xdr::record::MARK_SIZE)
}

/// Reads the bytes as xdrgen's type, and writes them again.
fn agrees<'b, T>(value: &'b impl Wire<'b>)
where
    T: for<'r> xdr_codec::Unpack<&'r [u8]> + xdr_codec::Pack<Vec<u8>>,
{
    let bytes = written(value);
    let mut rest = bytes.as_slice();
    let (read, size) = T::unpack(&mut rest).expect("the specification reads it");
    assert_eq!((size, rest.len()), (bytes.len(), 0));
    let mut again = Vec::new();
    read.pack(&mut again).expect("a vector");
    assert_eq!(again, bytes);
}

const CLASS: AttributeType = AttributeType(0);
const LABEL: AttributeType = AttributeType(3);
const WRAP_TEMPLATE: AttributeType = AttributeType(0x4000_0211);
const ALLOWED_MECHANISMS: AttributeType = AttributeType(0x4000_0600);

fn word(number: usize) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

#[test]
fn buffers_are_as_specified() {
    for input in [
        Input::Null { length: 7 },
        Input::Bytes(b""),
        Input::Bytes(b"abcde"),
    ] {
        agrees::<specification::Input>(&input);
    }
    for room in [
        Room::NoLength,
        Room::Null { length: u64::MAX },
        Room::Buffer(0),
        Room::Buffer(1 << 40),
    ] {
        agrees::<specification::Room>(&room);
    }
    let hello = Hello {
        architecture: None,
        longest_record: Ulong(1 << 30),
        parallel_calls: Ulong(16),
        features: xdr::Flags(1),
    };
    agrees::<specification::Hello>(&hello);
}

#[test]
fn templates_are_as_specified() {
    let inner = Template(vec![
        Attribute::new(CLASS, word(4)),
        Attribute::new(LABEL, b"x".to_vec()),
    ]);
    let template = Template(vec![
        Attribute::new(CLASS, word(3)),
        Attribute::new(CLASS, vec![3]),
        Attribute::new(LABEL, b"label".to_vec()),
        Attribute::new(ALLOWED_MECHANISMS, [word(1), word(usize::MAX)].concat()),
        Attribute {
            attribute_type: LABEL,
            value: Value::Null { length: 9 },
        },
        Attribute {
            attribute_type: WRAP_TEMPLATE,
            value: Value::Template(inner),
        },
    ]);
    agrees::<specification::Template>(&template);
    agrees::<specification::TemplatePointer>(&Some(template));
    agrees::<specification::TemplatePointer>(&None::<Template>);
}

#[test]
fn questions_and_answers_are_as_specified() {
    let inner = Query(vec![Wanted::value(LABEL, 5), Wanted::length(CLASS)]);
    let query = Query(vec![
        Wanted::length(LABEL),
        Wanted::value(LABEL, 100),
        Wanted::value(CLASS, size_of::<usize>()),
        Wanted::value(CLASS, 3),
        Wanted {
            attribute_type: WRAP_TEMPLATE,
            room: WantedRoom::Template(inner),
        },
    ]);
    agrees::<specification::Query>(&query);
    let found = |attribute_type, found| Answer {
        attribute_type,
        found,
    };
    let inner = Answers(vec![found(LABEL, Found::Bytes(b"x".to_vec()))]);
    let answers = Answers(vec![
        found(LABEL, Found::Untouched),
        found(LABEL, Found::Unavailable),
        found(LABEL, Found::Length(12)),
        found(CLASS, Found::Length(16)),
        found(CLASS, Found::Length(3)),
        found(CLASS, Found::Bytes(word(2))),
        found(CLASS, Found::Bytes(vec![2])),
        found(
            ALLOWED_MECHANISMS,
            Found::Bytes([word(1), word(2)].concat()),
        ),
        found(LABEL, Found::Bytes(b"label".to_vec())),
        found(WRAP_TEMPLATE, Found::TemplateLength(2)),
        found(WRAP_TEMPLATE, Found::Template(inner)),
    ]);
    agrees::<specification::Answers>(&answers);
}
