//! Reads and writes NOTIFY of `pkcs11_rpc_v4.x`, the one call that the daemon makes to the client.
//!
//! The daemon sends it while it executes a call of the client, and continues that call when it has the answer. So both
//! sides receive calls and replies over the same connection. This module tells which of the two a record is.

use super::{
    AUTH_NONE, CALL, MSG_ACCEPTED, REPLY, RPC_VERSION, ReplyError, Xid, accepted, read_call_header,
};
use crate::call::{PROGRAM, VERSION};
use crate::codec::{DecodeError, Decoder, EncodeError, Encoder, Slices, Wire};
use crate::integers::{Architecture, CkRv, SessionHandle, Ulong};

/// The number of the procedure.
const NOTIFY: u32 = 1;

/// An event that a module reports to the application about a session (PKCS#11 v3.2, section 5.21).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Notification {
    /// The client's call that is being executed. The thread that waits for its reply answers.
    pub call: Xid,
    /// The session.
    pub session: SessionHandle,
    /// CK_NOTIFICATION.
    pub event: Ulong,
}

/// Reads a record as the client receives it; `None` if it is no call. The xid pairs the answer with it.
pub fn read_notification(record: &[u8]) -> Option<Result<(Xid, Notification), DecodeError>> {
    let mut input = Decoder::new(record, Architecture::host());
    let (Ok(xid), Ok(CALL)) = (input.word(), input.word()) else {
        return None;
    };
    let whole = Decoder::new(record, Architecture::host());
    Some(read_arguments(whole).map(|notification| (Xid(xid), notification)))
}

fn read_arguments(mut input: Decoder<'_>) -> Result<Notification, DecodeError> {
    input.word()?;
    let header = read_call_header(&mut input)?;
    let wanted = [CALL, RPC_VERSION, PROGRAM, VERSION, NOTIFY];
    if header.get(..wanted.len()) != Some(&wanted) {
        return Err(DecodeError::Kind);
    }
    let notification = Notification {
        call: Xid(input.word()?),
        session: SessionHandle::read(&mut input)?,
        event: Ulong::read(&mut input)?,
    };
    input.finish().map(|()| notification)
}

/// Lays out a notification as the daemon sends it, record mark included. The xid is the daemon's own; it may be
/// that of a call of the client.
pub fn write_notification(
    xid: Xid,
    notification: Notification,
    buffer: &mut Vec<u8>,
) -> Result<Slices<'_>, EncodeError> {
    let mut output = Encoder::new(buffer, Architecture::host());
    let none = [AUTH_NONE, 0, AUTH_NONE, 0];
    let header = [xid.0, CALL, RPC_VERSION, PROGRAM, VERSION, NOTIFY];
    for word in header.into_iter().chain(none) {
        output.word(word);
    }
    output.word(notification.call.0);
    output.hyper(notification.session.0);
    output.hyper(notification.event.0);
    output.finish()
}

/// Lays out the application's answer, record mark included.
pub fn write_notified(xid: Xid, rv: CkRv, buffer: &mut Vec<u8>) -> Result<Slices<'_>, EncodeError> {
    let mut output = Encoder::new(buffer, Architecture::host());
    for word in [xid.0, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, 0] {
        output.word(word);
    }
    output.hyper(rv.0);
    output.finish()
}

/// Reads a record as the daemon receives it; `None` if it is no reply. The xid tells which notification it answers.
pub fn read_notified(record: &[u8]) -> Option<(Xid, Result<CkRv, ReplyError>)> {
    let mut input = Decoder::new(record, Architecture::host());
    let (Ok(xid), Ok(REPLY)) = (input.word(), input.word()) else {
        return None;
    };
    let mut read = || {
        accepted(&mut input)?;
        let rv = CkRv::read(&mut input)?;
        input.end()?;
        Ok(rv)
    };
    Some((Xid(xid), read()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTIFICATION: Notification = Notification {
        call: Xid(0x0102_0304),
        session: SessionHandle(5),
        event: Ulong(1),
    };

    /// The message as RFC 5531, section 9, and `pkcs11_rpc_v4.x` have it.
    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_notification_is_a_call_of_procedure_1() {
        let expected = words(&[7, 0, 2, 4, 4, 1, 0, 0, 0, 0, 0x0102_0304, 0, 5, 0, 1]);
        let mut buffer = Vec::new();
        let written = write_notification(Xid(7), NOTIFICATION, &mut buffer).unwrap();
        assert_eq!(written.to_vec()[4..], expected);
        let read = read_notification(&expected).unwrap();
        assert_eq!(read, Ok((Xid(7), NOTIFICATION)));
        assert!(read_notified(&expected).is_none());
    }

    #[test]
    fn other_calls_are_no_notifications() {
        let good = words(&[7, 0, 2, 4, 4, 1, 0, 0, 0, 0, 9, 0, 5, 0, 1]);
        // RPC version, program, version, procedure
        for (place, value) in [(2, 3), (3, 5), (4, 3), (5, 2)] {
            let mut bad = good.clone();
            bad[4 * place + 3] = value;
            assert_eq!(read_notification(&bad), Some(Err(DecodeError::Kind)));
        }
        for length in 8..good.len() {
            assert!(read_notification(&good[..length]).unwrap().is_err());
        }
        let long = [good.as_slice(), &[0; 4]].concat();
        assert!(read_notification(&long).unwrap().is_err());
        assert!(read_notification(&good[..7]).is_none());
        assert!(read_notification(&words(&[7, 1])).is_none());
    }

    #[test]
    fn the_answer_is_a_reply_with_a_ck_rv() {
        let expected = words(&[7, 1, 0, 0, 0, 0, 0, 1]);
        let mut buffer = Vec::new();
        let written = write_notified(Xid(7), CkRv::CANCEL, &mut buffer).unwrap();
        assert_eq!(written.to_vec()[4..], expected);
        assert_eq!(read_notified(&expected), Some((Xid(7), Ok(CkRv::CANCEL))));
        assert!(read_notification(&expected).is_none());
        for length in 8..expected.len() {
            assert!(read_notified(&expected[..length]).unwrap().1.is_err());
        }
        let long = [expected.as_slice(), &[0; 4]].concat();
        assert!(read_notified(&long).unwrap().1.is_err());
        let refused = words(&[7, 1, 0, 0, 0, 3]);
        let error = Err(ReplyError::NotExecuted(3));
        assert_eq!(read_notified(&refused), Some((Xid(7), error)));
    }
}
