//! Answers C_SetupArch and C_LoadModule, and hands every other call of a connection to the filter and the
//! module that C_LoadModule chose.
//!
//! Calls come from `connection`, decoded from the layout that C_SetupArch told: from there on
//! everything is in the host's, so that a client's architecture changes nothing that the filter
//! decides.

use std::sync::{Arc, OnceLock};

use bindings::module::{Module, ModuleOptions};
use filter::log::Printable;
use filter::{Filter, Rules, replies};
use xdr::{Architecture, Call, CkRv, Cryptoki, Function, Reply};

use crate::connection::Served;
use crate::logging::{Severity, log};

/// The state of one connection.
pub struct Gateway {
    rules: Arc<Rules>,
    options: ModuleOptions,
    /// Whether to log two lines for each call (`-debug-pkcs11`).
    trace: bool,
    architecture: OnceLock<Architecture>,
    module: OnceLock<Filter<Module>>,
}

impl Gateway {
    /// A connection on which nothing was called yet.
    pub fn new(rules: Arc<Rules>, options: ModuleOptions, trace: bool) -> Gateway {
        let (architecture, module) = (OnceLock::new(), OnceLock::new());
        Gateway {
            rules,
            options,
            trace,
            architecture,
            module,
        }
    }

    fn answer(&self, call: Call<'_>) -> Reply {
        let function = call.function();
        match call {
            Call::C_SetupArch(code) => Reply::C_SetupArch(self.setup(code)),
            Call::C_LoadModule(alias) => Reply::C_LoadModule(self.load(alias)),
            call => {
                let Some(module) = self.module.get() else {
                    return replies::no_module(function);
                };
                let reply = module.call(call);
                if function == Function::C_Initialize {
                    report_failed_start(reply.rv());
                }
                reply
            }
        }
    }

    /// C_SetupArch: 1 to 4 once, answered with the host's own code. Only the low 32 bits count, as
    /// in the original.
    fn setup(&self, code: Architecture) -> Architecture {
        if self.architecture.get().is_some() {
            return Architecture::ALREADY_SET;
        }
        let code = Architecture(code.0 & u64::from(u32::MAX));
        if !(Architecture::LITTLE_64..=Architecture::BIG_32).contains(&code) {
            return Architecture::UNSUPPORTED;
        }
        let _ = self.architecture.set(code);
        Architecture::host()
    }

    /// C_LoadModule: the alias is looked up before anything else, also when a module is loaded.
    fn load(&self, alias: &[u8]) -> CkRv {
        let requested = Printable(alias);
        let Some(entry) = self.rules.module(alias) else {
            filter::log::error(format_args!("module '{requested}' is not configured"));
            return CkRv::GENERAL_ERROR;
        };
        if self.module.get().is_some() {
            return CkRv(u64::MAX);
        }
        match Module::load(&entry.path, self.options.clone()) {
            Ok(module) => {
                let _ = self
                    .module
                    .set(Filter::new(&self.rules, alias, entry, module));
                CkRv::OK
            }
            Err(error) => {
                filter::log::error(format_args!("module '{requested}': {error}"));
                error.rv()
            }
        }
    }
}

impl Served for Gateway {
    /// A client that never told is taken for one of the host's kind.
    fn client(&self) -> Architecture {
        let told = self.architecture.get().copied();
        told.unwrap_or(Architecture::host())
    }
}

impl Cryptoki for Gateway {
    fn call(&self, call: Call<'_>) -> Reply {
        if !self.trace {
            return self.answer(call);
        }
        let (name, pid) = (call.function().name(), std::process::id());
        log(
            Severity::Info,
            format_args!("{name} called in process {pid}"),
        );
        let reply = self.answer(call);
        let rv = original_name(reply.rv());
        log(
            Severity::Info,
            format_args!("{name} returned in process {pid} with {rv}"),
        );
        reply
    }
}

/// Logs that a module did not start. Mostly the user that serves clients may not read what the module
/// needs, and a client is told no more than a CK_RV.
fn report_failed_start(rv: CkRv) {
    if !rv.is_ok() && rv != CkRv::CRYPTOKI_ALREADY_INITIALIZED {
        filter::log::error(format_args!("C_Initialize of the module failed with {rv}"));
    }
}

/// A CK_RV as the original's debug log prints it.
fn original_name(rv: CkRv) -> String {
    rv.name()
        .map_or_else(|| "cKR_UNKNOWN!".to_owned(), |name| format!("cKR_{name}"))
}
