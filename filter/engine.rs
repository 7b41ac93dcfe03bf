//! Passes each call of a client through the rules, in a fixed order, and then to the module.
//!
//! The order is the same for every function: the template is converted to its canonical form (`canonical_template`),
//! the actions of the pre chain run, forbidden functions are refused, the arguments are checked (`checks`), the actions
//! of the post chain run, and the module is called. If no rule applies to the module of a connection, its calls go
//! straight to the module.
//!
//! Calls arrive from several threads. Where rules look at objects, a call that changes, copies or destroys an object
//! runs alone among the calls that name objects, from its checks to its end. So what a check has read is still true
//! when the module executes the call.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use xdr::facts::{Effect, Role};
use xdr::{Call, CkRv, Cryptoki, Function, Mechanism, NullPlaces, Reply};

use crate::actions::{Verdict, takes_object};
use crate::checks::Refusal;
use crate::context::Context;
use crate::module_rules::{ModuleRules, Source, Step};
use crate::object_reader::ObjectReader;
use crate::search::Searches;
use crate::witness::{Refused, Witness};
use crate::{ModuleEntry, Rules, canonical_template, checks, log, mechanism_list, replies};

/// CKF_RW_SESSION.
const READ_WRITE: u64 = 0x2;

/// The rules of one connection in front of the module it loaded.
pub struct Filter<N> {
    next: N,
    /// The rules for the module, if there are any.
    engine: Option<Engine>,
}

impl<N: Cryptoki> Filter<N> {
    /// Filters the calls to `next`. `requested` is the alias by which the client asked for it.
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
            looks_at_objects: applying.looks_at_objects().is_some(),
            rules: applying,
            segregation: AtomicBool::new(false),
            searches: Searches::default(),
            objects: RwLock::default(),
        });
        Filter { next, engine }
    }

    /// The layer behind the filter: the module.
    pub fn next(&self) -> &N {
        &self.next
    }

    /// Passes a call through the rules. If they refuse it, the witness is told.
    pub fn call_witnessed(
        &self,
        witness: Option<&dyn Witness>,
        call: Call<'_>,
        nulls: NullPlaces,
    ) -> Reply {
        match &self.engine {
            Some(engine) => engine.call(witness, call, nulls, &self.next),
            None => self.next.call_with_nulls(call, nulls),
        }
    }
}

impl<N: Cryptoki> Cryptoki for Filter<N> {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_with_nulls(call, NullPlaces::NONE)
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        self.call_witnessed(None, call, nulls)
    }
}

/// The rules for one module and the state of one connection.
struct Engine {
    settings: Arc<Rules>,
    module: Vec<u8>,
    rules: ModuleRules,
    /// Whether each key has one usage only; an action switches it on.
    segregation: AtomicBool,
    searches: Searches,
    /// Whether a rule looks at objects.
    looks_at_objects: bool,
    /// Locked by each call that names objects: exclusively if the call changes, copies or destroys one, shared
    /// otherwise. It protects no data in this process.
    objects: RwLock<()>,
}

