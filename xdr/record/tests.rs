//! Tests record marking with streams in any fragmentation, received in pieces of any size.

use super::*;

fn feed(records: &mut Records, mut bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let space = records.space().unwrap();
        let count = step.min(space.len()).min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        records.received(count);
        bytes = &bytes[count..];
        while let Some(record) = records.next().expect("no record is over the limit") {
            found.push(record.to_vec());
        }
    }
    found
}

fn fragments(payload: &[u8], size: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut chunks = payload.chunks(size).peekable();
    while let Some(chunk) = chunks.next() {
        let last = if chunks.peek().is_none() { LAST } else { 0 };
        stream.extend_from_slice(&(chunk.len() as u32 | last).to_be_bytes());
        stream.extend_from_slice(chunk);
    }
    stream
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position % 251) as u8).collect()
}

#[test]
fn reassembles_any_fragmentation_in_any_steps() {
    for length in [1, 4, 47, 1000, 65532, 200_001] {
        for size in [1, 3, 100, 8996, 65532, 1 << 20] {
            for step in [1, 7, 4096, usize::MAX] {
                if length / size > 2000 || length / step > 5000 {
                    continue;
                }
                let mut records = Records::new(1 << 20);
                let one = fragments(&payload(length), size);
                let stream = [one.as_slice(), &one, &one].concat();
                let found = feed(&mut records, &stream, step);
                assert!(
                    found == vec![payload(length); 3],
                    "{length} in {size} by {step}"
                );
                assert!(!records.is_begun());
            }
        }
    }
}

#[test]
fn an_empty_record_is_passed_over_and_an_empty_last_fragment_ends_one() {
    let mut records = Records::new(100);
    assert!(feed(&mut records, &[0x80, 0, 0, 0], 4).is_empty());
    assert!(!records.is_begun());
    let stream = [
        0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0x80, 0, 0, 0,
    ];
    for step in [1, 18] {
        assert_eq!(feed(&mut records, &stream, step), [b"ab"]);
    }
}

#[test]
fn refuses_a_record_over_the_limit_when_its_length_is_read() {
    let mut records = Records::new(100);
    records.space().unwrap()[..4].copy_from_slice(&101u32.to_be_bytes());
    records.received(4);
    assert_eq!(records.next(), Err(TooLong));

    let mut records = Records::new(100);
    let stream = [
        &60u32.to_be_bytes()[..],
        &[0; 60],
        &(LAST | 41).to_be_bytes(),
    ]
    .concat();
    records.space().unwrap()[..stream.len()].copy_from_slice(&stream);
    records.received(stream.len());
    assert_eq!(records.next(), Err(TooLong));
}

/// Like [`feed`], but skips the records beyond the limit, and returns their beginnings.
fn feed_passing_over(records: &mut Records, mut bytes: &[u8], step: usize, most: u64) -> Fed {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let space = records.space().unwrap();
        let count = step.min(space.len()).min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        records.received(count);
        bytes = &bytes[count..];
        loop {
            match records.advance() {
                Ok(false) => break,
                Ok(true) => {
                    found.push((records.record().to_vec(), records.length_passed_over()));
                    records.wipe();
                }
                Err(TooLong) if !records.is_passed_over() => records.pass_over(most)?,
                Err(TooLong) => return Err(TooLong),
            }
        }
    }
    Ok(found)
}

type Fed = Result<Vec<(Vec<u8>, u64)>, TooLong>;

#[test]
fn goes_on_behind_a_record_that_is_passed_over() {
    for size in [700, 1000, 1001, 5000, 1 << 20] {
        for step in [1, 7, 4096, usize::MAX] {
            let mut records = Records::new(2000);
            let long = payload(300_000);
            let stream = [
                fragments(b"before", size),
                fragments(&long, size),
                fragments(&payload(2001), size),
                fragments(b"after", 2),
            ];
            let found = feed_passing_over(&mut records, &stream.concat(), step, 1 << 20);
            let expected = [
                (b"before".to_vec(), 6),
                (long[..BEGINNING].to_vec(), 300_000),
                (payload(2001)[..BEGINNING].to_vec(), 2001),
                (b"after".to_vec(), 5),
            ];
            assert!(found == Ok(expected.to_vec()), "{size} by {step}");
            assert!(!records.is_begun());
            assert!(records.buffer.len() <= 4 * SMALL);
        }
    }
}

#[test]
fn passes_over_no_more_than_it_is_told_to() {
    for (length, size, is_passed_over) in [
        (10_000, 1 << 20, true),
        (10_000, 100, true),
        (12_000, 1 << 20, false),
        (12_000, 100, false),
    ] {
        let mut records = Records::new(2000);
        let stream = fragments(&payload(length), size);
        let most = 10_000 - BEGINNING as u64;
        let found = feed_passing_over(&mut records, &stream, usize::MAX, most);
        assert_eq!(found.is_ok(), is_passed_over, "{length} in {size}");
    }
    // The record is refused as soon as its mark has arrived.
    let mut records = Records::new(2000);
    let stream = fragments(&payload(12_000), 1 << 20);
    assert_eq!(
        feed_passing_over(&mut records, &stream[..MARK_SIZE], 4, 10_000),
        Err(TooLong)
    );
}

