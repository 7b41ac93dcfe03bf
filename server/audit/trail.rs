//! Sends a record of each call and its result to the auditor, before the client gets the reply.
//!
//! `gateway` passes each call to [`Trail::during`] with a function that executes it. A worker waits while the auditor
//! cannot take its records. While no line can be written, it executes no call if the site has chosen that
//! (`when_full`).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use filter::module_rules::Source;
use filter::witness::Refused;
use filter::{Witness, replies};
use nix::time::{ClockId, clock_gettime};
use xdr::{Call, CkRv, Cryptoki, Function, Reply};

use super::call_record::{self, Ended, LONGEST_NAME, RefusedBy};
use super::objects::Known;
use super::records::RecordSender;
use super::ring::LONGEST_IN_PLACE;

/// Records the calls of one connection.
pub struct Trail {
    sender: RecordSender,
    calls: AtomicU64,
    /// The alias of the loaded module.
    module: OnceLock<Arc<[u8]>>,
    known: Known,
}

/// Keeps the rule or limit that refused a call.
#[derive(Default)]
struct Seen(Mutex<Option<Refusal>>);

enum Refusal {
    Rule(PathBuf, Source),
    Limit(&'static str),
    Nothing,
}

impl Witness for Seen {
    fn refused(&self, refused: &Refused<'_>) {
        let refusal = match (refused.rule, refused.limit) {
            (Some((file, source)), _) => Refusal::Rule(file.to_owned(), source),
            (None, Some(limit)) => Refusal::Limit(limit),
            (None, None) => Refusal::Nothing,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }
}

impl Refusal {
    fn recorded(&self) -> RefusedBy<'_> {
        match self {
            Refusal::Rule(file, source) => RefusedBy::Rule {
                option: source.option.as_bytes(),
                file: file.as_os_str().as_encoded_bytes(),
                line: source.line,
            },
            Refusal::Limit(limit) => RefusedBy::Limit(limit.as_bytes()),
            Refusal::Nothing => RefusedBy::Nothing,
        }
    }
}

/// The alias of a module as it is recorded.
fn alias(name: &[u8]) -> Arc<[u8]> {
    Arc::from(name.get(..LONGEST_NAME).unwrap_or(name))
}

/// Milliseconds since 1970, as of the clock's last tick, which costs no system call.
fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE)
        .ok()
        .and_then(|time| u64::try_from(Duration::from(time).as_millis()).ok())
        .unwrap_or(0)
}

/// The shorter form of a record that is too long for a place of calls in flight.
fn abridged(call: &call_record::Call) -> call_record::Call {
    call_record::Call {
        objects: Vec::new(),
        attributes: Vec::new(),
        ..call.clone()
    }
}

impl Trail {
    /// For a connection on which nothing was called yet.
    pub fn new(sender: RecordSender) -> Trail {
        Trail {
            sender,
            calls: AtomicU64::new(0),
            module: OnceLock::new(),
            known: Known::default(),
        }
    }

    /// Executes a call and records it. C_SetupArch concerns only the connection and is not recorded.
    pub fn during<'a>(
        &self,
        call: Call<'a>,
        module: Option<&dyn Cryptoki>,
        execute: impl FnOnce(Call<'a>, Option<&dyn Witness>) -> Reply,
    ) -> Reply {
        let function = call.function();
        if function == Function::C_SetupArch {
            return execute(call, None);
        }
        if !self.sender.admits() {
            return replies::refused(function, CkRv::DEVICE_ERROR);
        }
        let record = call_record::Call {
            call: self.calls.fetch_add(1, Ordering::Relaxed) + 1,
            began: now(),
            module: match &call {
                Call::C_LoadModule(name) => alias(name),
                _ => self.module.get().cloned().unwrap_or_default(),
            },
            ..call_record::Call::default()
        };
        let mut in_flight = None;
        let (record, outline) = self.known.describe(record, &call, module, |record| {
            in_flight.get_or_insert_with(|| self.sender.begin(&record.encode()));
        });
        let mut encoded = record.encode();
        let abridged = (encoded.len() > LONGEST_IN_PLACE).then(|| abridged(&record).encode());
        let noted = abridged.as_ref().unwrap_or(&encoded);
        let in_flight = match in_flight {
            Some(in_flight) => {
                in_flight.note(noted);
                in_flight
            }
            None => self.sender.begin(noted),
        };
        let seen = Seen::default();
        // Even if this panics, the call is recorded: the module may have executed it.
        let reply = catch_unwind(AssertUnwindSafe(|| execute(call, Some(&seen))));
        if let Ok(reply) = &reply {
            self.known.note(&outline, &record, reply.rv());
            if function == Function::C_LoadModule && reply.rv().is_ok() {
                let _ = self.module.set(record.module.clone());
            }
        }
        let refused = seen.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ended = Ended {
            rv: reply.as_ref().ok().map(|reply| reply.rv().0),
            refused: refused.as_ref().map(Refusal::recorded),
        };
        ended.encode(&mut encoded);
        self.sender.end(in_flight, &encoded);
        reply.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
