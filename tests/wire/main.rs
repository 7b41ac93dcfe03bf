//! Compares the wire format with bytes captured from the original: a call and a reply of every function, and exchanges
//! at the level of RPC.
//!
//! `vectors/README.md` says where the bytes come from; `capture` captures them again; `changed` truncates and changes
//! them.

#[path = "../support/mod.rs"]
mod support;

mod capture;
mod changed;

use std::path::{Path, PathBuf};

use xdr::codec::{Encoder, Wire};
use xdr::record::Records;
use xdr::rpc::Xid;
use xdr::version3::{Call, Reply};
use xdr::{Architecture, Function, version3};

use support::version3::Request;

/// Version 3 for a client of this host's architecture.
mod rpc {
    pub use xdr::rpc::{Rejection, write_rejection};

    use super::*;
    pub use crate::support::version3::{read_reply, write_call};

    pub fn read_request(record: &[u8]) -> Request<'_> {
        support::version3::read_request(record, Architecture::host())
    }

    pub fn write_reply(xid: Xid, reply: &Reply) -> Vec<u8> {
        support::version3::write_reply(xid, reply, Architecture::host()).expect("small")
    }
}

fn decoder(bytes: &[u8]) -> xdr::codec::Decoder<'_> {
    xdr::codec::Decoder::new(bytes, Architecture::host())
}

/// A captured record: its bytes with the mark, and the function its file is named after.
struct Vector {
    file: PathBuf,
    function: Function,
    is_call: bool,
    bytes: Vec<u8>,
}

fn unhex(text: &str) -> Vec<u8> {
    let code = text.lines().filter_map(|line| line.split('#').next());
    let digits: String = code
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();
    assert_eq!(digits.len() % 2, 0, "odd number of hex digits");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/vectors");
    let mut found = Vec::new();
    for entry in folder.read_dir().expect("the vectors are there") {
        let file = entry.expect("a readable folder").path();
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a plain name");
        let Some(rest) = name.strip_suffix(".hex") else {
            continue;
        };
        let (rest, kind) = rest.rsplit_once('.').expect("Function[.case].kind.hex");
        let function = rest.split_once('.').map_or(rest, |(function, _)| function);
        found.push(Vector {
            function: Function::from_name(function).expect("a function of the interface"),
            is_call: kind == "call",
            bytes: unhex(&std::fs::read_to_string(&file).expect("a readable vector")),
            file,
        });
    }
    found
}

/// The one record in `stream`.
fn record(stream: &[u8]) -> Vec<u8> {
    let mut records = Records::new(1 << 20);
    let space = records.space().unwrap();
    space[..stream.len()].copy_from_slice(stream);
    records.received(stream.len());
    records
        .next()
        .expect("within the limit")
        .expect("a complete record")
        .to_vec()
}

fn xid(record: &[u8]) -> Xid {
    Xid(decoder(record).word().expect("a record has an xid"))
}

/// The call is read as what it is, and written again byte for byte.
fn check_call(vector: &Vector) {
    let file = vector.file.display();
    let record = record(&vector.bytes);
    let Request::Call(xid, call) = rpc::read_request(&record) else {
        panic!("{file}: not read as a call");
    };
    assert_eq!(call.function(), vector.function, "{file}");
    let mut buffer = Vec::new();
    let written = rpc::write_call(xid, &call, &mut buffer).expect("small");
    assert!(
        written.to_vec() == vector.bytes,
        "{file}: written differently"
    );
}

/// The reply is read as what it is, and written again byte for byte.
fn check_reply(vector: &Vector) {
    let file = vector.file.display();
    let record = record(&vector.bytes);
    let xid = xid(&record);
    let reply = rpc::read_reply(xid, vector.function, &record).expect("its own xid");
    let reply = reply.unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(
        rpc::write_reply(xid, &reply) == vector.bytes,
        "{file}: written differently"
    );
    let other = Xid(xid.0.wrapping_add(1));
    assert!(rpc::read_reply(other, vector.function, &record).is_none());
}

#[test]
fn captured_calls_are_read_and_written_byte_for_byte() {
    let vectors = vectors();
    vectors.iter().filter(|v| v.is_call).for_each(check_call);
}

#[test]
fn captured_replies_are_read_and_written_byte_for_byte() {
    let vectors = vectors();
    vectors.iter().filter(|v| !v.is_call).for_each(check_reply);
}

