//! Tests our daemon alone: hostile and unusual clients, its processes, signals and exit statuses.
//!
//! The clients here write bytes to the socket; behind the daemon is the null module, which answers at once, or SoftHSM.

#[path = "../support/mod.rs"]
mod support;

mod administration;
mod audit;
mod bounds;
mod clients;
mod hook;
mod large;
mod large4;
mod logins;
mod logs;
mod profiles;
mod proxy;
mod rules;
mod sandbox;
mod signals;
mod start;
mod units;
mod wild;
mod workers;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::compile::module;
use support::processes::{Process, Running, run, wait_until};
use support::{Daemon, Directory, Endpoint, Maker, PATIENCE, Setup, Token};
use xdr::rpc::{self, Asking, Xid};
use xdr::version3::{Call, Reply};
use xdr::{Architecture, CkRv, Flags, Function, SessionHandle, SlotId};

const SESSION: SessionHandle = SessionHandle(1);

/// A daemon in front of the null module.
fn setup(token: &Token) -> Setup {
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, token);
    setup.modules = vec![("null".into(), module("nullmodule"))];
    setup
}

/// A client that writes what it likes.
struct Client(TcpStream);

impl Client {
    fn new(daemon: &Daemon) -> Client {
        let stream = TcpStream::connect(daemon.address()).expect("the daemon accepts");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        stream.set_nodelay(true).expect("a socket option");
        Client(stream)
    }

    /// With the null module loaded and initialised.
    fn ready(daemon: &Daemon) -> Client {
        Client::ready_for(daemon, b"null", SlotId(0))
    }

    /// With a module loaded and initialised, and a session with its token in this slot.
    fn ready_for(daemon: &Daemon, module: &[u8], slot: SlotId) -> Client {
        let mut client = Client::new(daemon);
        client.call(Call::C_SetupArch(Architecture::host()));
        client.call(Call::C_LoadModule(module));
        client.call(Call::C_Initialize());
        let opened = client.call(Call::C_OpenSession(slot, Flags(6)));
        assert!(opened.rv().is_ok(), "{opened:?}");
        client
    }

    fn call<C: Asking>(&mut self, call: C) -> C::Reply {
        self.send(&encoded(&call));
        self.reply(&call)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the daemon reads");
    }

    fn reply<C: Asking>(&mut self, call: &C) -> C::Reply {
        let record = self.record().expect("a reply");
        rpc::read_reply::<C>(Xid(7), call.function(), &record)
            .expect("its xid")
            .expect("a result")
    }

    /// The next record; `None` when the daemon closed the connection.
    fn record(&mut self) -> Option<Vec<u8>> {
        let mut mark = [0; 4];
        self.0.read_exact(&mut mark).ok()?;
        let mut record = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
        self.0.read_exact(&mut record).ok()?;
        Some(record)
    }

    /// Whether the daemon closes the connection within a time.
    fn is_closed_within(&mut self, limit: Duration) -> bool {
        self.0.set_read_timeout(Some(limit)).expect("a timeout");
        match self.0.read(&mut [0; 64]) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

/// The record of a call that no other overtakes.
fn encoded(call: &impl Asking) -> Vec<u8> {
    encoded_as(call, false)
}

fn encoded_as(call: &impl Asking, overlaps: bool) -> Vec<u8> {
    encoded_with(Xid(7), call, overlaps)
}

fn encoded_with(xid: Xid, call: &impl Asking, overlaps: bool) -> Vec<u8> {
    let mut buffer = Vec::new();
    let record = rpc::write_call(xid, call, overlaps, &mut buffer).expect("it can be sent");
    let parts: Vec<&[u8]> = record.unsent().iter().map(|part| &**part).collect();
    parts.concat()
}

/// A directory with a filter.conf for the null module.
fn with_rules() -> Directory {
    let directory = Directory::new();
    let null = module("nullmodule");
    let rules = format!("modules = [(\"null\", \"{}\")]\n", null.display());
    std::fs::write(directory.join("filter.conf"), rules).expect("a file");
    directory
}

/// Runs the daemon with a configuration that it should refuse.
fn refused(directory: &Directory, conf: &str, more: &[&str]) -> Output {
    std::fs::write(directory.join("d.conf"), conf).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyd"));
    command
        .arg("-conf")
        .arg(directory.join("d.conf"))
        .args(more);
    let outcome = run(command, Duration::from_secs(20));
    Output {
        status: outcome.status,
        stdout: outcome.stdout.into_bytes(),
        stderr: outcome.stderr.into_bytes(),
    }
}

fn configuration(address: &str, processor: &str) -> String {
    format!(
        "netplex {{ service {{ name = \"s\"; protocol {{ name = \"p\"; address {{ {address} }} }};
         processor {{ type = \"rpc_pkcs11\"; filter_config = \"filter.conf\"; {processor} }};
         workload_manager {{ type = \"constant\"; threads = 2 }} }} }}"
    )
}
