//! Asks each module for its slots, as a client would, to find out whether the daemon can serve clients.
//!
//! The daemon forks a worker for this purpose and hands over a connection to it, so that neither TLS nor other clients
//! are in the way. The rules of the filter apply.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use xdr::rpc::{self, Xid};
use xdr::version3::{Call, Reply};
use xdr::{Architecture, Count, Function, Ulong};

/// Upper bound on the bytes of a reply.
const LONGEST_REPLY: usize = 1 << 20;

/// Asks a module for the number of its slots. `patience` limits each wait for the daemon.
pub(super) fn slots(socket: OwnedFd, alias: &str, patience: Duration) -> Result<u64, String> {
    let mut stream = UnixStream::from(socket);
    let limited = stream
        .set_read_timeout(Some(patience))
        .and_then(|()| stream.set_write_timeout(Some(patience)));
    limited.map_err(|error| error.to_string())?;
    let mut call = |call: Call<'_>| {
        let name = call.function().name();
        let reply = answer(&mut stream, &call).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{name} takes longer than {} s", patience.as_secs_f32())
            }
            io::ErrorKind::UnexpectedEof => format!("{name} ends the worker; its log says why"),
            _ => format!("{name}: {error}"),
        })?;
        match reply.rv() {
            // C_SetupArch returns no CK_RV.
            rv if rv.is_ok() || name == Function::C_SetupArch.name() => Ok(reply),
            rv => Err(format!("{name} returned {rv}")),
        }
    };
    call(Call::C_SetupArch(Architecture::host()))?;
    call(Call::C_LoadModule(alias.as_bytes()))?;
    call(Call::C_Initialize())?;
    match call(Call::C_GetSlotList(Ulong(0), Count(0)))? {
        Reply::C_GetSlotList(list) => Ok(list.count.0),
        _ => Err("C_GetSlotList: another function's reply".to_owned()),
    }
}

fn answer(stream: &mut UnixStream, call: &Call<'_>) -> io::Result<Reply> {
    const XID: Xid = Xid(1);
    let invalid = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
    };
    let mut buffer = Vec::new();
    let record = rpc::write_call(XID, call, false, &mut buffer);
    let record = record.map_err(|error| invalid(&error))?;
    for part in record.unsent() {
        stream.write_all(part)?;
    }
    let mut mark = [0; 4];
    stream.read_exact(&mut mark)?;
    // The highest bit marks the last fragment. A reply this short has only one.
    let length = u32::from_be_bytes(mark) & 0x7fff_ffff;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LONGEST_REPLY {
        return Err(invalid(&"a reply that is too long"));
    }
    let mut record = vec![0; length];
    stream.read_exact(&mut record)?;
    rpc::read_reply::<Call<'_>>(XID, call.function(), &record)
        .ok_or_else(|| invalid(&"the reply to another call"))?
        .map_err(|error| invalid(&error))
}
