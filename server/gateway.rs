//! Answers C_SetupArch and C_LoadModule, and passes every other call of a connection to the filter and to the module
//! that C_LoadModule chose. Also records, measures and traces calls, and applies the limits of the client's profile.
//!
//! Calls come decoded from `connection`, with everything in the host's layout. So neither a client's architecture nor
//! the version of the protocol changes what the filter decides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use bindings::leaving;
use bindings::module::Module;
use bindings::module::notify::{self, Notifier};
use filter::config::ModuleEntry;
use filter::log::Excerpt;
use filter::witness::Refused;
use filter::{Filter, Rules, Witness, replies};
use xdr::rpc::{Peer, Version};
use xdr::{
    Architecture, Call, CkRv, Cryptoki, FEATURE_NOTIFY, FEATURE_RECOVER, Flags, Function, Hello,
    HelloResult, LoadResult, NullPlaces, Reply, Ulong,
};

use crate::activity::Activity;
use crate::audit::trail::Trail;
use crate::config::Service;
use crate::connection::Served;
use crate::logging::{Severity, log};
use crate::login_limit::{Guard, LoginLimit};
use crate::metrics::{Meter, Timed};
use crate::opening::FirstCall;
use crate::operating::Operating;
use crate::profiles::limits::ClientLimits;
use crate::throttle::Throttle;

/// Upper bound on the name of a module, in bytes. Longer ones are not looked up.
const LONGEST_ALIAS: usize = 1024;

/// The state of one connection.
pub struct Gateway {
    rules: Arc<Rules>,
    service: Arc<Service>,
    /// How many calls the client may make at a time.
    parallel_calls: usize,
    activity: Activity,
    meter: Meter,
    /// Whether to log two lines for each call (`-debug-pkcs11`).
    trace: bool,
    /// Records the calls; `None` without an audit log.
    trail: Option<Trail>,
    client: OnceLock<Client>,
    module: OnceLock<LoginLimit<Filter<Timed<Module>>>>,
    /// Whether a session was opened with a callback.
    notifies: AtomicBool,
    /// Held while a module is loaded, so that only one of two parallel calls loads it.
    loading: Mutex<()>,
    /// For the messages about modules that cannot be loaded.
    complaints: Mutex<Throttle>,
    operating: Operating,
    first_call: FirstCall,
    logins: Option<Arc<Guard>>,
    /// What the client's profile allows.
    profile: Granted,
}

/// What a profile allows a client. The default is everything.
#[derive(Default)]
pub struct Granted {
    /// The names of the modules that may be loaded; `None` for all.
    pub modules: Option<Vec<String>>,
    /// The limits on calls.
    pub limits: Option<ClientLimits>,
}

impl Granted {
    /// Whether a module of these rules may be loaded.
    pub fn includes(&self, rules: &Rules, entry: &ModuleEntry) -> bool {
        let is_it = |name: &String| {
            let found = rules.module(name.as_bytes());
            found.is_some_and(|found| std::ptr::eq(found, entry))
        };
        let modules = self.modules.as_ref();
        modules.is_none_or(|modules| modules.iter().any(is_it))
    }
}

/// What the client has declared with C_SetupArch.
#[derive(Clone, Copy)]
enum Client {
    /// In version 3: the client's architecture, which says how it represents numbers.
    Former(Architecture),
    /// In version 4: whether it accepts notifications, and whether it can reconnect between operations.
    Current { notify: bool, recovers: bool },
}

impl Gateway {
    /// Makes the gateway of a new connection.
    pub fn new(
        rules: Arc<Rules>,
        service: Arc<Service>,
        activity: Activity,
        meter: Meter,
        trace: bool,
        first_call: FirstCall,
        logins: Option<Guard>,
    ) -> Gateway {
        Gateway {
            rules,
            parallel_calls: service.processor.max_parallel_calls,
            service,
            activity,
            meter,
            trace,
            trail: None,
            client: OnceLock::new(),
            module: OnceLock::new(),
            notifies: AtomicBool::new(false),
            loading: Mutex::new(()),
            complaints: Mutex::default(),
            operating: Operating::default(),
            first_call,
            logins: logins.map(Arc::new),
            profile: Granted::default(),
        }
    }

    /// Sets what records the calls, if there is an audit log.
    pub fn recorded(self, trail: Option<Trail>) -> Gateway {
        Gateway { trail, ..self }
    }

