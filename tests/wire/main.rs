//! The wire format against bytes that came from the original: 24 calls with their replies, the
//! RPC-level exchanges, and what becomes of them when they are cut or changed.

use std::path::{Path, PathBuf};

use xdr::call::{Call, Function, Reply};
use xdr::codec::{Decoder, Encoder, Wire};
use xdr::record::Records;
use xdr::rpc::{self, Request, Xid};

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
        let (rest, kind) = rest.rsplit_once('.').expect("NN_Function.kind.hex");
        let (_, function) = rest.split_once('_').expect("NN_Function");
        found.push(Vector {
            function: Function::from_name(function).expect("a function of the interface"),
            is_call: kind == "call",
            bytes: unhex(&std::fs::read_to_string(&file).expect("a readable vector")),
            file,
        });
    }
    assert_eq!(found.len(), 48);
    found
}

/// The one record in `stream`.
fn record(stream: &[u8]) -> Vec<u8> {
    let mut records = Records::new(1 << 20);
    let space = records.space();
    space[..stream.len()].copy_from_slice(stream);
    records.received(stream.len());
    records
        .next()
        .expect("within the limit")
        .expect("a complete record")
        .to_vec()
}

fn xid(record: &[u8]) -> Xid {
    Xid(Decoder::new(record).word().expect("a record has an xid"))
}

#[test]
fn captured_calls_are_read_and_written_byte_for_byte() {
    for vector in vectors().iter().filter(|vector| vector.is_call) {
        let record = record(&vector.bytes);
        let Request::Call(xid, call) = rpc::read_request(&record) else {
            panic!("{}: not read as a call", vector.file.display());
        };
        assert_eq!(
            call.function(),
            vector.function,
            "{}",
            vector.file.display()
        );
        let mut buffer = Vec::new();
        let written = rpc::write_call(xid, &call, &mut buffer)
            .expect("small")
            .to_vec();
        assert!(
            written == vector.bytes,
            "{}: written differently",
            vector.file.display()
        );
    }
}

#[test]
fn captured_replies_are_read_and_written_byte_for_byte() {
    for vector in vectors().iter().filter(|vector| !vector.is_call) {
        let record = record(&vector.bytes);
        let xid = xid(&record);
        let reply = rpc::read_reply(xid, vector.function, &record).expect("its own xid");
        let reply = reply.unwrap_or_else(|error| panic!("{}: {error}", vector.file.display()));
        let mut buffer = Vec::new();
        let written = rpc::write_reply(xid, &reply, &mut buffer)
            .expect("small")
            .to_vec();
        assert!(
            written == vector.bytes,
            "{}: written differently",
            vector.file.display()
        );
        let other = Xid(xid.0.wrapping_add(1));
        assert!(rpc::read_reply(other, vector.function, &record).is_none());
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
    let login = find("11_C_Login.call.hex");
    let Request::Call(_, Call::C_Login(session, user, pin)) = rpc::read_request(&login) else {
        panic!("not a login");
    };
    assert_eq!((session.0, user.0, pin), (1, 1, &b"1234"[..]));

    let find_init = find("14_C_FindObjectsInit.call.hex");
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

    let info = find("06_C_GetInfo.reply.hex");
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

    let list = find("08_C_GetMechanismList.reply.hex");
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
                rpc::write_reply(xid, &reply, &mut buffer)
                    .expect("small")
                    .to_vec()
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

#[test]
fn every_prefix_of_a_record_is_refused() {
    for vector in vectors() {
        let record = record(&vector.bytes);
        for length in 0..record.len() {
            let prefix = &record[..length];
            if vector.is_call {
                match rpc::read_request(prefix) {
                    Request::Call(..) => panic!("{}: {length} read", vector.file.display()),
                    Request::Unanswerable => assert!(length < 4),
                    Request::Rejected(..) => assert!(length >= 4),
                }
            } else {
                let reply = rpc::read_reply(xid(&record), vector.function, prefix);
                assert!(
                    matches!(reply, Some(Err(_))),
                    "{}: {length}",
                    vector.file.display()
                );
            }
        }
        let longer = [record.as_slice(), &[0; 4]].concat();
        if vector.is_call {
            let request = rpc::read_request(&longer);
            assert!(matches!(
                request,
                Request::Rejected(_, rpc::Rejection::GarbageArguments)
            ));
        } else {
            assert!(
                rpc::read_reply(xid(&record), vector.function, &longer)
                    .unwrap()
                    .is_err()
            );
        }
    }
}

#[test]
fn a_changed_byte_never_panics_and_what_is_read_is_written_the_same_length() {
    for vector in vectors() {
        let original = record(&vector.bytes);
        let mut buffer = Vec::new();
        for position in 0..original.len() {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff, original[position] ^ 4] {
                let mut changed = original.clone();
                changed[position] = value;
                if vector.is_call {
                    if let Request::Call(xid, call) = rpc::read_request(&changed) {
                        let written = rpc::write_call(xid, &call, &mut buffer).expect("small");
                        // A credential or verifier with a body is read and never written.
                        assert!(written.to_vec().len() <= vector.bytes.len());
                    }
                } else {
                    let _ = rpc::read_reply(xid(&changed), vector.function, &changed);
                }
            }
        }
    }
}

#[test]
fn lengths_beyond_the_record_are_refused() {
    // A template of 65536 attributes, then one attribute of 1 GiB, in a few bytes each.
    for arguments in [
        &[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0][..],
        &[
            0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4,
        ],
        &[0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
    ] {
        for function in [Function::C_FindObjectsInit, Function::C_CreateObject] {
            assert!(Call::read(function, arguments).is_err());
        }
    }
}

#[test]
fn procedures_are_numbered_from_2_to_70_and_named_as_in_the_standard() {
    let numbers: Vec<u32> = Function::ALL
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
    for function in Function::ALL {
        let reply = Reply::only(*function, xdr::CkRv::FUNCTION_NOT_SUPPORTED);
        assert_eq!(reply.rv().0, 0x54);
        let mut buffer = Vec::new();
        let mut output = Encoder::new(&mut buffer);
        reply.write(&mut output);
        let written = output.finish().expect("small").to_vec();
        let read = Reply::read(*function, &written[4..]).expect("well formed");
        assert!(read == reply, "{function:?}");
    }
    // Versions are numbers even then: one byte each.
    let mut buffer = Vec::new();
    let mut output = Encoder::new(&mut buffer);
    let version = xdr::Version::default();
    output.opaque(&version.major);
    output.opaque(&version.minor);
    let bytes = output.finish().expect("small").to_vec();
    let mut input = Decoder::new(&bytes[4..]);
    assert_eq!(<&[u8] as Wire>::read(&mut input), Ok(&[0][..]));
}
