//! Compares the wire format with bytes captured from the original: a call and a reply of every function,
//! and exchanges at the level of RPC. Also cuts and changes them.
//!
//! `vectors/README.md` says where the bytes come from; `capture` captures them again.

#[path = "../support/mod.rs"]
mod support;

mod capture;

use std::path::{Path, PathBuf};

use xdr::Architecture;
use xdr::call::{Call, Function, Reply};
use xdr::codec::{Encoder, Wire};
use xdr::record::Records;
use xdr::rpc::{Request, Xid};

/// The same as in `xdr`, for a client of this host's architecture.
mod rpc {
    pub use xdr::rpc::*;

    use super::*;

    pub fn read_request(record: &[u8]) -> Request<'_> {
        xdr::rpc::read_request(record, Architecture::host())
    }

    pub fn write_reply<'b>(
        xid: Xid,
        reply: &'b Reply,
        buffer: &'b mut Vec<u8>,
    ) -> Result<xdr::codec::Slices<'b>, xdr::codec::EncodeError> {
        xdr::rpc::write_reply(xid, reply, Architecture::host(), buffer)
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
    let mut buffer = Vec::new();
    let written = rpc::write_reply(xid, &reply, &mut buffer).expect("small");
    assert!(
        written.to_vec() == vector.bytes,
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
    for function in Function::ALL {
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

/// What is read of a record is written, and read again as the same; whether it was read.
fn is_read_as_written(record: &[u8], function: Function, is_call: bool) -> bool {
    let mut buffer = Vec::new();
    if is_call {
        let Request::Call(xid, call) = rpc::read_request(record) else {
            return false;
        };
        let Ok(written) = rpc::write_call(xid, &call, &mut buffer) else {
            // An address in a parameter is known as one and never written.
            let parameter = &call.mechanism().expect("nothing else fails").parameter;
            assert!(parameter.for_module(true).is_err(), "{record:x?}");
            return true;
        };
        let written = written.to_vec();
        // A credential or verifier with a body is read and never written.
        assert!(written.len() <= record.len() + 4, "{record:x?}");
        let Request::Call(again, same) = rpc::read_request(&written[4..]) else {
            panic!("{record:x?}: written and not read");
        };
        assert!(again == xid && same == call, "{record:x?}");
    } else {
        let Ok(xid) = decoder(record).word().map(Xid) else {
            return false;
        };
        let Some(Ok(reply)) = rpc::read_reply(xid, function, record) else {
            return false;
        };
        let written = rpc::write_reply(xid, &reply, &mut buffer).expect("small");
        let written = written.to_vec();
        assert!(written.len() <= record.len() + 4, "{record:x?}");
        let again = rpc::read_reply(xid, function, &written[4..]);
        assert!(again == Some(Ok(reply)), "{record:x?}");
    }
    true
}

/// Each byte of each captured record takes some other values, one at a time.
fn change_bytes(values: impl Fn(u8) -> Vec<u8>) {
    for vector in vectors() {
        let original = record(&vector.bytes);
        let mut changed = original.clone();
        for (position, byte) in original.iter().enumerate() {
            for value in values(*byte) {
                changed[position] = value;
                is_read_as_written(&changed, vector.function, vector.is_call);
            }
            changed[position] = *byte;
        }
    }
}

#[test]
fn a_changed_byte_is_refused_or_read_exactly() {
    change_bytes(|byte| vec![0x00, 0x01, 0x7f, 0x80, 0xff, byte ^ 4]);
}

#[test]
#[ignore = "soak: make soak"]
fn every_changed_byte_is_refused_or_read_exactly() {
    change_bytes(|_| (0..=u8::MAX).collect());
}

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }

    /// Changes, adds, removes or repeats a few bytes, mostly where words are.
    fn change(&mut self, record: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let position = self.below(record.len() + 1);
            let word = position & !3;
            match self.below(6) {
                0 if position < record.len() => record[position] = self.below(256) as u8,
                1 if word + 4 <= record.len() => {
                    let length = [0, 1, 2, 3, 4, 8, 0x7fff_ffff, 0xffff_fffc][self.below(8)];
                    record[word..word + 4].copy_from_slice(&u32::to_be_bytes(length));
                }
                2 => record.truncate(position),
                3 => drop(record.drain(word..(word + 4).min(record.len()))),
                4 => drop(record.splice(word..word, [0, 0, 0, self.below(5) as u8])),
                _ => {
                    let end = (position + self.below(40)).min(record.len());
                    let part = record[position..end].to_vec();
                    record.extend(part);
                }
            }
        }
    }
}

