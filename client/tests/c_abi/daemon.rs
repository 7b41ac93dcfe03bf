//! Runs a fake daemon whose replies come from a closure.

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

/// What the daemon does with a call.
pub enum Act {
    Answer(Box<Reply>),
    /// Answers with a reply of version 3 that has no equivalent in version 4.
    AnswerVersion3(Box<version3::Reply>),
    /// Answers after this time; other calls are answered meanwhile.
    AnswerLater(Duration, Box<Reply>),
    /// Never answers this call; other calls are answered.
    Ignore,
    /// Closes the connection without an answer.
    HangUp,
}

/// A daemon that answers each call as `answer` says; `None` means CKR_OK and nothing else.
pub struct Daemon {
    pub address: String,
    connections: Arc<AtomicUsize>,
    /// The number of connections that have ended.
    ended: Arc<AtomicUsize>,
}

/// Both versions of the protocol.
const BOTH: RangeInclusive<u32> = 3..=4;

/// The versions that an older daemon speaks, and those that a newer one speaks.
pub const OLDER_AND_NEWER: [RangeInclusive<u32>; 2] = [3..=3, BOTH];

impl Daemon {
    /// Starts a daemon that speaks both versions.
    pub fn start(answer: impl Fn(&Call<'_>) -> Option<Act> + Send + Sync + 'static) -> Daemon {
        Daemon::of_versions(BOTH, answer)
    }

    /// Starts a daemon that speaks version 3 only.
    pub fn of_version3(
        answer: impl Fn(&Call<'_>) -> Option<Act> + Send + Sync + 'static,
    ) -> Daemon {
        Daemon::of_versions(3..=3, answer)
    }

    /// Starts a daemon that speaks these versions.
    pub fn of_versions(
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

    /// Returns the address in the form that the log has.
    pub fn name(&self) -> String {
        self.address.replace(':', " port ")
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until this many connections have ended.
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
            let (xid, answered, delay) = match rpc::read_request(record, peer) {
                Request::Call(incoming) => {
                    let version = incoming.version;
                    let (answered, delay) = match answer(&incoming.call) {
                        Some(Act::HangUp) => return,
                        Some(Act::Ignore) => continue,
                        Some(Act::Answer(reply)) => (Outgoing::new(*reply, version), None),
                        Some(Act::AnswerLater(delay, reply)) => {
                            (Outgoing::new(*reply, version), Some(delay))
                        }
                        Some(Act::AnswerVersion3(reply)) => (Some(Outgoing::Three(*reply)), None),
                        None => (Outgoing::new(fine(&incoming.call), version), None),
                    };
                    let answered = answered.expect("a reply of the version that was called");
                    (incoming.xid, answered, delay)
                }
                Request::Rejected(xid, rejection) => {
                    let rejected = matches!(rejection, rpc::Rejection::ProgramMismatch(..));
                    assert!(rejected, "the client sends calls only: {rejection:?}");
                    let refusal = rpc::write_rejection(xid, rejection, &mut buffer);
                    let refusal = refusal.expect("a small reply").to_vec();
                    stream.write_all(&refusal).expect("the client waits");
                    continue;
                }
                Request::Unanswerable => panic!("the client sends calls only"),
            };
            let reply = rpc::write_reply(xid, &answered, Architecture::host(), &mut buffer);
            let reply = reply.expect("a small reply").to_vec();
            if let Some(delay) = delay {
                let mut stream = stream.try_clone().expect("a descriptor");
                thread::spawn(move || {
                    thread::sleep(delay);
                    let _ = stream.write_all(&reply);
                });
            } else if stream.write_all(&reply).is_err() {
                return;
            }
        }
        match stream.read(records.space().unwrap()) {
            Ok(0) | Err(_) => return,
            Ok(count) => records.received(count),
        }
    }
}

/// Makes a reply with CKR_OK and nothing else.
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
