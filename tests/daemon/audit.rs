//! Tests the audit log. Here is what these tests share: a daemon with an audit log, and its clients.

mod auditor;
mod contents;
mod full;
mod tampering;
mod text;
mod unfinished;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use openssl::pkey::{PKey, Private};
use serde_json::Value;
use xdr::{
    Attribute, AttributeType, Call as Call4, Hello, Input, Mechanism, MechanismType, ObjectHandle,
    Query, Room, Template, Ulong, UserType, Wanted,
};

use crate::support::certificates::certificate;
use crate::support::processes::Outcome;
use crate::*;

const SIGNED_WITH: MechanismType = MechanismType(0x40);

/// A daemon with an audit log, and its keys.
struct Audited {
    daemon: Daemon,
    directory: Directory,
}

fn key(directory: &Directory) -> PKey<Private> {
    let key = PKey::generate_ed25519().expect("a key");
    let write = |name, pem: Vec<u8>| std::fs::write(directory.join(name), pem).expect("a file");
    write("key.pem", key.private_key_to_pem_pkcs8().expect("PEM"));
    write("public.pem", key.public_key_to_pem().expect("PEM"));
    key
}

impl Audited {
    fn start(mut setup: Setup, more: &str) -> Audited {
        let directory = Directory::new();
        key(&directory);
        setup.daemon += &format!(
            "audit {{ file = \"{}\"; key = \"{}\"; {more} }};",
            directory.join("audit.log").display(),
            directory.join("key.pem").display()
        );
        Audited {
            daemon: setup.start(),
            directory,
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("audit.log")
    }

    /// The process that has the log open. The daemon serves clients before it has opened it.
    fn auditor(&self) -> Process {
        let mut found = None;
        wait_until(PATIENCE, || {
            found = self.present_auditor();
            found.is_some()
        });
        found.expect("an auditor")
    }

    /// The same, if there is one now.
    fn present_auditor(&self) -> Option<Process> {
        self.daemon.workers().into_iter().find(|process| {
            let Ok(descriptors) = std::fs::read_dir(format!("/proc/{}/fd", process.pid)) else {
                return false;
            };
            descriptors.flatten().any(|descriptor| {
                std::fs::read_link(descriptor.path()).is_ok_and(|path| path == self.file())
            })
        })
    }

    fn lines(&self) -> Vec<Value> {
        lines(&self.file())
    }

    /// The lines of calls of this function.
    fn calls(&self, function: &str) -> Vec<Value> {
        let lines = self.lines().into_iter();
        lines.filter(|line| line["function"] == function).collect()
    }

    /// Waits until the log has this many lines of the function.
    fn has(&self, function: &str, count: usize) -> bool {
        wait_until(PATIENCE, || self.calls(function).len() == count)
    }

    fn verify(&self, more: &[&str], files: &[&str]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
        command
            .current_dir(self.directory.path())
            .args(["audit", "verify", "-key", "public.pem"])
            .args(more)
            .args(files);
        run(command, Duration::from_secs(20))
    }

    /// Ends the daemon; the log must be as it was written.
    fn end(&mut self, files: &[&str]) {
        assert_eq!(
            self.daemon.terminate().and_then(|status| status.code()),
            Some(0)
        );
        let verified = self.verify(&[], files);
        let text = format!("{}{}", verified.stdout, verified.stderr);
        assert_eq!(
            verified.status.code(),
            Some(0),
            "{text}\n{}",
            self.daemon.log()
        );
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parsed = whole.lines().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().expect("each line is JSON")
}

/// A client of version 4 with a session of the null module.
fn ready4(daemon: &Daemon) -> Client {
    let (client, opened) = begin4(daemon);
    assert_eq!(opened, CkRv::OK);
    client
}

/// The same, with the CK_RV of C_OpenSession.
fn begin4(daemon: &Daemon) -> (Client, CkRv) {
    let mut client = Client::new(daemon);
    let hello = Hello {
        longest_record: Ulong(1 << 20),
        parallel_calls: Ulong(1),
        ..Default::default()
    };
    client.call(Call4::C_SetupArch(hello));
    client.call(Call4::C_LoadModule(b"null"));
    client.call(Call4::C_Initialize(Flags(0)));
    let opened = client.call(Call4::C_OpenSession(SlotId(0), Flags(6), false));
    (client, opened.rv())
}

fn sign_with(client: &mut Client, data: &[u8]) -> CkRv {
    let mechanism = Some(Mechanism::bare(SIGNED_WITH));
    let begun = client.call(Call4::C_SignInit(SESSION, mechanism, ObjectHandle(1)));
    if begun.rv() != CkRv::OK {
        return begun.rv();
    }
    client
        .call(Call4::C_Sign(
            SESSION,
            Input::Bytes(data),
            Room::Buffer(999),
        ))
        .rv()
}

fn sign(client: &mut Client) -> CkRv {
    sign_with(client, b"data of the client")
}