#[test]
fn a_record_may_be_passed_over_when_much_of_it_is_there() {
    for length in [10, BEGINNING, 100_000, 5_000_000] {
        for rest in [&[][..], b"\x80\0\0"] {
            let mut records = Records::new(8 << 20);
            let secret = vec![7; length];
            let mut stream = fragments(&secret, 1 << 30);
            stream[0] &= 0x7f; // not the last fragment
            stream.extend_from_slice(rest);
            assert!(feed(&mut records, &stream, 1 << 20).is_empty());
            assert!(records.buffer.len() >= length);
            records.pass_over(1 << 20).unwrap_or_default();
            assert!(records.needed() <= 2 * SMALL);
            records.space().unwrap();
            let kept = length.min(BEGINNING);
            assert_eq!(records.record(), vec![7; kept]);
            let left = records.buffer.iter().filter(|byte| **byte == 7);
            assert_eq!(left.count(), kept);
            assert!(records.buffer.len() <= 2 * SMALL && records.buffer.capacity() <= 2 * SMALL);
            let mark = [0x80, 0, 0, 0];
            let end = [&mark[rest.len()..], b"\x80\0\0\x01a"].concat();
            let found = feed_passing_over(&mut records, &end, 1, 0);
            assert_eq!(
                found,
                Ok(vec![(vec![7; kept], length as u64), (b"a".to_vec(), 1)])
            );
        }
    }
}

#[test]
fn memory_follows_the_bytes_that_came_not_the_announced_length() {
    let mut records = Records::new(1 << 30);
    records.space().unwrap()[..4].copy_from_slice(&(LAST | 1 << 30).to_be_bytes());
    records.received(4);
    assert_eq!(records.next(), Ok(None));
    assert!(records.space().unwrap().len() <= 2 * SMALL);
    assert!(records.buffer.len() <= 4 * SMALL);
}

/// Each time it is moved, or cleared.
#[test]
fn memory_grows_seldom_however_short_the_reads_are() {
    for step in [1, 100, 1448, 64 << 10, usize::MAX] {
        let mut records = Records::new(1 << 30);
        let sent = payload(300_000);
        let stream = fragments(&sent, 1 << 20);
        let (mut received, mut growths) = (0, 0);
        while received < stream.len() {
            let before = records.size();
            let space = records.space().unwrap();
            let count = space.len().min(step).min(stream.len() - received);
            space[..count].copy_from_slice(&stream[received..received + count]);
            records.received(count);
            received += count;
            growths += usize::from(records.size() > before);
            assert!(records.size() <= 2 * (received + SMALL));
            assert!(records.advance().unwrap() == (received == stream.len()));
        }
        assert!(records.record() == sent);
        assert!(growths <= 8, "{growths} by {step}");
    }
}

#[test]
fn memory_does_not_grow_with_the_number_of_records() {
    let mut records = Records::new(1 << 20);
    for _ in 0..10_000 {
        assert_eq!(
            feed(&mut records, &fragments(&payload(100), 1000), 104).len(),
            1
        );
    }
    assert_eq!(records.buffer.len(), SMALL);
}

#[test]
fn memory_does_not_grow_with_the_number_of_fragments() {
    for begin in [&[][..], b"\0\0\0\x01a"] {
        for step in [4096, 4099, usize::MAX] {
            let mut records = Records::new(1 << 20);
            assert!(feed(&mut records, begin, 1).is_empty());
            assert!(feed(&mut records, &[0; 4 << 20], step).is_empty());
            assert!(records.is_begun());
            assert!(records.buffer.len() <= 2 * SMALL, "by {step}");
            let rest = b"\x80\0\0\x01b";
            let payload = [begin.get(4..).unwrap_or_default(), b"b"].concat();
            assert_eq!(feed(&mut records, rest, 1), [payload]);
        }
    }
}

#[test]
fn wipes_what_came_in_fragments_too() {
    let secret = [7; 100];
    for (fragment, step) in [(1, 9), (7, 60), (7, 1000), (100, 33), (100, 1000)] {
        let mut records = Records::new(100);
        let mut stream = Vec::new();
        for fragment in secret.chunks(fragment) {
            stream.extend_from_slice(&(fragment.len() as u32).to_be_bytes());
            stream.extend_from_slice(fragment);
        }
        let last = stream.split_off(stream.len() - 1);
        assert!(feed(&mut records, &stream, step).is_empty());
        let rest = [&last[..], &LAST.to_be_bytes(), &[0x80, 0, 0, 1, 9]].concat();
        records.space().unwrap()[..rest.len()].copy_from_slice(&rest);
        records.received(rest.len());
        assert_eq!(records.next(), Ok(Some(&secret[..])));
        records.wipe();
        let left = records.buffer[MARK_SIZE..].iter().filter(|it| **it == 7);
        assert_eq!(left.count(), 0, "{fragment} {step}");
        assert_eq!(records.next(), Ok(Some(&[9][..])));
    }
}

