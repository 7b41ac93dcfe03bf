//! A client that sends bytes as they are told, to two daemons at once.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use xdr::rpc::{self, Xid};
use xdr::{Call, CkRv, Function, Reply, SlotId, Ulong};

use crate::support::{Daemon, Endpoint, Token};

/// What came back for a request.
#[allow(clippy::large_enum_variant, reason = "there are two of them")]
#[derive(PartialEq)]
pub enum Answer {
    /// The result of the call.
    Reply(Reply),
    /// Accepted without being executed, or denied: what follows the xid and REPLY, from the first
    /// word that says so.
    Status(Vec<u8>),
    /// Nothing within a second.
    Nothing,
    /// The daemon closed the connection.
    Closed,
}

impl Answer {
    pub fn reply(&self) -> &Reply {
        match self {
            Answer::Reply(reply) => reply,
            other => panic!("no reply but {other:?}"),
        }
    }

    pub fn reply_mut(&mut self) -> &mut Reply {
        match self {
            Answer::Reply(reply) => reply,
            other => panic!("no reply but {other:?}"),
        }
    }

    pub fn rv(&self) -> CkRv {
        self.reply().rv()
    }
}

/// The bytes of a reply, so that a failed comparison shows where they differ. Test data only.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Reply(reply) => {
                let mut buffer = Vec::new();
                let bytes = rpc::write_reply(Xid(0), reply, &mut buffer)
                    .expect("small")
                    .to_vec();
                write!(f, "{reply:?} {:02x?}", &bytes[28..])
            }
            Answer::Status(bytes) => write!(f, "status {bytes:02x?}"),
            Answer::Nothing => f.write_str("nothing"),
            Answer::Closed => f.write_str("connection closed"),
        }
    }
}

struct Peer {
    stream: TcpStream,
    daemon: Daemon,
    _token: Token,
}

impl Peer {
    fn new(daemon: Daemon, token: Token) -> Peer {
        Peer {
            stream: connect(&daemon),
            daemon,
            _token: token,
        }
    }

    fn record(&mut self) -> io::Result<Vec<u8>> {
        let mut mark = [0; 4];
        self.stream.read_exact(&mut mark)?;
        let length = u32::from_be_bytes(mark) & 0x7fff_ffff;
        let mut record = vec![0; length as usize];
        self.stream.read_exact(&mut record)?;
        Ok(record)
    }

    fn answer(&mut self, function: Option<Function>, xid: Xid) -> Answer {
        let record = match self.record() {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Answer::Nothing,
            Err(_) => return Answer::Closed,
        };
        match function.and_then(|function| rpc::read_reply(xid, function, &record)) {
            Some(Ok(reply)) => Answer::Reply(reply),
            Some(Err(rpc::ReplyError::Malformed(error))) => panic!("{error}: {record:02x?}"),
            _ if record[8..12] == [0; 4] => Answer::Status(record[20..].to_vec()),
            _ => Answer::Status(record[8..].to_vec()),
        }
    }
}

fn connect(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream
}

/// A connection to the original's daemon and one to ours.
pub struct Both {
    theirs: Peer,
    ours: Peer,
    xid: u32,
}

impl Both {
    /// Two new daemons, in front of copies of one token.
    pub fn new() -> Both {
        let token = Token::new();
        let copy = token.copy();
        let theirs = Peer::new(Daemon::original(Endpoint::Tcp, &token), token);
        let ours = Peer::new(Daemon::ours(Endpoint::Tcp, &copy), copy);
        Both {
            theirs,
            ours,
            xid: 0x1000,
        }
    }

    /// Begins again with two new connections.
    pub fn reconnect(&mut self) {
        for peer in [&mut self.theirs, &mut self.ours] {
            peer.stream = connect(&peer.daemon);
        }
    }

    /// The slot of the initialised token.
    pub fn token_slot(&mut self) -> SlotId {
        let Reply::C_GetSlotList(list) = self.same(Call::C_GetSlotList(Ulong(1), Ulong(9))) else {
            panic!("a reply")
        };
        list.slots[0]
    }

    /// What the original and what ours answers to the same bytes.
    pub fn call(&mut self, call: Call<'_>) -> [Answer; 2] {
        self.xid += 1;
        let (function, xid) = (call.function(), Xid(self.xid));
        let mut buffer = Vec::new();
        let request = rpc::write_call(xid, &call, &mut buffer)
            .expect("small")
            .to_vec();
        [&mut self.theirs, &mut self.ours].map(|peer| {
            // A peer that has gone tells when it is read from.
            let _ = peer.stream.write_all(&request);
            peer.answer(Some(function), xid)
        })
    }

    /// The answer, which must be the same.
    #[track_caller]
    pub fn same(&mut self, call: Call<'_>) -> Reply {
        let function = call.function();
        let [theirs, ours] = self.call(call);
        assert_eq!(
            ours,
            theirs,
            "{}: ours is not as the original's",
            function.name()
        );
        ours.reply().clone()
    }

    /// What both answer to a message that may be no call.
    pub fn exchange_message(&mut self, message: &[u8]) -> [Answer; 2] {
        let mark = (message.len() as u32 | 1 << 31).to_be_bytes();
        [&mut self.theirs, &mut self.ours].map(|peer| {
            let stream = &mut peer.stream;
            stream
                .set_read_timeout(Some(Duration::from_millis(500)))
                .expect("a timeout");
            stream
                .write_all(&[&mark, message].concat())
                .expect("the daemon is there");
            peer.answer(None, Xid(9))
        })
    }
}
