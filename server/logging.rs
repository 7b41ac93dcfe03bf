//! Sends log messages, from `log`'s macros and [`log()`], to the process's one [`Route`].
//!
//! In the controller the route is [`Loggers`], which writes the messages. In a worker it is the channel to the
//! controller. Debug and trace messages take no route: those selected by `-debug` go directly to standard error. No
//! message may contain a PIN, a key or data of a call.

pub mod line_format;
mod log_file;
pub mod outputs;
mod record;
pub mod settings;
mod stderr;
mod syslog;

use jiff::Zoned;
use log::{Level, LevelFilter, Log};
use std::fmt;
use std::io::Write;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

pub use outputs::Loggers;
pub use record::{Record, Route, Severity};

/// The component of the controller's messages; a worker's is the name of its service.
pub const CONTROLLER: &str = "netplex.controller";

/// The modules whose debug messages go to standard error.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum DebugSelection {
    /// No module.
    #[default]
    None,
    /// These modules, named as in [`debug_modules`] or as in the original.
    Modules(Vec<String>),
    /// All modules.
    All,
}

/// Returns what `-debug-list` prints, one name a line.
pub fn debug_modules() -> String {
    DEBUG_MODULES.join("\n")
}

/// The names that `-debug-list` shows. Each also selects the modules below it. `-debug` accepts other names, too.
const DEBUG_MODULES: [&str; 7] = [
    "bindings",
    "filter",
    "server",
    "server::connection",
    "server::controller",
    "server::worker",
    "xdr",
];

/// The modules of the original that have a counterpart here.
const ORIGINAL_MODULES: [(&str, &str); 6] = [
    ("Netplex_cenv", "server::worker"),
    ("Netplex_container", "server::worker"),
    ("Netplex_controller", "server::controller"),
    ("Netplex_workload", "server::controller"),
    ("Rpc_server", "server::connection"),
    ("Rpc_transport", "server::connection"),
];

/// Sends all records to `route`, with this component. A later call replaces the route, but the selection of debug
/// messages stays that of the first call.
pub fn install(route: Arc<dyn Route>, component: &str, debug: DebugSelection) {
    let mut level = level_filter(route.max_level());
    {
        let mut state = BRIDGE.0.write().unwrap_or_else(PoisonError::into_inner);
        let debug = match state.take() {
            Some(state) => state.debug,
            None => debug_logger(debug),
        };
        if let Some(debug) = &debug {
            level = level.max(debug.filter());
        }
        *state = Some(State {
            route,
            component: component.to_owned(),
            filter_subchannel: String::new(),
            debug,
        });
    }
    // An error means that the bridge is installed already.
    let _ = log::set_logger(&BRIDGE);
    log::set_max_level(level);
}

/// Changes route and component, in a worker after the fork.
pub fn switch(route: Arc<dyn Route>, component: &str) {
    install(route, component, DebugSelection::None);
}

/// Sets the subchannel of messages that come from the filter.
pub fn set_filter_subchannel(subchannel: &str) {
    let mut state = BRIDGE.0.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(state) = state.as_mut() {
        state.filter_subchannel = subchannel.to_owned();
    }
}

/// Sends a message of any severity, including those that the `log` crate lacks.
pub fn log(severity: Severity, message: fmt::Arguments<'_>) {
    BRIDGE.send(severity, "", message);
}

/// The logger behind `log`'s macros.
struct Bridge(RwLock<Option<State>>);

struct State {
    route: Arc<dyn Route>,
    component: String,
    filter_subchannel: String,
    debug: Option<env_logger::Logger>,
}

static BRIDGE: Bridge = Bridge(RwLock::new(None));

impl Bridge {
    fn state(&self) -> RwLockReadGuard<'_, Option<State>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, severity: Severity, target: &str, message: fmt::Arguments<'_>) {
        let guard = self.state();
        let Some(state) = guard.as_ref() else { return };
        if severity > state.route.max_level() {
            return;
        }
        let of_filter = target == "filter" || target.starts_with("filter::");
        state.route.record(&Record {
            severity,
            component: &state.component,
            subchannel: if of_filter {
                &state.filter_subchannel
            } else {
                ""
            },
            message: &message
                .as_str()
                .map_or_else(|| message.to_string().into(), std::borrow::Cow::from),
        });
    }
}

impl Log for Bridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let guard = self.state();
        let Some(state) = guard.as_ref() else {
            return false;
        };
        match (severity(metadata.level()), &state.debug) {
            (Some(severity), _) => severity <= state.route.max_level(),
            (None, Some(debug)) => debug.enabled(metadata),
            (None, None) => false,
        }
    }

    fn log(&self, record: &log::Record<'_>) {
        match severity(record.level()) {
            Some(severity) => self.send(severity, record.target(), *record.args()),
            None => {
                if let Some(State {
                    debug: Some(debug), ..
                }) = self.state().as_ref()
                {
                    debug.log(record);
                }
            }
        }
    }

    fn flush(&self) {}
}

