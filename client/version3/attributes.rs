//! Answers C_GetAttributeValue over version 3: it sends the room for each attribute and interprets the values that come
//! back.
//!
//! Version 3 expresses room by sending that many bytes. We send zeros; the original sends the application's memory. The
//! reply becomes one [`Answer`] for each attribute asked for. The semantics are those of PKCS#11 v2.20, section 11.7,
//! as far as an original daemon supports them. Nested templates contain addresses: only their size is asked for, and
//! only an empty one yields a value.

use xdr::attribute_types::is_nested;
use xdr::{
    Answer, Answers, AttributesResult, CkRv, Found, LONGEST_BYTES, Query, Reply, Wanted, WantedRoom,
};

use crate::remote::refusal;

/// Up to this room, in bytes, sending zeros is cheaper than asking for the size first.
const LARGEST_ROOM_SENT: u64 = 64 << 10;

/// Asks for attributes of an object. The answers are in the order of `query`. If there are none, the application's
/// template stays as it is.
pub(super) fn values(
    ask: impl Fn(Query) -> Result<Reply, CkRv>,
    query: &Query,
) -> Result<AttributesResult, CkRv> {
    let ask = |wanted| match ask(Query(wanted))? {
        Reply::C_GetAttributeValue(result) if answers_template(result.rv) => {
            Ok((result.rv, result.answers.0))
        }
        reply => Err(refusal(&reply)),
    };
    let wanted = query.0.iter();
    let sent: Vec<Wanted> = wanted
        .map(|wanted| with_room(wanted, room(wanted)))
        .collect();
    let count = sent.len();
    let (mut rv, values) = if sent.iter().any(|wanted| is_large(room(wanted))) {
        // Asks for the sizes first: the room that a caller claims may be most of its address space.
        let sizes = sent.iter().map(|wanted| with_room(wanted, None)).collect();
        let (_, found) = ask(sizes)?;
        let mut found = found.iter();
        let exact = sent
            .iter()
            .map(|wanted| with_room(wanted, bounded(room(wanted), found.next())))
            .collect();
        ask(exact)?
    } else {
        ask(sent)?
    };
    if rv.is_ok() && values.len() < count {
        // Otherwise the missing attributes would be reported beside CKR_OK, as if they had values.
        return Err(CkRv::DEVICE_ERROR);
    }

    let zero = Zero::beside(rv, &values);
    let mut values = values.into_iter();
    let answers = query.0.iter().map(|wanted| {
        let (found, verdict) = match values.next() {
            Some(value) if is_nested(wanted.attribute_type) => {
                sort_nested(&value, &wanted.room, zero)
            }
            Some(value) => sort(value, room(wanted), zero),
            None => (Found::Unavailable, CkRv::OK),
        };
        if rv.is_ok() {
            rv = verdict;
        }
        Answer {
            attribute_type: wanted.attribute_type,
            found,
        }
    });
    let answers = Answers(answers.collect());
    Ok(AttributesResult { rv, answers })
}

/// Returns whether C_GetAttributeValue still returns the other attributes with this CK_RV.
fn answers_template(rv: CkRv) -> bool {
    [
        CkRv::OK,
        CkRv::ATTRIBUTE_SENSITIVE,
        CkRv::ATTRIBUTE_TYPE_INVALID,
        CkRv::BUFFER_TOO_SMALL,
    ]
    .contains(&rv)
}

/// Returns the size of the caller's buffer in bytes; `None` asks for the size, as for each nested template.
fn room(wanted: &Wanted) -> Option<u64> {
    match wanted.room {
        _ if is_nested(wanted.attribute_type) => None,
        WantedRoom::Buffer { room, .. } => Some(room),
        WantedRoom::Null { .. } | WantedRoom::Template(_) => None,
    }
}

fn with_room(wanted: &Wanted, room: Option<u64>) -> Wanted {
    let content = None;
    Wanted {
        attribute_type: wanted.attribute_type,
        room: match room {
            Some(room) => WantedRoom::Buffer { room, content },
            None => WantedRoom::Null { length: 0 },
        },
    }
}

fn is_large(room: Option<u64>) -> bool {
    room.is_some_and(|room| room > LARGEST_ROOM_SENT)
}

/// Reduces a large room to the size of the value. If the value does not fit, the room becomes small
/// enough for the daemon to answer that it is too small.
fn bounded(room: Option<u64>, size: Option<&Answer>) -> Option<u64> {
    let size = size.and_then(length).unwrap_or(0);
    room.map(|room| {
        if !is_large(Some(room)) {
            room
        } else if size <= room {
            size.max(1)
        } else {
            LARGEST_ROOM_SENT
        }
    })
}

/// Returns the length that the daemon reports; `None` for "unavailable". The original answers a size query with that
/// many zeros; other daemons may leave them out.
fn length(received: &Answer) -> Option<u64> {
    match &received.found {
        Found::Bytes(bytes) => Some(bytes.len() as u64),
        Found::Length(told) | Found::TemplateLength(told) => {
            Some(*told).filter(|told| *told <= LONGEST_BYTES)
        }
        _ => None,
    }
}

/// The meaning of a length of 0.
#[derive(Clone, Copy, PartialEq)]
enum Zero {
    Empty,
    Unavailable,
}

impl Zero {
    /// Decides what a length of 0 means. An original daemon sends it both for an unavailable attribute and for an empty
    /// value. If a daemon sends any length of all ones, it distinguishes them.
    fn beside(rv: CkRv, received: &[Answer]) -> Zero {
        if rv.is_ok() || received.iter().any(|answer| length(answer).is_none()) {
            Zero::Empty
        } else {
            Zero::Unavailable
        }
    }
}

/// Returns what a received attribute means to the caller, and the CK_RV to return if the daemon's was CKR_OK.
fn sort(received: Answer, room: Option<u64>, zero: Zero) -> (Found, CkRv) {
    match (length(&received), room) {
        // With CKR_OK, an application would take CK_UNAVAILABLE_INFORMATION (-1) for a length.
        (None, _) => (Found::Unavailable, CkRv::ATTRIBUTE_TYPE_INVALID),
        (Some(0), _) if zero == Zero::Unavailable => (Found::Unavailable, CkRv::OK),
        (Some(size), None) => (Found::Length(size), CkRv::OK),
        (Some(size), Some(room)) if size > room => (Found::Unavailable, CkRv::BUFFER_TOO_SMALL),
        (Some(_), Some(_)) => match received.found {
            Found::Bytes(_) => (received.found, CkRv::OK),
            _ => (Found::Unavailable, CkRv::DEVICE_ERROR),
        },
    }
}

/// Does the same for a nested template, whose size was asked for. Its contents cannot be fetched.
fn sort_nested(received: &Answer, room: &WantedRoom, zero: Zero) -> (Found, CkRv) {
    let is_question = matches!(room, WantedRoom::Null { .. });
    match length(received) {
        Some(0) if zero == Zero::Unavailable => (Found::Unavailable, CkRv::OK),
        Some(count) if is_question || count == 0 => (Found::TemplateLength(count), CkRv::OK),
        _ => (Found::Unavailable, CkRv::ATTRIBUTE_TYPE_INVALID),
    }
}

#[cfg(test)]
mod tests;
