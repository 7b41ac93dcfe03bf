//! Tests results that are received into the application's memory.

use super::*;
use crate::landing::{Landing, SHORT};

/// What the application's buffer has before the call.
const BEFORE: u8 = 0xee;

/// Bytes in which each place can be told from its neighbours.
fn bytes(length: usize) -> Vec<u8> {
    (0..length)
        .map(|place| (place % 251) as u8 ^ (place >> 12) as u8)
        .collect()
}

/// The outcome of a call with a buffer: the reply, how many bytes landed in the buffer, and the buffer.
struct Outcome {
    reply: OutputResult,
    landed: Option<usize>,
    buffer: Vec<u8>,
}

impl Outcome {
    /// Whether the buffer has these bytes, and behind them what it had before, and the reply has no bytes.
    fn has_landed(&self, bytes: &[u8]) -> bool {
        let (first, rest) = self.buffer.split_at(bytes.len());
        self.reply.rv.is_ok()
            && self.reply.length.0 == bytes.len() as u64
            && self.reply.data.is_empty()
            && self.landed == Some(bytes.len())
            && first == bytes
            && rest.iter().all(|byte| *byte == BEFORE)
    }

    /// Whether the reply has these bytes, and the buffer is as before.
    fn has_replied(&self, bytes: &[u8]) -> bool {
        self.reply.rv.is_ok()
            && self.reply.data == *bytes
            && self.landed.is_none()
            && self.buffer.iter().all(|byte| *byte == BEFORE)
    }
}

/// Calls C_Digest in this session with a buffer of this size.
fn digest_into(connection: &Connection, session: u64, data: &[u8], room: usize) -> Outcome {
    let (data, session) = (Input::Bytes(data), SessionHandle(session));
    call_into(connection, room, |room| Call::C_Digest(session, data, room))
}

fn call_into<'a>(
    connection: &Connection,
    room: usize,
    call: impl FnOnce(Room) -> Call<'a>,
) -> Outcome {
    let mut buffer = vec![BEFORE; room];
    let mut landing = Landing::new(&mut buffer);
    landing.set_landed(Some(1)); // of an earlier call
    let reply = connection.call_into(call(Room::Buffer(room as u64)), &mut landing);
    let (Reply::C_Digest(reply) | Reply::C_Decrypt(reply)) = reply else {
        panic!("another function's reply")
    };
    let landed = landing.landed();
    Outcome {
        reply,
        landed,
        buffer,
    }
}

/// The record of the reply to this call.
fn record(asked: &Asked, reply: Reply) -> Vec<u8> {
    let (reply, host) = (Outgoing::Four(reply), Architecture::host());
    let mut buffer = Vec::new();
    let record = rpc::write_reply(asked.xid, &reply, host, &mut buffer);
    record.unwrap().to_vec()
}

