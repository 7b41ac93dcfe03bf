//! Reads replies of which only the beginning has arrived, so that the caller can receive the rest where it belongs.

use super::{Asking, REPLY, Version, Xid, accepted, read_reply};
use crate::call::Function;
use crate::codec::{Decoder, padded};
use crate::integers::{Architecture, CkRv};

/// A reply whose bytes are still to come.
pub struct Arriving<Reply> {
    /// The reply, without the bytes.
    pub reply: Reply,
    /// Where in the record the bytes begin.
    pub start: usize,
    /// How many bytes there are.
    pub length: usize,
}

/// Reads what has `arrived` of a record of `size` bytes. `function` is one that has an OutputResult. `None` unless the
/// record is, in version 4, the reply to this call, and everything has arrived that comes before the bytes. `None` as
/// well if the call succeeded and the module told another length.
pub fn read_arriving<C: Asking>(
    xid: Xid,
    function: Function,
    arrived: &[u8],
    size: usize,
) -> Option<Arriving<C::Reply>> {
    if C::VERSION != Version::Four {
        return None;
    }
    let mut input = Decoder::new(arrived, Architecture::host());
    if input.word().ok()? != xid.0 || input.word().ok()? != REPLY {
        return None;
    }
    accepted(&mut input).ok()?;
    let (rv, told) = (CkRv(input.number().ok()?), input.number().ok()?);
    let before_length = arrived.len() - input.left();
    let length = input.word().ok()? as usize;
    let start = arrived.len() - input.left();
    if start.checked_add(padded(length)?)? != size || (rv.is_ok() && told != length as u64) {
        return None;
    }
    // The same reply with no bytes.
    let mut without = Vec::new();
    without.try_reserve_exact(start).ok()?;
    without.extend_from_slice(arrived.get(..before_length)?);
    without.extend_from_slice(&0_u32.to_be_bytes());
    let reply = read_reply::<C>(xid, function, &without)?.ok()?;
    Some(Arriving {
        reply,
        start,
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Call, Reply};
    use crate::record::MARK_SIZE;
    use crate::rpc::{Outgoing, write_reply};
    use crate::templates::Answers;
    use crate::wire_types::{AttributesResult, OutputResult, SizeResult};
    use crate::{Ulong, version3};

    const XID: Xid = Xid(7);

    fn record(reply: Outgoing) -> Vec<u8> {
        let mut buffer = Vec::new();
        let record = write_reply(XID, &reply, Architecture::host(), &mut buffer);
        record.unwrap().to_vec().split_off(MARK_SIZE)
    }

    fn encrypted(rv: CkRv, told: u64, length: usize) -> Vec<u8> {
        record(Outgoing::Four(Reply::C_Encrypt(OutputResult {
            rv,
            length: Ulong(told),
            data: vec![5; length].into(),
        })))
    }

    /// The length of the bytes, and where they begin.
    fn read(xid: Xid, function: Function, arrived: &[u8], size: usize) -> Option<(usize, usize)> {
        let arriving = read_arriving::<Call<'_>>(xid, function, arrived, size)?;
        let Reply::C_Encrypt(result) = arriving.reply else {
            panic!("another reply")
        };
        assert!(result.data.is_empty());
        Some((arriving.length, arriving.start))
    }

    #[test]
    fn reads_everything_before_the_bytes() {
        for length in [0, 1, 4, 1001] {
            let whole = encrypted(CkRv::OK, length as u64, length);
            let start = whole.len() - padded(length).unwrap();
            for arrived in 0..=whole.len() {
                let arrived_part = &whole[..arrived];
                let found = read(XID, Function::C_Encrypt, arrived_part, whole.len());
                assert_eq!(found, (arrived >= start).then_some((length, start)));
            }
            for size in [0, start, whole.len() - 1, whole.len() + 1, usize::MAX] {
                let found = read(XID, Function::C_Encrypt, &whole, size);
                assert!(found.is_none() || size == whole.len());
            }
        }
    }

    #[test]
    fn other_replies_are_none() {
        let whole = encrypted(CkRv::OK, 10, 10);
        assert!(read(Xid(8), Function::C_Encrypt, &whole, whole.len()).is_none());
        for byte in [4, 8, 20] {
            // A call, a refusal, a call that was not executed.
            let mut other = whole.clone();
            other[byte + 3] ^= 1;
            assert!(read(XID, Function::C_Encrypt, &other, other.len()).is_none());
        }
        for told in [9, 11] {
            let whole = encrypted(CkRv::OK, told, 10);
            assert!(read(XID, Function::C_Encrypt, &whole, whole.len()).is_none());
            let whole = encrypted(CkRv::BUFFER_TOO_SMALL, told, 10);
            assert!(read(XID, Function::C_Encrypt, &whole, whole.len()).is_some());
        }
        for reply in [
            Reply::C_GetObjectSize(SizeResult {
                rv: CkRv::OK,
                size: Ulong(0),
            }),
            Reply::C_GetAttributeValue(AttributesResult {
                rv: CkRv::OK,
                answers: Answers(Vec::new()),
            }),
            Reply::only(Function::C_Encrypt, CkRv::OK),
        ] {
            let function = reply.function();
            let whole = record(Outgoing::Four(reply));
            let arriving = read_arriving::<Call<'_>>(XID, function, &whole, whole.len());
            assert_eq!(arriving.is_some(), function == Function::C_Encrypt);
        }
        let whole = encrypted(CkRv::OK, 10, 10);
        let arriving =
            read_arriving::<version3::Call<'_>>(XID, Function::C_Encrypt, &whole, whole.len());
        assert!(arriving.is_none());
    }
}
