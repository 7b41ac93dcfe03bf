//! A fake daemon, which answers each call as a closure says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use xdr::record::Records;
use xdr::rpc::{self, Outgoing, Peer, Request};
use xdr::{Architecture, Call, CkRv, Hello, HelloResult, Reply, Ulong, version3};

/// What it does with a call.
pub enum Act {
    Answer(Box<Reply>),
    /// Answers in version 3 what no reply of version 4 is.
    AnswerVersion3(Box<version3::Reply>),
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

/// Both versions of the protocol.
const BOTH: RangeInclusive<u32> = 3..=4;

impl Daemon {
    /// One that speaks both versions.
    pub fn start(answer: impl Fn(&Call<'_>) -> Option<Act> + Send + Sync + 'static) -> Daemon {
        Daemon::of_versions(BOTH, answer)
    }

    /// One that speaks version 3 only.
    pub fn of_version3(
        answer: impl Fn(&Call<'_>) -> Option<Act> + Send + Sync + 'static,
    ) -> Daemon {
        Daemon::of_versions(3..=3, answer)
    }

    fn of_versions(
        versions: RangeInclusive<u32>,
        answer: impl Fn(&Call<'_>) -> Option<Act> + Send + Sync + 'static,
    ) -> Daemon {
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
                let peer = Peer {
                    architecture: Architecture::host(),
                    versions: versions.clone(),
                };
                connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    serve(stream.expect("a connection"), &peer, &*answer);
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

fn serve(mut stream: TcpStream, peer: &Peer, answer: &dyn Fn(&Call<'_>) -> Option<Act>) {
    let mut records = Records::new(1 << 20);
    let mut buffer = Vec::new();
    loop {
        while let Some(record) = records.next().expect("no record is over the limit") {
            let reply = match rpc::read_request(record, peer) {
                Request::Call(incoming) => {
                    let answered = match answer(&incoming.call) {
                        Some(Act::HangUp) => return,
                        Some(Act::Answer(reply)) => Outgoing::new(*reply, incoming.version),
                        Some(Act::AnswerVersion3(reply)) => Some(Outgoing::Three(*reply)),
                        None => Outgoing::new(fine(&incoming.call), incoming.version),
                    };
                    let reply = answered.expect("a reply of the version that was called");
                    rpc::write_reply(incoming.xid, &reply, Architecture::host(), &mut buffer)
                        .expect("a small reply")
                        .to_vec()
                }
                Request::Rejected(xid, rejection) => {
                    let rejected = matches!(rejection, rpc::Rejection::ProgramMismatch(..));
                    assert!(rejected, "the client sends calls only: {rejection:?}");
                    rpc::write_rejection(xid, rejection, &mut buffer)
                        .expect("a small reply")
                        .to_vec()
                }
                Request::Unanswerable => panic!("the client sends calls only"),
            };
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
        match stream.read(records.space().unwrap()) {
            Ok(0) | Err(_) => return,
            Ok(count) => records.received(count),
        }
    }
}

/// CKR_OK and nothing else.
fn fine(call: &Call<'_>) -> Reply {
    match call {
        Call::C_SetupArch(_) => Reply::C_SetupArch(HelloResult {
            rv: CkRv::OK,
            hello: Hello {
                architecture: Some(Architecture::LITTLE_64),
                longest_record: Ulong(1 << 20),
                parallel_calls: Ulong(1),
                ..Default::default()
            },
        }),
        call => Reply::only(call.function(), CkRv::OK),
    }
}