/// Calls and replies of all functions, changed `rounds` times each.
fn change_records(rounds: usize) {
    let mut seeds: Vec<(Vec<u8>, Function, bool)> = vectors()
        .into_iter()
        .map(|vector| (record(&vector.bytes), vector.function, vector.is_call))
        .collect();
    for function in Function::ALL {
        let mut buffer = Vec::new();
        let refused = Reply::only(*function, xdr::CkRv::OK);
        let written = rpc::write_reply(Xid(7), &refused, &mut buffer).expect("small");
        seeds.push((written.to_vec()[4..].to_vec(), *function, false));
        // As many arguments as it takes, all of them zero: handles, then empty strings and lists.
        let mut call = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 3].to_vec();
        call.splice(3..4, [7]);
        call.extend(function.number().to_be_bytes());
        call.extend([0; 16]);
        let complete = (0..20).find(|_| {
            call.extend([0; 4]);
            let short = &call[..call.len() - 4];
            matches!(rpc::read_request(short), Request::Call(..))
        });
        assert!(complete.is_some(), "{}", function.name());
        call.truncate(call.len() - 4);
        seeds.push((call, *function, true));
    }
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut read = 0;
    for (record, function, is_call) in &seeds {
        assert!(is_read_as_written(record, *function, *is_call));
        for _ in 0..rounds {
            let mut changed = record.clone();
            numbers.change(&mut changed);
            read += usize::from(is_read_as_written(&changed, *function, *is_call));
        }
    }
    // Neither all nor none, or nothing was tried.
    let tried = seeds.len() * rounds;
    assert!((tried / 100..tried).contains(&read), "{read} of {tried}");
}

#[test]
fn changed_records_are_refused_or_read_exactly() {
    change_records(100);
}

#[test]
#[ignore = "soak: make soak"]
fn millions_of_changed_records_are_refused_or_read_exactly() {
    change_records(30_000);
}

/// However a stream of fragments arrives, it makes the same records, or ends at the same mark.
#[test]
fn any_stream_in_any_pieces_makes_the_same_records() {
    const LIMIT: usize = 40_000;
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    for _ in 0..3000 {
        let mut stream = Vec::new();
        let (mut expected, mut record) = (Vec::new(), Vec::new());
        let mut is_over = false;
        for _ in 0..=numbers.below(12) {
            let length = match numbers.below(4) {
                0 => 0,
                1 => numbers.below(5),
                2 => numbers.below(500),
                _ => numbers.below(30_000),
            };
            let is_last = numbers.below(2) == 0;
            let mark = length as u32 | if is_last { 1 << 31 } else { 0 };
            let first = numbers.below(256);
            stream.extend(mark.to_be_bytes());
            let payload: Vec<u8> = (first..first + length).map(|n| (n % 251) as u8).collect();
            stream.extend(&payload);
            record.extend(payload);
            if record.len() > LIMIT {
                is_over = true;
                break;
            }
            if is_last {
                expected.push(std::mem::take(&mut record));
            }
        }
        expected.retain(|record| !record.is_empty());
        let mut records = Records::new(LIMIT);
        let mut found = Vec::new();
        let mut rest = stream.as_slice();
        let mut ended = false;
        while !rest.is_empty() && !ended {
            let space = records.space().expect("memory");
            let count = (1 + numbers.below(20_000)).min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            records.received(count);
            rest = &rest[count..];
            loop {
                match records.next() {
                    Ok(Some(record)) => found.push(record.to_vec()),
                    Ok(None) => break,
                    Err(_) => {
                        ended = true;
                        break;
                    }
                }
            }
        }
        assert!(found == expected);
        assert_eq!(ended, is_over);
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
            assert!(Call::read(function, decoder(arguments)).is_err());
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
        let mut output = Encoder::new(&mut buffer, Architecture::host());
        reply.write(&mut output);
        let written = output.finish().expect("small").to_vec();
        let read = Reply::read(*function, decoder(&written[4..])).expect("well formed");
        assert!(read == reply, "{function:?}");
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