/// The lock that a call holds on the objects of the module.
enum Hold<'a> {
    None,
    Shared { _guard: RwLockReadGuard<'a, ()> },
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

impl Engine {
    fn call(
        &self,
        witness: Option<&dyn Witness>,
        call: Call<'_>,
        nulls: NullPlaces,
        backend: &dyn Cryptoki,
    ) -> Reply {
        let key = self.settings.wrapping_format_key.as_ref();
        let context = Context {
            backend,
            objects: ObjectReader::new(backend),
            function: call.function(),
            nulls,
            module: &self.module,
            rules: &self.rules,
            segregation: &self.segregation,
            wrapping_key: key.map(|key| &*key.0),
            compatibility: &self.settings.compatibility,
            debug: self.settings.debug,
        };
        let _hold = self.hold(&call);
        let filtered = self.filter(witness, call, &context);
        filtered.unwrap_or_else(|refusal| {
            refusal.log(&context);
            self.tell(witness, &context, refusal.rv, refusal.source);
            replies::refused(context.function, refusal.rv)
        })
    }

    /// Tells the witness about a refusal.
    fn tell(
        &self,
        witness: Option<&dyn Witness>,
        context: &Context<'_>,
        rv: CkRv,
        source: Option<Source>,
    ) {
        if let Some(witness) = witness {
            witness.refused(&Refused {
                function: context.function,
                rv,
                rule: source.map(|source| (&*self.rules.file, source)),
                limit: None,
            });
        }
    }

    /// Locks the objects: for this call alone if it changes some, shared with others if it uses some, not at all otherwise.
    fn hold(&self, call: &Call<'_>) -> Hold<'_> {
        let function = call.function();
        if !self.looks_at_objects {
            Hold::None
        } else if takes_object(function) && function.facts().has(Effect::Writes) {
            let guard = self.objects.write();
            Hold::Alone {
                _guard: guard.unwrap_or_else(PoisonError::into_inner),
            }
        } else if names_objects(call) {
            let guard = self.objects.read();
            Hold::Shared {
                _guard: guard.unwrap_or_else(PoisonError::into_inner),
            }
        } else {
            Hold::None
        }
    }

    /// Returns the reply of an action or of the module, unless a check refuses the call.
    fn filter(
        &self,
        witness: Option<&dyn Witness>,
        call: Call<'_>,
        context: &Context<'_>,
    ) -> Result<Reply, Refusal> {
        let mut call = match canonical_template::canonical(call) {
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
        if let Err(refusal) = checks::check_nesting(&call, context) {
            checks::check_function(context)?;
            return Err(refusal);
        }
        if let Some(reply) = self.act(witness, &self.rules.pre, &call, context) {
            return Ok(reply);
        }
        checks::check_function(context)?;
        checks::check_arguments(&call, context)?;
        if let Call::C_OpenSession(_, flags, _) = &mut call {
            if checks::is_read_only(context) {
                flags.0 &= !READ_WRITE;
            }
        }
        if let Some(reply) = self.act(witness, &self.rules.post, &call, context) {
            return Ok(reply);
        }
        Ok(self.execute(call, context))
    }

    /// Runs a chain and returns the reply of the first action that decides.
    fn act(
        &self,
        witness: Option<&dyn Witness>,
        chains: &BTreeMap<Function, Vec<Step>>,
        call: &Call<'_>,
        context: &Context<'_>,
    ) -> Option<Reply> {
        let steps = chains.get(&context.function)?;
        for step in steps {
            let name = step.name;
            context.log_call(1, format_args!("action '{name}' runs"));
            let (reply, refuses) = match step.action.judge(call, context) {
                Verdict::Continue => continue,
                Verdict::Decide(reply) => (reply, false),
                Verdict::Refuse(reply) => (reply, true),
            };
            if reply.function() != context.function {
                log::error(format_args!(
                    "action '{name}' returned the reply of another function"
                ));
                return Some(replies::refused(context.function, CkRv::GENERAL_ERROR));
            }
            let rv = reply.rv();
            context.log_rule(step.source, format_args!("action '{name}' returned {rv}"));
            if refuses {
                self.tell(witness, context, rv, Some(step.source));
            }
            return Some(reply);
        }
        None
    }

    /// Lets the module execute the call.
    fn execute(&self, call: Call<'_>, context: &Context<'_>) -> Reply {
        if let Call::C_GetMechanismList(slot, room) = call {
            if !context.rules.mechanisms.is_empty() {
                let list = mechanism_list::without_forbidden(slot, room, context);
                return Reply::C_GetMechanismList(list);
            }
        }
        self.searches.execute(call, context)
    }
}

/// Whether a call names objects or keys, in its arguments or in its mechanism's parameter.
fn names_objects(call: &Call<'_>) -> bool {
    let is_object =
        |role: &Role| matches!(role, Role::Object(_) | Role::Key(_) | Role::KeyOrNone(_));
    let named = call.mechanism().map(Mechanism::named_keys);
    let in_parameter = named.is_some_and(|named| named.is_ok_and(|keys| !keys.is_empty()));
    in_parameter || call.function().facts().roles.iter().any(is_object)
}

#[cfg(test)]
mod tests;
