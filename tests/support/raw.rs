//! Sends given bytes to one daemon, or to the original's and ours at once, and compares the replies.
//!
//! A [`Connection`] is one client's. A [`Peer`] is a daemon of its own in front of a token of its own, with one
//! connection to it. [`Both`] are two peers that get the same bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use xdr::rpc::Xid;
use xdr::version3::{Call, Reply};
use xdr::{CkRv, Function, SlotId, Ulong};

use super::{Daemon, Endpoint, Maker, PATIENCE, Setup, Token, version3};

/// What came back for a request.
#[allow(clippy::large_enum_variant, reason = "there are two of them")]
#[derive(PartialEq)]
pub enum Answer {
    /// The result of the call.
    Reply(Reply),
    /// Accepted without being executed, or denied: what follows the xid and REPLY, from the first
    /// word that says so.
    Status(Vec<u8>),
    /// Nothing in time.
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
                let bytes =
                    version3::write_reply(Xid(0), reply, xdr::Architecture::host()).expect("small");
                write!(f, "{reply:?} {:02x?}", &bytes[28..])
            }
            Answer::Status(bytes) => write!(f, "status {bytes:02x?}"),
            Answer::Nothing => f.write_str("nothing"),
            Answer::Closed => f.write_str("connection closed"),
        }
    }
}

/// One client's connection.
pub struct Connection {
    stream: TcpStream,
    xid: u32,
}

/// Connections that the original may leave without a worker, one after the other.
const UNSERVED: usize = 10;

impl Connection {
    /// On a busy machine the original sometimes leaves a client without a worker, for good. Then
    /// another connection is tried; ours has to serve the first.
    fn new(daemon: &Daemon) -> Connection {
        let mut connection = Connection::open(daemon);
        for _ in 0..UNSERVED {
            if daemon.maker() == Maker::Ours || connection.is_served() {
                break;
            }
            connection = Connection::open(daemon);
        }
        connection
    }

    /// Whether a call of procedure 0, which there is none of, is answered at all.
    fn is_served(&mut self) -> bool {
        const CALL: [u32; 11] = [1 << 31 | 40, 8, 0, 2, 4, 3, 0, 0, 0, 0, 0];
        let soon = Some(Duration::from_secs(3));
        self.stream.set_read_timeout(soon).expect("a timeout");
        let _ = (&self.stream).write_all(&CALL.map(u32::to_be_bytes).concat());
        let answer = self.answer(None, Xid(8));
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
        matches!(answer, Answer::Status(_))
    }

    fn open(daemon: &Daemon) -> Connection {
        let stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
        stream.set_nodelay(true).expect("TCP can");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Connection {
            stream,
            xid: 0x1000,
        }
    }

    /// What the call is answered with.
    pub fn call(&mut self, call: Call<'_>) -> Answer {
        self.xid += 1;
        let (function, xid) = (call.function(), Xid(self.xid));
        let mut buffer = Vec::new();
        let request = version3::write_call(xid, &call, &mut buffer)
            .expect("small")
            .to_vec();
        // A peer that has gone tells when it is read from.
        let _ = self.stream.write_all(&request);
        self.answer(Some(function), xid)
    }

    /// What a call of version 4 is answered with, if it is executed.
    pub fn call_in_version_4(&mut self, call: &xdr::Call<'_>) -> Option<xdr::Reply> {
        self.xid += 1;
        let xid = Xid(self.xid);
        let mut buffer = Vec::new();
        let request = xdr::rpc::write_call(xid, call, false, &mut buffer)
            .expect("it can be said in version 4")
            .to_vec();
        let _ = self.stream.write_all(&request);
        let record = self.record().ok()?;
        let reply = xdr::rpc::read_reply::<xdr::Call<'_>>(xid, call.function(), &record)?;
        reply.ok()
    }

    /// What a message is answered with that may be no call; half a second is enough.
    pub fn message(&mut self, message: &[u8]) -> Answer {
        let mark = (message.len() as u32 | 1 << 31).to_be_bytes();
        self.bytes(&[&mark, message].concat())
    }

