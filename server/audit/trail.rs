//! Sends a record of each call and its result to the auditor, before the client gets the reply.
//!
//! Calls come from `gateway`, which executes them in here. Records go to the auditor. A worker waits while the auditor
//! cannot take them, and executes nothing while no line can be written, if the site wants that.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use filter::witness::Refused;
use filter::{Witness, replies};
use xdr::{Call, CkRv, Cryptoki, Function, Reply};

use super::hex;
use super::objects::Known;
use super::records::{FromWorker, LONGEST_NAME, RecordSender, Rule};

/// Of one connection.
pub struct Trail {
    sender: RecordSender,
    calls: AtomicU64,
    module: OnceLock<String>,
    known: Known,
}

/// Keeps the rule or limit that refused a call.
#[derive(Default)]
struct Seen(Mutex<Option<Rule>>);

impl Witness for Seen {
    fn refused(&self, refused: &Refused<'_>) {
        let rule = match refused.rule {
            Some((file, source)) => Rule {
                option: source.option.to_owned(),
                file: file.display().to_string(),
                line: Some(source.line),
                ..Rule::default()
            },
            None => Rule {
                limit: refused.limit.unwrap_or_default().to_owned(),
                ..Rule::default()
            },
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rule);
    }
}

/// The name of a module as it is recorded.
fn alias(name: &[u8]) -> String {
    hex(name.get(..LONGEST_NAME).unwrap_or(name))
}

impl Trail {
    /// Of a connection on which nothing was called yet.
    pub fn new(sender: RecordSender) -> Trail {
        Trail {
            sender,
            calls: AtomicU64::new(0),
            module: OnceLock::new(),
            known: Known::default(),
        }
    }

    /// Executes a call and records it. C_SetupArch is about the connection only, and not recorded.
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
        let (mut record, outline) = self.known.describe(&call, module);
        record.module = match &call {
            Call::C_LoadModule(name) => alias(name),
            _ => self.module.get().cloned().unwrap_or_default(),
        };
        let seen = Seen::default();
        // Whatever the module has done by then, it is recorded.
        let reply = catch_unwind(AssertUnwindSafe(|| execute(call, Some(&seen))));
        record.call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        record.refused = seen.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        record.rv = reply.as_ref().ok().map(|reply| reply.rv().0);
        if let Ok(reply) = &reply {
            self.known.note(&outline, &record, reply.rv());
            if function == Function::C_LoadModule && reply.rv().is_ok() {
                let _ = self.module.set(record.module.clone());
            }
        }
        self.sender.send(&FromWorker::Call(record));
        reply.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
