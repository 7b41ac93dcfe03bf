//! Passes each call of a client through the rules: in front of the module, in a fixed order.
//!
//! The order is the same for every function: the template is converted to its canonical form
//! (`canonical_template`), the actions of the pre chain run, forbidden functions are refused, the
//! arguments are checked (`checks`), the actions of the post chain run, and the module is called. If
//! no rule applies to the module of a connection, its calls go straight to the module.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use xdr::{
    Call, CkRv, Cryptoki, Flags, Function, MechanismListResult, ObjectHandle, ObjectListResult,
    Reply, SessionHandle, SlotId, Ulong,
};

use crate::actions::Verdict;
use crate::checks::Refusal;
use crate::context::Context;
use crate::module_rules::{ModuleRules, Step};
use crate::object_reader::ObjectReader;
use crate::patches::sensitive_leak_patch::names_a_value;
use crate::search::Searches;
use crate::{ModuleEntry, Rules, canonical_template, checks, log, replies};
/// CKF_RW_SESSION.
const READ_WRITE: u64 = 0x2;

/// The rules of one connection in front of the module it loaded.
pub struct Filter<N> {
    next: N,
    /// What applies to the module; none if nothing does.
    engine: Option<Engine>,
}

impl<N: Cryptoki> Filter<N> {
    /// Puts the rules in front of `next`, which the client asked for as `requested`.
    pub fn new(rules: &Arc<Rules>, requested: &[u8], entry: &ModuleEntry, next: N) -> Filter<N> {
        let (name, path) = (log::Printable(requested), entry.path.display());
        log::debug(
            1,
            rules.debug,
            format_args!("Aliasing requested '{name}' -> '{path}'"),
        );
        let applying = ModuleRules::new(rules, requested);
        let engine = (!applying.is_empty()).then(|| Engine {
            settings: rules.clone(),
            module: requested.to_vec(),
            rules: applying,
            segregation: AtomicBool::new(false),
            searches: Searches::default(),
        });
        Filter { next, engine }
    }
}

impl<N: Cryptoki> Cryptoki for Filter<N> {
    fn call(&self, call: Call<'_>) -> Reply {
        match &self.engine {
            Some(engine) => engine.call(call, &self.next),
            None => self.next.call(call),
        }
    }
}

/// The rules for one module and the state of one connection.
struct Engine {
    settings: Arc<Rules>,
    module: Vec<u8>,
    rules: ModuleRules,
    /// Key usage is segregated (SEG): an action switches it on.
    segregation: AtomicBool,
    searches: Searches,
}

impl Engine {
    fn call(&self, call: Call<'_>, backend: &dyn Cryptoki) -> Reply {
        let key = self.settings.wrapping_format_key.as_ref();
        let context = Context {
            backend,
            objects: ObjectReader::new(backend),
            function: call.function(),
            module: &self.module,
            rules: &self.rules,
            segregation: &self.segregation,
            wrapping_key: key.map(|key| &*key.0),
            compatibility: &self.settings.compatibility,
            debug: self.settings.debug,
        };
        self.filter(call, &context).unwrap_or_else(|refusal| {
            refusal.log(&context);
            replies::refused(context.function, refusal.rv)
        })
    }

    /// The reply of an action or of the module, unless a check refuses the call.
    fn filter(&self, call: Call<'_>, context: &Context<'_>) -> Result<Reply, Refusal> {
        let call = match canonical_template::normalise(call) {
            Ok(call) => call,
            Err(rv) => {
                checks::check_function(context)?;
                let what = "a template with a malformed or repeated attribute".to_owned();
                return Err(Refusal {
                    rv,
                    what,
                    source: None,
                });
            }
        };
        if let Some(reply) = self.act(&self.rules.pre, &call, context) {
            return Ok(reply);
        }
        checks::check_function(context)?;
        checks::check_arguments(&call, context)?;
        let call = match call {
            Call::C_OpenSession(slot, flags) if checks::is_read_only(context) => {
                Call::C_OpenSession(slot, Flags(flags.0 & !READ_WRITE))
            }
            other => other,
        };
        if let Some(reply) = self.act(&self.rules.post, &call, context) {
            return Ok(reply);
        }
        Ok(self.execute(call, context))
    }

    /// Runs a chain: the reply of the first action that decides.
    fn act(
        &self,
        chains: &BTreeMap<Function, Vec<Step>>,
        call: &Call<'_>,
        context: &Context<'_>,
    ) -> Option<Reply> {
        let steps = chains.get(&context.function)?;
        for step in steps {
            let name = step.name;
            context.log_call(1, format_args!("action '{name}' runs"));
            match step.action.judge(call, context) {
                Verdict::Continue => {}
                Verdict::Decide(reply) if reply.function() == context.function => {
                    let rv = reply.rv();
                    context.log_rule(step.source, format_args!("action '{name}' answers {rv}"));
                    return Some(reply);
                }
                Verdict::Decide(_) => {
                    log::error(format_args!("action '{name}' answers for another function"));
                    return Some(replies::refused(context.function, CkRv::GENERAL_ERROR));
                }
            }
        }
        None
    }