/// Sends these bytes in pieces that end at these places.
fn send_in_pieces(client: &Client, bytes: &[u8], ends: &[usize]) {
    let mut socket = client.closer.socket();
    let mut sent = 0;
    for end in ends.iter().copied().chain([bytes.len()]) {
        // The client may have closed the connection.
        let _ = socket.write_all(&bytes[sent..end]);
        sent = end;
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_long_result_lands_and_a_short_one_is_in_the_reply() {
    for is_tls in [false, true] {
        let path = SocketPath::new();
        serve(&path, is_tls, MANY, |client, asked| client.echo(&asked));
        let connection = open(&path, is_tls, LONG, nothing_is_told());
        for length in [SHORT + 1, SHORT + 2, SHORT + 3, 100_000, 3 << 20] {
            let data = bytes(length);
            for room in [length, length + 1, 2 * length] {
                let outcome = digest_into(&connection, 1, &data, room);
                assert!(outcome.has_landed(&data), "{length} into {room}, {is_tls}");
            }
        }
        for length in [0, 1, 16_339, 16_340, 16_341, 40_001, SHORT - 1, SHORT] {
            let data = bytes(length);
            let outcome = digest_into(&connection, 1, &data, 1 << 20);
            assert!(outcome.has_replied(&data), "{length}, {is_tls}");
        }
    }
}

#[test]
fn a_result_lands_in_whatever_pieces_it_comes() {
    const LENGTH: usize = SHORT + 3; // with one byte of padding
    for ends in [
        &[1][..],
        &[4, 5],
        &[47],
        &[48],
        &[49],
        &[10, 48, 20_000],
        &[48, 47 + LENGTH],
        &[48 + LENGTH],
        &[47, 48 + LENGTH, 49 + LENGTH],
        &[49 + LENGTH, 49 + LENGTH + 20],
    ] {
        let ends = ends.to_vec();
        let connection = connected(MANY, LONG, move |client, asked| {
            // A reply that nobody waits for comes behind it.
            let nobody = Asked {
                xid: Xid(asked.xid.0 ^ 0x8000_0000),
                ..Asked::default()
            };
            let own = record(&asked, digest_of(&asked.data));
            let other = record(&nobody, digest_of(b"other"));
            send_in_pieces(client, &[own, other].concat(), &ends);
        });
        let data = bytes(LENGTH);
        for _ in 0..2 {
            assert!(digest_into(&connection, 1, &data, LENGTH).has_landed(&data));
        }
    }
}

#[test]
fn a_result_in_several_fragments_arrives() {
    let data = bytes(SHORT + 5);
    for (lengths, lands) in [
        (&[60][..], true),
        (&[1, 2, 50, 5], true),
        // The last fragments are short, and come as a whole.
        (&[40, SHORT], false),
        (&[44, SHORT + 5], false),
    ] {
        let connection = connected(MANY, LONG, move |client, asked| {
            let whole = record(&asked, digest_of(&asked.data));
            let (mut stream, mut ends, mut rest) = (Vec::new(), Vec::new(), &whole[4..]);
            for length in lengths {
                let (fragment, others) = rest.split_at(*length);
                stream.extend_from_slice(&(fragment.len() as u32).to_be_bytes());
                stream.extend_from_slice(fragment);
                ends.push(stream.len());
                rest = others;
            }
            stream.extend_from_slice(&(rest.len() as u32 | 1 << 31).to_be_bytes());
            stream.extend_from_slice(rest);
            send_in_pieces(client, &stream, &ends);
        });
        for _ in 0..2 {
            let outcome = digest_into(&connection, 1, &data, data.len());
            let is_right = match lands {
                true => outcome.has_landed(&data),
                false => outcome.has_replied(&data),
            };
            assert!(is_right, "{lengths:?}");
        }
    }
}

#[test]
fn the_bytes_of_a_call_that_failed_land_too() {
    let data = bytes(SHORT + 1);
    let connection = connected(MANY, LONG, |client, asked| {
        let result = OutputResult {
            rv: CkRv::BUFFER_TOO_SMALL,
            length: Ulong(1 << 20),
            data: asked.data.into(),
        };
        client.reply(asked.xid, Reply::C_Digest(result));
    });
    let outcome = digest_into(&connection, 1, &data, data.len());
    assert_eq!(outcome.reply.rv, CkRv::BUFFER_TOO_SMALL);
    assert_eq!(outcome.reply.length, Ulong(1 << 20));
    assert!(outcome.landed == Some(data.len()) && outcome.buffer == data);
}

#[test]
fn what_does_not_fit_is_not_written() {
    let data = bytes(SHORT + 4);
    for (told, room) in [
        (data.len(), data.len() - 1),
        (data.len() - 1, data.len()),
        (data.len() + 1, data.len() + 1),
        (0, data.len()),
    ] {
        let connection = connected(MANY, LONG, move |client, asked| {
            let result = OutputResult {
                rv: CkRv::OK,
                length: Ulong(told as u64),
                data: asked.data.into(),
            };
            client.reply(asked.xid, Reply::C_Digest(result));
        });
        let outcome = digest_into(&connection, 1, &data, room);
        // The caller refuses the result, because the lengths are wrong.
        assert!(outcome.has_replied(&data), "{told} into {room}");
    }
}

#[test]
fn a_long_reply_of_another_type_is_malformed() {
    let connection = connected(MANY, LONG, |client, asked| {
        let words = [asked.xid.0, 1, 0, 0, 0, 0, 0, 5];
        client.send_words(&[&words[..], &[7; SHORT]].concat());
    });
    let data = bytes(10);
    let outcome = digest_into(&connection, 1, &data, 1 << 20);
    assert_eq!(outcome.reply.rv, CkRv::DEVICE_ERROR);
    assert!(outcome.landed.is_none() && connection.is_lost());
}

#[test]
fn a_result_that_stops_half_way_fails_and_leaves_no_plaintext() {
    for (closes, all) in [(true, false), (true, true), (false, false), (false, true)] {
        let time = if closes {
            LONG
        } else {
            Duration::from_millis(300)
        };
        let connection = connected(MANY, time, move |client, asked| {
            let result = OutputResult {
                rv: CkRv::OK,
                length: Ulong(asked.data.len() as u64),
                data: asked.data.clone().into(),
            };
            let record = record(&asked, Reply::C_Decrypt(result));
            // The last byte is padding.
            let sent = record.len() - if all { 1 } else { 40_000 };
            send_in_pieces(client, &record[..sent], &[100]);
            if closes {
                client.closer.shut_down();
            }
        });
        let data = vec![7; SHORT + 3];
        let outcome = call_into(&connection, data.len(), |room| {
            Call::C_Decrypt(SessionHandle(1), Input::Bytes(&data), room)
        });
        assert_eq!(outcome.reply.rv, CkRv::DEVICE_ERROR);
        assert!(outcome.landed.is_none() && connection.is_lost());
        assert!(outcome.buffer.iter().all(|byte| [0, BEFORE].contains(byte)));
        assert_eq!(outcome.buffer[0], 0, "something had arrived");
    }
}

#[test]
fn threads_get_their_own_results() {
    let connection = connected(MANY, LONG, |client, asked| {
        let time = Duration::from_micros(asked.session * 50);
        echo_after(time, client, asked);
    });
    let right = in_threads(
        8,
        |session| {
            (0..40).all(|round| {
                let length = 1000 + ((session * 7919 + round * 10_007) % 120_000) as usize;
                let mut data = bytes(length);
                data[0] = session as u8;
                let outcome = digest_into(&connection, session, &data, 125_000);
                outcome.has_landed(&data) || outcome.has_replied(&data)
            })
        },
        || (),
    );
    assert_eq!(right, [true; 8]);
    assert!(!connection.is_lost());
}
