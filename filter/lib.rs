//! What may pass: the rules of filter.conf in front of a PKCS#11 module.
//!
//! The file becomes [`Rules`] in one direction only: `config_file::tokenizer` cuts it into tokens,
//! `syntax` makes values of them, `config_file` gives those types and places, `config` checks them.
//! The crate `config_file` serves the daemon's own configuration as well. Calls come from the
//! worker's gateway, in the host's representation, to [`Filter`], which hands on to the module what
//! it lets pass.
//!
//! The order is the same for every function: the template in its one form (`canonical_template`),
//! actions of the pre chain, forbidden functions, the function's own checks (`checks`), actions of
//! the post chain, the module. A connection to whose module no rule applies goes straight to the
//! module.

#![forbid(unsafe_code)]

pub mod actions;
pub mod attributes;
mod canonical_template;
mod checks;
pub mod compatibility;
pub mod config;
pub mod log;
pub mod module_rules;
pub mod patches;
pub mod regexp;
pub mod replies;
mod search;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use xdr::{
    Call, CkRv, Cryptoki, Flags, Function, MechanismListResult, ObjectHandle, ObjectListResult,
    Reply, SessionHandle, SlotId, Ulong,
};

use crate::actions::{Context, Verdict};
use crate::attributes::CallCache;
use crate::checks::{Check, Refusal};
use crate::module_rules::{ModuleRules, Step};
use crate::patches::sensitive_leak_patch::names_a_value;
use crate::search::Searches;