    /// The call itself, with what it changes of the searches.
    fn execute(&self, call: Call<'_>, context: &Context<'_>) -> Reply {
        let backend = context.backend;
        match call {
            Call::C_GetMechanismList(slot, count) if !self.rules.mechanisms.is_empty() => {
                Reply::C_GetMechanismList(self.mechanisms(slot, count, context))
            }
            Call::C_FindObjects(session, count)
                if self.watches_searches() || self.searches.has(session) =>
            {
                Reply::C_FindObjects(self.find(session, count, context))
            }
            Call::C_FindObjectsInit(session, ref template) => {
                let mut readers = self.rules.steps(Function::C_GetAttributeValue);
                let by_value = names_a_value(template) && readers.next().is_some();
                let reply = backend.call(call);
                match reply.rv().is_ok() {
                    true if by_value || self.watches_searches() => {
                        self.searches.begin(session, by_value);
                    }
                    true => self.searches.end(session),
                    false => {}
                }
                reply
            }
            Call::C_FindObjectsFinal(session) | Call::C_CloseSession(session) => {
                let final_call = context.function == Function::C_FindObjectsFinal;
                let reply = backend.call(call);
                if final_call || reply.rv().is_ok() {
                    self.searches.end(session);
                }
                reply
            }
            Call::C_CloseAllSessions(_) => {
                let reply = backend.call(call);
                if reply.rv().is_ok() {
                    // Those of other slots go on.
                    self.searches
                        .retain(|session| session_state(backend, session).is_ok());
                }
                reply
            }
            Call::C_Finalize() => {
                let reply = backend.call(call);
                if reply.rv().is_ok() {
                    self.searches.retain(|_| false);
                }
                reply
            }
            call => backend.call(call),
        }
    }

    /// Whether something decides about each object that is found.
    fn watches_searches(&self) -> bool {
        let mut searchers = self.rules.steps(Function::C_FindObjects);
        self.rules.guards_objects() || searchers.next().is_some()
    }

    /// C_FindObjects: what the search of this session found and the client may see.
    fn find(
        &self,
        session: SessionHandle,
        count: Ulong,
        context: &Context<'_>,
    ) -> ObjectListResult {
        let backend = context.backend;
        let fetch = |count| match backend.call(Call::C_FindObjects(session, Ulong(count))) {
            Reply::C_FindObjects(found) if found.rv.is_ok() => Ok(found.objects),
            other if other.rv().is_ok() => Err(CkRv::GENERAL_ERROR),
            other => Err(other.rv()),
        };
        let hides = |object: ObjectHandle, by_value: bool| {
            match checks::check_object(context, session, object, CkRv::OBJECT_HANDLE_INVALID) {
                Ok(()) => {}
                Err(refusal) if checks::concerns_the_session(refusal.rv) => return Err(refusal.rv),
                Err(refusal) => {
                    refusal.log(context);
                    return Ok(true);
                }
            }
            let readers = self.rules.steps(Function::C_GetAttributeValue);
            let readers = readers.filter(|_| by_value);
            let mut steps = self.rules.steps(Function::C_FindObjects).chain(readers);
            Ok(steps.any(|step| step.action.hides(session, object, context)))
        };
        let found = self.searches.next(session, count.0, fetch, hides);
        // Without a search, an invalid session is told first, as a module does.
        let found = found.unwrap_or_else(|| {
            session_state(backend, session).and(Err(CkRv::OPERATION_NOT_INITIALIZED))
        });
        match found {
            Ok(objects) => ObjectListResult {
                rv: CkRv::OK,
                count: Ulong(objects.len() as u64),
                objects,
            },
            Err(rv) => ObjectListResult {
                rv,
                ..Default::default()
            },
        }
    }

    /// C_GetMechanismList: the module's without those that are forbidden, in its order. The number
    /// told and the room needed are those of the filtered list.
    fn mechanisms(&self, slot: SlotId, count: Ulong, context: &Context<'_>) -> MechanismListResult {
        let ask = |count| match context.backend.call(Call::C_GetMechanismList(slot, count)) {
            Reply::C_GetMechanismList(list) => list,
            other => MechanismListResult {
                rv: other.rv(),
                ..Default::default()
            },
        };
        let size = ask(Ulong(0));
        let list = ask(if size.rv.is_ok() { size.count } else { count });
        if !list.rv.is_ok() {
            return MechanismListResult {
                rv: list.rv,
                mechanisms: Vec::new(),
                count,
            };
        }
        let shown = |mechanisms: &[xdr::MechanismType]| {
            mechanisms
                .iter()
                .copied()
                .map(log::mechanism)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let log = |text: &str, mechanisms: &[xdr::MechanismType]| {
            if self.settings.debug >= 1 {
                let list = shown(mechanisms);
                log::debug(
                    1,
                    self.settings.debug,
                    format_args!("mechanisms {text}: {list}"),
                );
            }
        };
        log("before filtering", &list.mechanisms);
        let mut mechanisms = list.mechanisms;
        mechanisms.retain(|mechanism| self.rules.forbids(*mechanism).is_none());
        log("after filtering", &mechanisms);
        let number = Ulong(mechanisms.len() as u64);
        match (number.0 > count.0, count.0) {
            (false, _) => MechanismListResult {
                rv: list.rv,
                mechanisms,
                count: number,
            },
            (true, 0) => MechanismListResult {
                rv: CkRv::OK,
                mechanisms: Vec::new(),
                count: number,
            },
            (true, _) => {
                let rv = CkRv::BUFFER_TOO_SMALL;
                MechanismListResult {
                    rv,
                    mechanisms: Vec::new(),
                    count: number,
                }
            }
        }
    }
}

/// What the module says of a session.
fn session_state(backend: &dyn Cryptoki, session: SessionHandle) -> Result<(), CkRv> {
    match backend.call(Call::C_GetSessionInfo(session)).rv() {
        CkRv::OK => Ok(()),
        rv => Err(rv),
    }
}

#[cfg(test)]
mod tests;
