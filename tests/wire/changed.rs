//! Truncates and changes the captured records, and cuts streams of records: the result is refused or read exactly.

use crate::*;

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
            let call = call.into_current();
            let parameter = call.mechanism().expect("nothing else fails").parameter();
            assert!(parameter.for_module(true).is_err(), "{record:x?}");
            return true;
        };
        let written = written.to_vec();
        // A credential or verifier with a body is read and never written. A nested template whose bytes are missing
        // gets one, so that it is refused: four bytes more for an attribute of twenty.
        assert!(written.len() <= record.len() * 6 / 5 + 4, "{record:x?}");
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
        let written = rpc::write_reply(xid, &reply);
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
    for function in version3::FUNCTIONS {
        let refused = Reply::only(*function, xdr::CkRv::OK).expect("a function of version 3");
        let written = rpc::write_reply(Xid(7), &refused);
        seeds.push((written[4..].to_vec(), *function, false));
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
            let read = Call::read(function, decoder(arguments)).expect("a function of version 3");
            assert!(read.is_err());
        }
    }
}
