//! A fake daemon, which answers each call as a closure says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use xdr::record::Records;
use xdr::rpc::{self, Request};
use xdr::{Architecture, Call, CkRv, Reply};

/// What it does with a call.
pub enum Act {
    Answer(Box<Reply>),
    /// Closes the connection without an answer.
    HangUp,
}

/// A daemon that answers each call as `answer` says: `None` is CKR_OK and nothing else.
pub struct Daemon {
    pub address: String,
    connections: Arc<AtomicUsize>,
    /// Connections that have ended.
    ended: Arc<AtomicUsize>,
}

impl Daemon {
    pub fn start(answer: impl Fn(&Call<'_>) -> Option<Act> + Send + Sync + 'static) -> Daemon {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket").to_string();
        let (connections, ended) = (Arc::default(), Arc::default());
        let daemon = Daemon {
            address,
            connections,
            ended,
        };
        let (connections, ended) = (daemon.connections.clone(), daemon.ended.clone());
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, ended) = (answer.clone(), ended.clone());
                connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    serve(stream.expect("a connection"), &*answer);
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        daemon
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until that many connections have ended.
    pub fn wait_for_ended(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ended.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < deadline, "the connection stays open");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn serve(mut stream: TcpStream, answer: &dyn Fn(&Call<'_>) -> Option<Act>) {
    let mut records = Records::new(1 << 20);
    let mut buffer = Vec::new();
    loop {
        while let Some(record) = records.next().expect("no record is over the limit") {
            let Request::Call(xid, call) = rpc::read_request(record, Architecture::host()) else {
                panic!("the client sends calls only");
            };
            let reply = match (answer(&call), &call) {
                (Some(Act::HangUp), _) => return,
                (Some(Act::Answer(reply)), _) => *reply,
                (None, Call::C_SetupArch(_)) => Reply::C_SetupArch(Architecture::LITTLE_64),
                (None, call) => Reply::only(call.function(), CkRv::OK),
            };
            let reply = rpc::write_reply(xid, &reply, Architecture::host(), &mut buffer)
                .expect("a small reply");
            if stream.write_all(&reply.to_vec()).is_err() {
                return;
            }
        }
        match stream.read(records.space().unwrap()) {
            Ok(0) | Err(_) => return,
            Ok(count) => records.received(count),
        }
    }
}
