//! Implements `p11client-doctor`, which finds out for an operator why a connection fails.
//!
//! It reads the settings that the library would read, and takes the library's steps one after the other, with the
//! library's own code: settings, log, name, connection, TLS, the first calls, slots and tokens. It prints the result of
//! each step and, if a step fails, the cause and advice. It never logs in, writes no log file, and prints no secret.

mod daemon;
mod local;
mod options;
mod report;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use bindings::openssl_context;

use crate::settings::{Built, BuiltIn, Endpoint, Environment, Settings, Told};
use crate::vendor_mechanisms;
pub use options::OPTIONS;
use options::{Command, Options};
use report::Report;

/// The exit statuses.
const WELL: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// Runs the program with these arguments, its name first. Returns the exit status: 0 if all went well, 1 if a step
/// failed, 2 if the arguments are wrong.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    match options::parse(arguments) {
        Ok(Command::Help(text)) => {
            Report::new(&mut io::stdout()).line(text.trim_end());
            WELL
        }
        Ok(Command::Examine(options)) => {
            let mut output = io::stdout();
            let mut report = Report::new(&mut output);
            examine(&options, &mut report);
            match report.failures() {
                0 => WELL,
                _ => FAILED,
            }
        }
        Err(error) => {
            // Standard error may be gone.
            let _ = writeln!(io::stderr(), "p11client-doctor: {error}");
            USAGE
        }
    }
}

/// Returns what is wrong with a command line, the program's name first; `None` if nothing is.
pub fn complaint(words: impl IntoIterator<Item = OsString>) -> Option<String> {
    options::parse(words).err().map(|error| error.to_string())
}

fn examine(options: &Options, report: &mut Report<'_>) {
    report.heading("Settings");
    let Some(environment) = environment(options, report) else {
        return;
    };
    let settings = match Settings::read(&environment) {
        Ok(settings) => settings,
        Err(error) => return report.failed("settings", &error, error.advice()),
    };
    show(&settings, report);
    if let Some(file) = &settings.mechanisms {
        if let Err(error) = vendor_mechanisms::install(file) {
            return report.failed("mechanisms_file", &error, None);
        }
    }
    if settings.has_tls() {
        openssl_context::prepare();
    }
    let has_log = local::examine(&settings, report);
    let count = settings.daemons.len();
    let mut usable = Vec::new();
    for (position, daemon) in settings.daemons.iter().enumerate() {
        report.heading(&format!(
            "Daemon {} of {count}: {}",
            position + 1,
            daemon.endpoint
        ));
        let before = report.failures();
        let tokens = daemon::examine(daemon, &settings, report);
        if report.failures() == before {
            usable.push((&daemon.endpoint, tokens));
        }
    }
    if settings.recovery.is_some() && usable.len() > 1 {
        report.heading("Recovery");
        compare_tokens(&usable, report);
    }
    report.heading("Result");
    let first = usable.first().map(|(endpoint, _)| endpoint);
    match (first, report.failures()) {
        (_, 0) => report.line("  All went well."),
        _ if !has_log => report.line("  C_Initialize fails with any daemon; see FAILED above."),
        (None, _) => report.line("  No daemon can be used; see FAILED above."),
        (Some(first), _) if usable.len() == count => report.line(&format!(
            "  The library would use {first}; see FAILED above."
        )),
        (Some(first), _) => report.line(&format!(
            "  The library would use {first}, but not every daemon; see FAILED above."
        )),
    }
}

/// Compares the tokens of the daemons. After a reconnect, the application continues with a token of another daemon only
/// if that is the only one there with its label.
fn compare_tokens(usable: &[(&Endpoint, Vec<String>)], report: &mut Report<'_>) {
    let mut are_alike = true;
    for (here, tokens) in usable {
        let others = usable.iter().filter(|(there, _)| there != here);
        for (there, others) in others {
            for label in tokens {
                let number = match others.iter().filter(|other| *other == label).count() {
                    1 => continue,
                    0 => "no token",
                    _ => "several tokens",
                };
                are_alike = false;
                let text = format!(
                    "{there} has {number} {label:?}: applications that use that of {here} cannot continue there"
                );
                report.more("tokens", &text);
            }
        }
    }
    if are_alike {
        report.good("tokens", &"all daemons have the same tokens");
    }
}

/// Returns what the settings are read from: the library that the options name, or the one that was built with this
/// program.
fn environment(options: &Options, report: &mut Report<'_>) -> Option<Environment<'static>> {
    let mut environment = Environment::process();
    match &options.library {
        None => {
            environment.library = None;
            report.good("library", &"libp11client.so, as built with this program");
        }
        Some(path) => match BuiltIn::of_file(path) {
            Ok(built_in) => {
                environment.library = Some(path.clone());
                environment.built_in = built_in;
                report.good("library", &path.display());
            }
            Err(error) => {
                report.failed(
                    "library",
                    &format_args!("{}: {error}", path.display()),
                    Some("-library must name a file of this project's client library"),
                );
                return None;
            }
        },
    }
    if let Some(program) = &options.program {
        let name = Path::new(program).file_name();
        environment.program = name.map(OsString::from);
    }
    let library = environment.library.as_deref();
    let built = Built::of(environment.built_in.transport, library);
    report.more("transport", &format_args!("this library is for {built}"));
    let program = environment.program.as_deref().unwrap_or_default();
    report.more("program", &program.to_string_lossy());
    Some(environment)
}

fn show(settings: &Settings, report: &mut Report<'_>) {
    match &settings.file {
        Some(path) => report.more("settings file", &path.display()),
        None => report.more("settings file", &"none"),
    }
    for Told {
        option,
        value,
        origin,
    } in &settings.told
    {
        report.more(option, &format_args!("{value} ({origin})"));
    }
    if !settings.told.iter().any(|told| told.option == "timeout") {
        let seconds = settings.timeout.as_secs();
        report.more("timeout", &format_args!("{seconds} seconds (the default)"));
    }
    for daemon in &settings.daemons {
        let tls = match daemon.tls {
            Some(_) => "with TLS",
            None => "without TLS",
        };
        let (endpoint, reason, origin) = (&daemon.endpoint, daemon.reason, &daemon.origin);
        let text = format_args!("{endpoint}, {tls}, {reason} ({origin})").to_string();
        report.more("endpoint", &text);
    }
}