    /// What bytes are answered with that may be no record.
    pub fn bytes(&mut self, bytes: &[u8]) -> Answer {
        self.stream
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("a timeout");
        // A peer that has gone tells when it is read from.
        let _ = self.stream.write_all(bytes);
        self.answer(None, Xid(9))
    }

    /// Says goodbye and waits until the other side has gone: until its worker ended.
    pub fn close(mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let _ = self.stream.set_read_timeout(Some(PATIENCE));
        let _ = self.stream.read_to_end(&mut Vec::new());
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
        match function.and_then(|function| version3::read_reply(xid, function, &record)) {
            Some(Ok(reply)) => Answer::Reply(reply),
            Some(Err(xdr::rpc::ReplyError::Malformed(error))) => panic!("{error}: {record:02x?}"),
            _ if record[8..12] == [0; 4] => Answer::Status(record[20..].to_vec()),
            _ => Answer::Status(record[8..].to_vec()),
        }
    }
}

/// A daemon, its token, and a connection.
pub struct Peer {
    connection: Option<Connection>,
    pub daemon: Daemon,
    pub token: Token,
}

impl Peer {
    /// A daemon with these lines in its filter.conf, behind `modules`.
    pub fn new(maker: Maker, filter: &str, token: Token) -> Peer {
        let mut setup = Setup::new(maker, Endpoint::Tcp, &token);
        // The shipped filter.conf has rules for this alias.
        let absent = "/usr/local/lib/opencryptoki/libopencryptoki.so";
        if filter.contains("opencrypto") {
            setup.modules.push(("opencryptoki".into(), absent.into()));
        }
        setup.filter = filter.into();
        Peer::start(setup, token)
    }

    /// The daemon of a setup that a test changed.
    pub fn start(setup: Setup, token: Token) -> Peer {
        let daemon = setup.start();
        Peer {
            connection: Some(Connection::new(&daemon)),
            daemon,
            token,
        }
    }

    /// Another client.
    pub fn another(&self) -> Connection {
        Connection::new(&self.daemon)
    }

    /// The client.
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("always one")
    }

    /// Begins again with a new connection.
    pub fn reconnect(&mut self) {
        self.connection = Some(self.another());
    }

    /// Leaves the daemon without this client.
    pub fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
    }

    /// Begins again with a new connection and the token as `original` is.
    pub fn restore(&mut self, original: &Token) {
        self.disconnect();
        self.token.restore(original);
        self.reconnect();
    }
}

/// A connection to the original's daemon and one to ours.
pub struct Both {
    pub theirs: Peer,
    pub ours: Peer,
}

impl Both {
    /// Two new daemons without filter rules, in front of copies of one token.
    pub fn new() -> Both {
        Both::with("")
    }

    /// Two new daemons with these filter rules, in front of copies of one token.
    pub fn with(filter: &str) -> Both {
        Both::of([Maker::Original, Maker::Ours], filter)
    }

    /// Two new daemons of whichever makers.
    pub fn of([first, second]: [Maker; 2], filter: &str) -> Both {
        let token = Token::new();
        let copy = token.copy();
        Both {
            theirs: Peer::new(first, filter, token),
            ours: Peer::new(second, filter, copy),
        }
    }

    /// Begins again with two new connections.
    pub fn reconnect(&mut self) {
        self.theirs.reconnect();
        self.ours.reconnect();
    }

    /// The slot of the initialised token.
    pub fn token_slot(&mut self) -> SlotId {
        let Reply::C_GetSlotList(list) = self.same(Call::C_GetSlotList(Ulong(1), xdr::Count(9)))
        else {
            panic!("a reply")
        };
        list.slots[0]
    }

    /// What the original and what ours answers to the same bytes.
    pub fn call(&mut self, call: Call<'_>) -> [Answer; 2] {
        [&mut self.theirs, &mut self.ours].map(|peer| peer.connection().call(call.clone()))
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
        [&mut self.theirs, &mut self.ours].map(|peer| peer.connection().message(message))
    }
}
