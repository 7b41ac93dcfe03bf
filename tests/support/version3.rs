//! Reads and writes the calls and replies of version 3 of the protocol, with the version's own types.

use xdr::codec::{EncodeError, Slices};
use xdr::rpc::{self, Rejection, ReplyError, Xid};
use xdr::version3::{Call, Reply};
use xdr::{Architecture, Function};

/// What a record asks of the daemon.
#[derive(Debug)]
pub enum Request<'a> {
    Call(Xid, Call<'a>),
    Rejected(Xid, Rejection),
    Unanswerable,
}

/// Reads a record as a daemon that speaks version 3 only receives it from a client of this architecture.
pub fn read_request(record: &[u8], client: Architecture) -> Request<'_> {
    let peer = rpc::Peer {
        architecture: client,
        versions: 3..=3,
    };
    match rpc::read_request(record, &peer) {
        rpc::Request::Call(incoming) => {
            let call = Call::of(&incoming.call).expect("it came by version 3");
            Request::Call(incoming.xid, call)
        }
        rpc::Request::Rejected(xid, rejection) => Request::Rejected(xid, rejection),
        rpc::Request::Unanswerable => Request::Unanswerable,
    }
}

/// A call as a client sends it.
pub fn write_call<'b>(
    xid: Xid,
    call: &'b Call<'_>,
    buffer: &'b mut Vec<u8>,
) -> Result<Slices<'b>, EncodeError> {
    rpc::write_call(xid, call, false, buffer)
}

/// A reply as a client receives it; `None` when it answers another xid.
pub fn read_reply(
    xid: Xid,
    function: Function,
    record: &[u8],
) -> Option<Result<Reply, ReplyError>> {
    rpc::read_reply::<Call<'_>>(xid, function, record)
}

/// A reply as the daemon sends it to a client of this architecture.
pub fn write_reply(xid: Xid, reply: &Reply, client: Architecture) -> Result<Vec<u8>, EncodeError> {
    let mut buffer = Vec::new();
    let reply = rpc::Outgoing::Three(reply.clone());
    let written = rpc::write_reply(xid, &reply, client, &mut buffer)?;
    Ok(written.to_vec())
}