/// Returns the severity of a message for the loggers, or `None` for debug messages, which are for `-debug` only.
fn severity(level: Level) -> Option<Severity> {
    match level {
        Level::Error => Some(Severity::Err),
        Level::Warn => Some(Severity::Warning),
        Level::Info => Some(Severity::Info),
        Level::Debug | Level::Trace => None,
    }
}

fn level_filter(severity: Severity) -> LevelFilter {
    match severity {
        Severity::Emerg | Severity::Alert | Severity::Crit => LevelFilter::Off,
        Severity::Err => LevelFilter::Error,
        Severity::Warning | Severity::Notice => LevelFilter::Warn,
        Severity::Info | Severity::Debug => LevelFilter::Info,
    }
}

/// Makes the logger that writes `[time] [debug] [pid:thread] module: text` to standard error.
fn debug_logger(selection: DebugSelection) -> Option<env_logger::Logger> {
    let mut builder = env_logger::Builder::new();
    match selection {
        DebugSelection::None => return None,
        DebugSelection::All => {
            builder.filter_level(LevelFilter::Trace);
        }
        DebugSelection::Modules(modules) => {
            builder.filter_level(LevelFilter::Off);
            for module in modules {
                let counterpart = ORIGINAL_MODULES
                    .iter()
                    .find(|(original, _)| *original == module);
                let target = counterpart.map_or(module.as_str(), |(_, target)| target);
                builder.filter_module(target, LevelFilter::Trace);
            }
        }
    }
    builder
        .target(env_logger::Target::Stderr)
        .format(|line, record| {
            let thread = std::thread::current();
            // The original counts its threads from 0 and has only that one.
            let thread = thread.name().filter(|name| *name != "main").unwrap_or("0");
            writeln!(
                line,
                "[{}] [debug] [{}:{thread}] {}: {}",
                line_format::timestamp(&Zoned::now()),
                std::process::id(),
                record.target(),
                line_format::escape(&record.args().to_string()),
            )
        });
    Some(builder.build())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Keeps the records that it gets.
    struct Kept(Mutex<Vec<String>>, Severity);

    impl Route for Kept {
        fn record(&self, record: &Record<'_>) {
            self.0.lock().unwrap().push(format!(
                "{} {} {} {}",
                record.severity.name(),
                record.component,
                record.subchannel,
                record.message
            ));
        }

        fn max_level(&self) -> Severity {
            self.1
        }
    }

    /// This is a single test, because the process has only one bridge.
    #[test]
    fn sends_records_to_the_route_in_place() {
        let first = Arc::new(Kept(Mutex::default(), Severity::Debug));
        install(first.clone(), "netplex.controller", DebugSelection::None);
        log::error!(target: "server::x", "{} {}", 1, 2);
        log::warn!(target: "filter", "w");
        log::debug!(target: "server::x", "not for the loggers");
        log(Severity::Alert, format_args!("{}", "a"));
        set_filter_subchannel("sub");
        log::info!(target: "filter::rules", "i");
        log::info!(target: "filtering", "no part of the filter");
        assert!(!log::log_enabled!(Level::Debug));

        let second = Arc::new(Kept(Mutex::default(), Severity::Err));
        switch(second.clone(), "svc");
        log::info!("too fine");
        log(Severity::Notice, format_args!("too fine"));
        log(Severity::Crit, format_args!("c"));
        assert!(!log::log_enabled!(Level::Warn));

        let expected = [
            "err netplex.controller  1 2",
            "warning netplex.controller  w",
            "alert netplex.controller  a",
            "info netplex.controller sub i",
            "info netplex.controller  no part of the filter",
        ];
        assert_eq!(*first.0.lock().unwrap(), expected);
        assert_eq!(*second.0.lock().unwrap(), ["crit svc  c"]);
    }

    #[test]
    fn selects_debug_messages_by_our_names_and_the_originals() {
        let select = |name: &str| debug_logger(DebugSelection::Modules(vec![name.into()])).unwrap();
        let enabled = |logger: &env_logger::Logger, target: &str| {
            logger.enabled(
                &log::Metadata::builder()
                    .level(Level::Trace)
                    .target(target)
                    .build(),
            )
        };
        assert!(enabled(&select("server"), "server::worker"));
        assert!(!enabled(&select("server::worker"), "server::controller"));
        assert!(enabled(&select("Netplex_container"), "server::worker"));
        assert!(!enabled(&select("Uq_engines"), "server::worker"));
        assert!(enabled(&debug_logger(DebugSelection::All).unwrap(), "any"));
        assert!(debug_logger(DebugSelection::None).is_none());
    }
}