    /// Limits the client to what its profile allows, and to this many calls at a time.
    pub fn with_profile(self, profile: Granted, parallel_calls: usize) -> Gateway {
        Gateway {
            profile,
            parallel_calls,
            ..self
        }
    }

    fn answer(&self, witness: Option<&dyn Witness>, call: Call<'_>, nulls: NullPlaces) -> Reply {
        let function = call.function();
        match call {
            Call::C_SetupArch(hello) => Reply::C_SetupArch(self.setup(&hello)),
            Call::C_LoadModule(alias) => match self.load(witness, alias) {
                Ok(interfaces) => Reply::C_LoadModule(LoadResult {
                    rv: CkRv::OK,
                    interfaces,
                }),
                Err(rv) => Reply::only(function, rv),
            },
            call => {
                let Some(module) = self.module.get() else {
                    return replies::no_module(function);
                };
                let call = self.with_callback(call);
                let counting = self.meter.witness(witness);
                let witness = match self.meter.is_on() {
                    true => Some(&counting as &dyn Witness),
                    false => witness,
                };
                let execute = |call: Call<'_>| {
                    module.call_witnessed(witness, call, |filter, call| {
                        filter.call_witnessed(witness, call, nulls)
                    })
                };
                let reply = match &self.profile.limits {
                    None => execute(call),
                    Some(limits) => limits.call(witness, call, execute),
                };
                if function == Function::C_Initialize {
                    report_failed_start(reply.rv());
                }
                reply
            }
        }
    }

    /// Answers a call, and logs it if tracing is on.
    fn answer_traced(
        &self,
        witness: Option<&dyn Witness>,
        call: Call<'_>,
        nulls: NullPlaces,
    ) -> Reply {
        if !self.trace {
            return self.answer(witness, call, nulls);
        }
        let (name, pid) = (call.function().name(), std::process::id());
        log(
            Severity::Info,
            format_args!("{name} called in process {pid}"),
        );
        let reply = self.answer(witness, call, nulls);
        let rv = original_name(reply.rv());
        log(
            Severity::Info,
            format_args!("{name} returned in process {pid} with {rv}"),
        );
        reply
    }

    /// Answers, and records the call if there is an audit log.
    fn answer_recorded(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        let Some(trail) = &self.trail else {
            return self.answer_traced(None, call, nulls);
        };
        let module = self.module.get();
        let module = module.map(|limit| -> &dyn Cryptoki { limit.inner().next() });
        trail.during(call, module, |call, witness| {
            self.answer_traced(witness, call, nulls)
        })
    }

    /// Clears the notify flag of a C_OpenSession, unless the client has declared that it accepts notifications. If it has,
    /// notes that there may be notifications from now on.
    fn with_callback<'a>(&self, call: Call<'a>) -> Call<'a> {
        match call {
            Call::C_OpenSession(slot, flags, true) => {
                let takes = matches!(
                    self.client.get(),
                    Some(Client::Current { notify: true, .. })
                );
                if takes {
                    self.notifies.store(true, Ordering::SeqCst);
                }
                Call::C_OpenSession(slot, flags, takes)
            }
            call => call,
        }
    }

    /// Executes C_SetupArch, which succeeds only once. It fixes the protocol version of the connection.
    fn setup(&self, hello: &Hello) -> HelloResult {
        match hello.architecture {
            Some(code) => HelloResult {
                rv: CkRv::OK,
                hello: Hello {
                    architecture: Some(self.setup_former(code)),
                    ..Default::default()
                },
            },
            None => self.setup_current(hello),
        }
    }

    fn setup_current(&self, hello: &Hello) -> HelloResult {
        let features = hello.features.0 & (FEATURE_NOTIFY | FEATURE_RECOVER);
        let (notify, recovers) = (
            features & FEATURE_NOTIFY != 0,
            features & FEATURE_RECOVER != 0,
        );
        if self
            .client
            .set(Client::Current { notify, recovers })
            .is_err()
        {
            return HelloResult {
                rv: CkRv::FUNCTION_FAILED,
                ..Default::default()
            };
        }
        if recovers {
            leaving::allow();
        }
        HelloResult {
            rv: CkRv::OK,
            hello: Hello {
                architecture: None,
                longest_record: Ulong(self.service.processor.max_record_size as u64),
                parallel_calls: Ulong(self.parallel_calls as u64),
                features: Flags(features),
            },
        }
    }

    /// Executes C_SetupArch of version 3. The client's code is 1 to 4, and the answer is the host's own code. Only the
    /// low 32 bits count, as in the original.
    fn setup_former(&self, code: Architecture) -> Architecture {
        let code = Architecture(code.0 & u64::from(u32::MAX));
        if self.client.get().is_some() {
            return Architecture::ALREADY_SET;
        }
        if !(Architecture::LITTLE_64..=Architecture::BIG_32).contains(&code) {
            return Architecture::UNSUPPORTED;
        }
        match self.client.set(Client::Former(code)) {
            Ok(()) => Architecture::host(),
            Err(_) => Architecture::ALREADY_SET,
        }
    }

    /// Logs an error that a client can cause at will.
    fn complain(&self, text: std::fmt::Arguments<'_>) {
        let throttle = self.complaints.lock();
        let mut throttle = throttle.unwrap_or_else(PoisonError::into_inner);
        if throttle.passes(Instant::now()) {
            filter::log::error(text);
        }
    }

    /// Executes C_LoadModule. The alias is looked up first, even if a module is loaded already.
    fn load(&self, witness: Option<&dyn Witness>, alias: &[u8]) -> Result<Flags, CkRv> {
        let requested = Excerpt(alias);
        let is_short = alias.len() <= LONGEST_ALIAS;
        let configured = is_short.then(|| self.rules.module(alias)).flatten();
        let entry = configured.filter(|entry| self.profile.includes(&self.rules, entry));
        let Some(entry) = entry else {
            self.complain(format_args!("module '{requested}' is not configured"));
            let rv = CkRv::GENERAL_ERROR;
            if let (Some(witness), Some(_)) = (witness, configured) {
                witness.refused(&Refused {
                    function: Function::C_LoadModule,
                    rv,
                    rule: None,
                    limit: Some("modules"),
                });
            }
            return Err(rv);
        };
        let _loading = self.loading.lock();
        if self.module.get().is_some() {
            return Err(CkRv(u64::MAX));
        }
        match Module::load(&entry.path, self.service.processor.module(alias)) {
            Ok(module) => {
                let interfaces = module.interfaces();
                let module = Timed::new(module, self.meter);
                let filter = Filter::new(&self.rules, alias, entry, module);
                let mut modules = self.rules.modules.iter();
                let position = modules.position(|module| std::ptr::eq(module, entry));
                let limit = LoginLimit::new(filter, self.logins.clone(), &entry.path);
                let _ = self.module.set(limit);
                if let Some(position) = position {
                    self.activity.loaded(position);
                }
                Ok(interfaces)
            }
            Err(error) => {
                self.complain(format_args!("module '{requested}': {error}"));
                Err(error.rv())
            }
        }
    }
}