#[test]
fn every_function_has_a_captured_call_and_reply() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/vectors");
    for function in version3::FUNCTIONS {
        for kind in ["call", "reply"] {
            let file = folder.join(format!("{}.{kind}.hex", function.name()));
            assert!(file.exists(), "{} is missing", file.display());
        }
    }
}

#[test]
fn captured_values_land_in_the_right_fields() {
    let find = |name: &str| {
        let vectors = vectors();
        let vector = vectors
            .into_iter()
            .find(|vector| vector.file.ends_with(name));
        record(&vector.expect("the vector is there").bytes)
    };
    let login = find("C_Login.call.hex");
    let Request::Call(_, Call::C_Login(session, user, pin)) = rpc::read_request(&login) else {
        panic!("not a login");
    };
    assert_eq!((session.0, user.0, pin), (1, 1, &b"1234"[..]));

    let find_init = find("C_FindObjectsInit.call.hex");
    let Request::Call(_, Call::C_FindObjectsInit(_, template)) = rpc::read_request(&find_init)
    else {
        panic!("not a search");
    };
    let attributes: Vec<_> = template
        .0
        .iter()
        .map(|a| (a.attribute_type.0, a.value.as_slice()))
        .collect();
    assert_eq!(attributes, [(0, &[4, 0, 0, 0, 0, 0, 0, 0][..]), (3, b"gv")]);

    let info = find("C_GetInfo.reply.hex");
    let reply = rpc::read_reply(xid(&info), Function::C_GetInfo, &info);
    let Some(Ok(Reply::C_GetInfo(result))) = reply else {
        panic!("not an info")
    };
    assert_eq!(result.info.cryptoki_version.major(), 2);
    assert_eq!(result.info.cryptoki_version.minor(), 40);
    assert_eq!(
        result.info.manufacturer_id,
        format!("{:32}", "SoftHSM").as_bytes()
    );

    let list = find("C_GetMechanismList.reply.hex");
    let reply = rpc::read_reply(xid(&list), Function::C_GetMechanismList, &list);
    let Some(Ok(Reply::C_GetMechanismList(result))) = reply else {
        panic!("not a list")
    };
    assert_eq!(
        (result.rv.0, result.mechanisms.len(), result.count.0),
        (0x150, 0, 70)
    );
}

/// Each `>` of rpc.txt with the `<` that follows it; a `<` without one answers a call that was not
/// captured.
fn exchanges() -> Vec<(Vec<u8>, Vec<u8>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/vectors/rpc.txt");
    let text = std::fs::read_to_string(file).expect("rpc.txt is there");
    let mut asked = None;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(call) = line.strip_prefix("> ") {
            asked = Some(unhex(call));
        } else if let Some(reply) = line.strip_prefix("< ") {
            found.extend(asked.take().map(|call| (call, unhex(reply))));
        }
    }
    assert_eq!(found.len(), 8);
    found
}

#[test]
fn unusual_calls_get_the_originals_answers() {
    for (call, expected) in exchanges() {
        let record = record(&call);
        let mut buffer = Vec::new();
        let written = match rpc::read_request(&record) {
            // The original accepts it, with the status SYSTEM_ERR (D-15).
            Request::Rejected(_, rpc::Rejection::RpcMismatch) => continue,
            Request::Rejected(xid, rejection) => rpc::write_rejection(xid, rejection, &mut buffer)
                .expect("small")
                .to_vec(),
            // The two calls that are executed: C_SetupArch(0) and C_SetupArch(1).
            Request::Call(xid, Call::C_SetupArch(code)) => {
                let answer = if code.0 == 1 {
                    code
                } else {
                    xdr::Architecture::UNSUPPORTED
                };
                let reply = Reply::C_SetupArch(answer);
                rpc::write_reply(xid, &reply)
            }
            other => panic!("read as {other:?}"),
        };
        assert_eq!(written, expected);
    }
}

#[test]
fn authentication_other_than_none_is_denied() {
    let call = exchanges().pop().expect("the last one is C_SetupArch").0;
    let mut plain = record(&call);
    plain[27] = 1;
    let Request::Rejected(_, rejection) = rpc::read_request(&plain) else {
        panic!("accepted")
    };
    let mut buffer = Vec::new();
    let xid = Xid(0x1122_000f);
    let written = rpc::write_rejection(xid, rejection, &mut buffer)
        .expect("small")
        .to_vec();
    assert_eq!(
        written,
        unhex("80000014 1122000f 00000001 00000001 00000001 00000005")
    );
}