/// Otherwise a peer whose next record has always begun would keep the memory of a large one.
#[test]
fn gives_back_memory_though_the_next_record_has_begun() {
    let mut records = Records::new(8 << 20);
    let secret = [7; 100];
    let next = fragments(&secret, 100);
    let stream = [fragments(&payload(5_000_000), 1 << 24), next.clone()].concat();
    let (last, stream) = stream.split_last().unwrap();
    assert_eq!(feed(&mut records, stream, 1 << 20).len(), 1);
    assert_eq!(records.buffer.len(), SMALL);
    assert_eq!(feed(&mut records, &[*last], 1), [secret]);
}

#[test]
fn gives_back_memory_after_a_large_record() {
    let mut records = Records::new(8 << 20);
    for (length, after) in [(500_000, SMALL_RECORDS_BEFORE_SHRINKING), (5_000_000, 1)] {
        assert_eq!(
            feed(&mut records, &fragments(&payload(length), 1 << 24), 1 << 20).len(),
            1
        );
        for _ in 0..after {
            assert_eq!(feed(&mut records, &fragments(b"small", 1000), 104).len(), 1);
        }
        assert_eq!(records.buffer.len(), SMALL, "after {length} bytes");
    }
}

#[test]
fn a_record_is_taken_and_what_came_behind_it_stays() {
    for length in [10, LARGE, LARGE + 1, 3 * LARGE] {
        let mut records = Records::new(1 << 30);
        let first = fragments(&payload(length), 1 << 24);
        let stream = [first, fragments(b"next", 100)].concat();
        let mut bytes = stream.as_slice();
        while !records.advance().unwrap() {
            let space = records.space().unwrap();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            records.received(count);
            bytes = &bytes[count..];
        }
        let address = records.record().as_ptr();
        let taken = records.take().unwrap();
        assert!(*taken == *payload(length));
        // A large record keeps its memory; of a small one nothing is left.
        assert_eq!(taken.as_ptr() == address, length > LARGE, "{length}");
        let left = records.buffer.windows(4).any(|left| left == [0, 1, 2, 3]);
        assert!(!left, "{length}");
        let mut found = Vec::new();
        if let Some(record) = records.next().unwrap() {
            found.push(record.to_vec());
        }
        found.extend(feed(&mut records, bytes, 7));
        assert_eq!(found, [b"next"]);
        assert!(records.size() <= 2 * LARGE);
        assert!(*taken == *payload(length));
    }
}

#[test]
fn bytes_are_taken_out_of_a_record_however_much_of_it_has_arrived() {
    const START: usize = 20;
    for (length, behind) in [(40_000, 0), (40_000, 3), (10, 2), (1, 0)] {
        let whole = payload(START + length + behind);
        let stream = [fragments(&whole, 1 << 20), fragments(b"next", 4)].concat();
        let end = MARK_SIZE + whole.len();
        for first in [
            MARK_SIZE + START,
            MARK_SIZE + START + 1,
            end - behind,
            end - 1,
        ] {
            if first >= end {
                continue;
            }
            let mut records = Records::new(1 << 20);
            assert!(feed(&mut records, &stream[..first], 1 << 20).is_empty());
            let (arrived, size) = records.incomplete().unwrap();
            assert!(arrived == &whole[..first - MARK_SIZE] && size == whole.len());
            let mut place = vec![0; length];
            let taken = records.take_out(START, &mut place);
            assert_eq!(taken, (first - MARK_SIZE - START).min(length));
            // What was taken is not here any more.
            let here = &records.buffer[records.payload.end..];
            assert!(here.iter().take(first).all(|byte| *byte == 0));
            place[taken..].copy_from_slice(&stream[first..][..length - taken]);
            records.received_elsewhere(length - taken);
            let rest = &stream[first + length - taken..];
            let mut found = Vec::new();
            if let Some(record) = records.next().unwrap() {
                found.push(record.to_vec());
            }
            found.extend(feed(&mut records, rest, 7));
            let left = [&whole[..START], &whole[START + length..]].concat();
            assert!(
                found == [left, b"next".to_vec()],
                "{length} {behind} {first}"
            );
            assert!(place == whole[START..START + length]);
        }
    }
}

#[test]
fn only_the_last_fragment_of_a_record_that_is_kept_is_incomplete() {
    let whole = fragments(&payload(1000), 600);
    let mut records = Records::new(2000);
    assert!(records.incomplete().is_none());
    for (count, is) in [(3, false), (4, false), (100, false), (650, true)] {
        let mut records = Records::new(2000);
        feed(&mut records, &whole[..count], 1 << 20);
        assert_eq!(records.incomplete().is_some(), is, "{count}");
    }
    feed(&mut records, &whole, 1 << 20);
    assert!(records.incomplete().is_none());
    records.space().unwrap()[..4].copy_from_slice(&(LAST | 3000).to_be_bytes());
    records.received(4);
    assert_eq!(records.next(), Err(TooLong));
    records.pass_over(5000).unwrap();
    assert!(records.incomplete().is_none());
}