impl Served for Gateway {
    /// Before C_SetupArch, a client is treated as one with the host's architecture.
    fn peer(&self) -> Peer {
        let former = Version::Three.number();
        match self.client.get().copied() {
            None => Peer {
                architecture: Architecture::host(),
                versions: former..=self.service.processor.protocol,
            },
            Some(Client::Former(architecture)) => Peer {
                architecture,
                versions: former..=former,
            },
            Some(Client::Current { .. }) => Peer {
                architecture: Architecture::host(),
                versions: Version::Four.number()..=Version::Four.number(),
            },
        }
    }

    fn notifies(&self) -> bool {
        self.notifies.load(Ordering::SeqCst)
    }

    fn notify_through(&self, notifier: Notifier) {
        notify::install(notifier);
    }
}

impl Cryptoki for Gateway {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_with_nulls(call, NullPlaces::NONE)
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        self.first_call.has_come();
        let function = call.function();
        let answer = || match self.client.get() {
            Some(Client::Current { recovers: true, .. }) => self
                .operating
                .during(call, |call| self.answer_recorded(call, nulls)),
            _ => self.answer_recorded(call, nulls),
        };
        let measured = || self.meter.measure(function, answer);
        self.activity.during(function, measured)
    }
}

/// Logs that a module did not start. The usual cause is that the user that serves clients may not read what the module
/// needs; the client only gets a CK_RV.
fn report_failed_start(rv: CkRv) {
    if !rv.is_ok() && rv != CkRv::CRYPTOKI_ALREADY_INITIALIZED {
        filter::log::error(format_args!("C_Initialize of the module failed with {rv}"));
    }
}

/// Returns a CK_RV as the original's debug log prints it.
fn original_name(rv: CkRv) -> String {
    rv.name()
        .map_or_else(|| "cKR_UNKNOWN!".to_owned(), |name| format!("cKR_{name}"))
}