/// The bytes are those of RFC 5531, section 9: MSG_DENIED, RPC_MISMATCH, low 2, high 2.
#[test]
fn other_versions_of_rpc_are_denied() {
    let call = exchanges().pop().expect("the last one is C_SetupArch").0;
    for version in [0, 1, 3, u32::MAX] {
        let mut other = record(&call);
        other[8..12].copy_from_slice(&version.to_be_bytes());
        let Request::Rejected(_, rejection) = rpc::read_request(&other) else {
            panic!("accepted")
        };
        let mut buffer = Vec::new();
        let xid = Xid(0x1122_0008);
        let written = rpc::write_rejection(xid, rejection, &mut buffer)
            .expect("small")
            .to_vec();
        assert_eq!(
            written,
            unhex("80000018 11220008 00000001 00000001 00000000 00000002 00000002")
        );
    }
}

#[test]
fn procedures_are_numbered_from_2_to_70_and_named_as_in_the_standard() {
    let numbers: Vec<u32> = version3::FUNCTIONS
        .iter()
        .map(|function| function.number())
        .collect();
    assert_eq!(numbers, (2..=70).collect::<Vec<u32>>());
    for function in Function::ALL {
        assert_eq!(Function::from_number(function.number()), Some(*function));
        assert_eq!(Function::from_name(function.name()), Some(*function));
    }
    assert_eq!(Function::from_number(1), None);
    assert_eq!(Function::from_number(71), None);
}

#[test]
fn long_byte_strings_are_sent_from_where_they_lie() {
    let data = vec![7; 100_001];
    let signature = vec![9; 5000];
    let call = Call::C_Verify(xdr::SessionHandle(1), &data, &signature);
    let mut buffer = Vec::new();
    let written = rpc::write_call(Xid(5), &call, &mut buffer).expect("fits");
    let pointers: Vec<_> = written.unsent().iter().map(|part| part.as_ptr()).collect();
    assert!(pointers.contains(&data.as_ptr()) && pointers.contains(&signature.as_ptr()));
    let stream = written.to_vec();
    assert!(buffer.len() < 100);

    let Request::Call(_, read) = rpc::read_request(&stream[4..]) else {
        panic!("not a call")
    };
    assert!(read == call);
}

#[test]
fn partial_writes_go_on_where_they_stopped() {
    let data = vec![7; 10_000];
    let call = Call::C_Digest(xdr::SessionHandle(1), &data);
    let (mut one, mut other) = (Vec::new(), Vec::new());
    let whole = rpc::write_call(Xid(5), &call, &mut one)
        .expect("fits")
        .to_vec();
    let mut slices = rpc::write_call(Xid(5), &call, &mut other).expect("fits");
    let mut sent = Vec::new();
    while !slices.is_sent() {
        let count = slices.to_vec().len().min(997);
        sent.extend_from_slice(&slices.to_vec()[..count]);
        slices.advance(count);
    }
    assert!(sent == whole);
}

#[test]
fn a_refused_call_carries_every_field_of_its_result() {
    for function in version3::FUNCTIONS {
        let reply = Reply::only(*function, xdr::CkRv::FUNCTION_NOT_SUPPORTED);
        let reply = reply.expect("a function of version 3");
        assert_eq!(reply.rv().0, 0x54);
        let mut buffer = Vec::new();
        let mut output = Encoder::new(&mut buffer, Architecture::host());
        reply.write(&mut output);
        let written = output.finish().expect("small").to_vec();
        let read = Reply::read(*function, decoder(&written[4..]));
        assert!(read == Some(Ok(reply)), "{function:?}");
    }
    // Versions are numbers even then: one byte each.
    let mut buffer = Vec::new();
    let mut output = Encoder::new(&mut buffer, Architecture::host());
    let version = xdr::Version::default();
    output.opaque(&version.major);
    output.opaque(&version.minor);
    let bytes = output.finish().expect("small").to_vec();
    let mut input = decoder(&bytes[4..]);
    assert_eq!(<&[u8] as Wire>::read(&mut input), Ok(&[0][..]));
}