pub use compatibility::Compatibility;
pub use config::Operation;
pub use config::{ModuleEntry, Rules};

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
        let check = Check {
            rules: &self.rules,
            module: &self.module,
            debug: self.settings.debug,
            backend,
            function: call.function(),
        };
        let cache = CallCache::default();
        let context = Context {
            backend,
            module: &self.module,
            segregation: &self.segregation,
            wrapping_key: self
                .settings
                .wrapping_format_key
                .as_ref()
                .map(|key| &*key.0),
            compatibility: &self.settings.compatibility,
            debug: self.settings.debug,
            cache: &cache,
        };
        self.filter(call, &check, &context)
            .unwrap_or_else(|refusal| {
                check.report(&refusal);
                replies::refuse(check.function, refusal.rv)
            })
    }

    /// The reply of an action or of the module, unless a check refuses the call.
    fn filter(
        &self,
        call: Call<'_>,
        check: &Check<'_>,
        context: &Context<'_>,
    ) -> Result<Reply, Refusal> {
        let call = match canonical_template::normalise(call) {
            Ok(call) => call,
            Err(rv) => {
                check.function()?;
                let what = "a template with a malformed or repeated attribute".to_owned();
                return Err(Refusal {
                    rv,
                    what,
                    source: None,
                });
            }
        };
        if let Some(reply) = self.act(&self.rules.pre, &call, check, context) {
            return Ok(reply);
        }
        check.function()?;
        arguments(&call, check)?;
        let call = match call {
            Call::C_OpenSession(slot, flags) if check.read_only() => {
                Call::C_OpenSession(slot, Flags(flags.0 & !READ_WRITE))
            }
            other => other,
        };
        if let Some(reply) = self.act(&self.rules.post, &call, check, context) {
            return Ok(reply);
        }
        Ok(self.execute(call, check, context))
    }

    /// Runs a chain: the reply of the first action that decides.
    fn act(
        &self,
        chains: &BTreeMap<Function, Vec<Step>>,
        call: &Call<'_>,
        check: &Check<'_>,
        context: &Context<'_>,
    ) -> Option<Reply> {
        let steps = chains.get(&check.function)?;
        for step in steps {
            let name = step.name;
            check.log(1, format_args!("action '{name}' runs"));
            match step.action.judge(call, context) {
                Verdict::Continue => {}
                Verdict::Decide(reply) if reply.function() == check.function => {
                    check.decided(step, reply.rv());
                    return Some(reply);
                }
                Verdict::Decide(_) => {
                    log::error(format_args!("action '{name}' answers for another function"));
                    return Some(replies::refuse(check.function, CkRv::GENERAL_ERROR));
                }
            }
        }
        None
    }

    /// The call itself, with what it changes of the searches.
    fn execute(&self, call: Call<'_>, check: &Check<'_>, context: &Context<'_>) -> Reply {
        let backend = check.backend;
        match call {
            Call::C_GetMechanismList(slot, count) if !self.rules.mechanisms.is_empty() => {
                Reply::C_GetMechanismList(self.mechanisms(slot, count, check))
            }
            Call::C_FindObjects(session, count)
                if self.watches_searches() || self.searches.has(session) =>
            {
                Reply::C_FindObjects(self.find(session, count, check, context))
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
                let final_call = check.function == Function::C_FindObjectsFinal;
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
        check: &Check<'_>,
        context: &Context<'_>,
    ) -> ObjectListResult {
        let backend = check.backend;
        let fetch = |count| match backend.call(Call::C_FindObjects(session, Ulong(count))) {
            Reply::C_FindObjects(found) if found.rv.is_ok() => Ok(found.objects),
            other if other.rv().is_ok() => Err(CkRv::GENERAL_ERROR),
            other => Err(other.rv()),
        };
        let hides = |object: ObjectHandle, by_value: bool| {
            match check.object(session, object, CkRv::OBJECT_HANDLE_INVALID) {
                Ok(()) => {}
                Err(refusal) if checks::concerns_the_session(refusal.rv) => return Err(refusal.rv),
                Err(refusal) => {
                    check.report(&refusal);
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
    fn mechanisms(&self, slot: SlotId, count: Ulong, check: &Check<'_>) -> MechanismListResult {
        let ask = |count| match check.backend.call(Call::C_GetMechanismList(slot, count)) {
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

/// The checks of each function, in the order in which they are made; the first that refuses decides.
fn arguments(call: &Call<'_>, check: &Check<'_>) -> Result<(), Refusal> {
    use Operation::{Decrypt, Encrypt, Sign, Unwrap, Wrap};
    use xdr::Call::*;

    const INVALID: CkRv = CkRv::OBJECT_HANDLE_INVALID;
    match call {
        C_GetMechanismInfo(_, mechanism) => check.mechanism(*mechanism),
        C_InitToken(..) | C_InitPIN(..) => check.administration(),
        C_Login(_, user, _) => check.user(*user),
        C_SetOperationState(session, _, encryption, authentication) => {
            let mut named = [encryption, authentication]
                .into_iter()
                .filter(|key| key.0 != 0);
            named.try_for_each(|key| check.object(*session, *key, INVALID))
        }

        C_CreateObject(_, template) => check.template(template),
        C_CopyObject(session, object, template)
        | C_SetAttributeValue(session, object, template) => {
            check.object(*session, *object, INVALID)?;
            check.template(template)
        }
        C_DestroyObject(session, object)
        | C_GetObjectSize(session, object)
        | C_GetAttributeValue(session, object, _)
        | C_DigestKey(session, object) => check.object(*session, *object, INVALID),

        C_EncryptInit(session, mechanism, key) => {
            check.object(*session, *key, INVALID)?;
            check.use_of(*session, mechanism)?;
            check.padding(Encrypt, mechanism)
        }
        C_DecryptInit(session, mechanism, key) => {
            check.object(*session, *key, INVALID)?;
            check.use_of(*session, mechanism)?;
            check.padding(Decrypt, mechanism)
        }
        C_SignInit(session, mechanism, key) => {
            check.object(*session, *key, INVALID)?;
            check.use_of(*session, mechanism)?;
            check.padding(Sign, mechanism)
        }
        C_SignRecoverInit(session, mechanism, key)
        | C_VerifyInit(session, mechanism, key)
        | C_VerifyRecoverInit(session, mechanism, key) => {
            check.object(*session, *key, INVALID)?;
            check.use_of(*session, mechanism)
        }
        C_DigestInit(session, mechanism) => check.use_of(*session, mechanism),

        C_GenerateKey(session, mechanism, template) => {
            check.use_of(*session, mechanism)?;
            check.template(template)
        }
        C_GenerateKeyPair(session, mechanism, public, private) => {
            check.use_of(*session, mechanism)?;
            check.template(public)?;
            check.template(private)
        }
        C_WrapKey(session, mechanism, wrapping, key) => {
            check.object(*session, *wrapping, CkRv::WRAPPING_KEY_HANDLE_INVALID)?;
            check.object(*session, *key, INVALID)?;
            check.use_of(*session, mechanism)?;
            check.padding(Wrap, mechanism)
        }
        C_UnwrapKey(session, mechanism, unwrapping, _, template) => {
            check.object(*session, *unwrapping, CkRv::UNWRAPPING_KEY_HANDLE_INVALID)?;
            check.use_of(*session, mechanism)?;
            check.padding(Unwrap, mechanism)?;
            check.template(template)
        }
        C_DeriveKey(session, mechanism, base, template) => {
            check.object(*session, *base, INVALID)?;
            check.use_of(*session, mechanism)?;
            check.template(template)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::Action;
    use crate::module_rules::Source;
    use std::path::Path;
    use std::sync::Mutex;
    use xdr::{Attribute, AttributeType, Template};

    const SESSION: SessionHandle = SessionHandle(1);

    /// What happened, in order.
    type Trace = Arc<Mutex<Vec<String>>>;

    struct Module(Trace);

    impl Cryptoki for Module {
        fn call(&self, call: Call<'_>) -> Reply {
            self.0
                .lock()
                .unwrap()
                .push(call.function().name().to_owned());
            let mut reply = Reply::only(call.function(), CkRv::OK);
            if let Reply::C_FindObjects(found) = &mut reply {
                if self
                    .0
                    .lock()
                    .unwrap()
                    .iter()
                    .filter(|name| *name == "C_FindObjects")
                    .count()
                    == 1
                {
                    found.objects = (1..=4).map(ObjectHandle).collect();
                }
            }
            reply
        }
    }

    /// An action that decides by a reply of a function, and hides an object.
    struct Decides {
        name: &'static str,
        by: Option<Function>,
        hides: u64,
        trace: Trace,
    }

    impl Action for Decides {
        fn judge(&self, _: &Call<'_>, context: &Context<'_>) -> Verdict {
            assert_eq!(context.module, b"m");
            self.trace.lock().unwrap().push(self.name.to_owned());
            let refused = |function| Verdict::Decide(Reply::only(function, CkRv::PIN_LOCKED));
            self.by.map_or(Verdict::Continue, refused)
        }

        fn hides(&self, _: SessionHandle, object: ObjectHandle, _: &Context<'_>) -> bool {
            object.0 == self.hides
        }
    }

    /// A module behind chains for one function: name of each action, and what it decides by.
    fn filter(
        function: Function,
        rules: &str,
        pre: &[(&'static str, Option<Function>)],
        post: &[(&'static str, Option<Function>)],
    ) -> (Filter<Module>, Trace) {
        let text = format!(
            "modules = [(m, n)] filter_actions_pre = [(m, [(C_GetInfo, identity)])] {rules}"
        );
        let compatibility = Compatibility::default();
        let rules = Rules::parse(text.as_bytes(), Path::new("f"), &compatibility).unwrap();
        let trace = Trace::default();
        let module = Module(trace.clone());
        let entry = rules.modules[0].clone();
        let mut filter = Filter::new(&Arc::new(rules), b"m", &entry, module);
        let engine = filter.engine.as_mut().unwrap();
        let mut hides = 0;
        for (chain, steps) in [(&mut engine.rules.pre, pre), (&mut engine.rules.post, post)] {
            for (name, by) in steps {
                hides += 2;
                let source = Source {
                    option: "filter_actions_pre",
                    line: 1,
                };
                let trace = trace.clone();
                let action = Box::new(Decides {
                    name,
                    by: *by,
                    hides,
                    trace,
                });
                chain.entry(function).or_default().push(Step {
                    name,
                    action,
                    source,
                });
            }
        }
        (filter, trace)
    }

    fn happened(trace: &Trace) -> Vec<String> {
        std::mem::take(&mut *trace.lock().unwrap())
    }

    #[test]
    fn actions_run_in_order_around_the_checks_and_the_first_that_answers_decides() {
        const LOGOUT: Function = Function::C_Logout;
        let forbidden = "forbidden_functions = [(m, [C_Logout])]";
        let call = || Call::C_Logout(SESSION);
        let chains: (&[_], &[_]) = (&[("a", None), ("b", None)], &[("c", None), ("d", None)]);
        let (all, trace) = filter(LOGOUT, "", chains.0, chains.1);
        assert_eq!(all.call(call()).rv(), CkRv::OK);
        assert_eq!(happened(&trace), ["a", "b", "c", "d", "C_Logout"]);

        let (some, trace) = filter(LOGOUT, forbidden, chains.0, chains.1);
        assert_eq!(some.call(call()).rv(), CkRv::FUNCTION_NOT_SUPPORTED);
        assert_eq!(happened(&trace), ["a", "b"]);

        let (first, trace) = filter(LOGOUT, forbidden, &[("a", Some(LOGOUT)), ("b", None)], &[]);
        assert_eq!(first.call(call()).rv(), CkRv::PIN_LOCKED);
        assert_eq!(happened(&trace), ["a"]);

        let (last, trace) = filter(LOGOUT, "", &[], &[("c", Some(LOGOUT))]);
        assert_eq!(last.call(call()).rv(), CkRv::PIN_LOCKED);
        assert_eq!(happened(&trace), ["c"]);
    }

    /// The original runs the post actions of some functions never, twice, or behind the module.
    #[test]
    fn actions_run_once_for_every_function_and_before_the_module() {
        let call = |function| match function {
            Function::C_GetSlotInfo => Call::C_GetSlotInfo(SlotId(0)),
            Function::C_GetTokenInfo => Call::C_GetTokenInfo(SlotId(0)),
            Function::C_FindObjectsInit => Call::C_FindObjectsInit(SESSION, Template::default()),
            _ => Call::C_GetMechanismList(SlotId(0), Ulong(0)),
        };
        for function in [
            Function::C_GetSlotInfo,
            Function::C_GetTokenInfo,
            Function::C_FindObjectsInit,
            Function::C_GetMechanismList,
        ] {
            let (filter, trace) = filter(function, "", &[("a", None)], &[("b", None)]);
            filter.call(call(function));
            assert_eq!(happened(&trace), ["a", "b", function.name()]);
        }
    }

    #[test]
    fn an_answer_for_another_function_never_reaches_the_client() {
        let (filter, trace) = filter(
            Function::C_Logout,
            "",
            &[("a", Some(Function::C_Login))],
            &[],
        );
        assert!(filter.call(Call::C_Logout(SESSION)) == Reply::C_Logout(CkRv::GENERAL_ERROR));
        assert_eq!(happened(&trace), ["a"]);
    }

    /// The original finds keys by their values. Other searches are the module's alone.
    #[test]
    fn finds_no_key_by_its_value() {
        let reads = Function::C_GetAttributeValue;
        let (filter, _) = filter(reads, "", &[("a", None)], &[("b", None)]);
        for (kind, expected) in [(0x11, vec![1, 3]), (0x124, vec![]), (0x3, vec![])] {
            let wanted = Template(vec![Attribute::new(AttributeType(kind), vec![7])]);
            filter.call(Call::C_FindObjectsInit(SESSION, wanted));
            let engine = filter.engine.as_ref().unwrap();
            assert_eq!(engine.searches.has(SESSION), kind != 0x3);
            let reply = filter.call(Call::C_FindObjects(SESSION, Ulong(9)));
            let Reply::C_FindObjects(found) = reply else {
                panic!("another reply");
            };
            let handles: Vec<u64> = found.objects.iter().map(|object| object.0).collect();
            assert_eq!(handles, expected, "{kind:#x}");
        }
    }

    #[test]
    fn actions_of_both_chains_hide_what_a_search_finds() {
        let (filter, _) = filter(Function::C_FindObjects, "", &[("a", None)], &[("b", None)]);
        filter.call(Call::C_FindObjectsInit(SESSION, Template::default()));
        let Reply::C_FindObjects(found) = filter.call(Call::C_FindObjects(SESSION, Ulong(9)))
        else {
            panic!("another reply");
        };
        assert_eq!(found.objects, [ObjectHandle(1), ObjectHandle(3)]);
    }
}
