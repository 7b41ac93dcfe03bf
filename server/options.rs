//! Reads the command line, in the original's spelling: one dash, the argument in the next word.
//!
//! [`parse`] turns the words from `main` into a [`Command`]. No file is opened or checked here.

use getopts::{Matches, ParsingStyle};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use thiserror::Error;

use crate::logging::DebugSelection;

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Print this text on standard output and exit with 0.
    Help(String),
    /// Print the program's name and version, and exit with 0.
    Version,
    /// Print the names that `-debug` knows, one a line, and exit with 0.
    DebugList,
    /// Check this configuration and the files it names, print the rules of each module, and exit. `-as` describes a
    /// client whose profile is printed.
    Check(PathBuf, Option<String>),
    /// Serve.
    Run(Options),
}

/// How to serve.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// `-conf`: the daemon's configuration. Without it, the program's path with its extension, if
    /// any, replaced by `.conf`.
    pub conf: PathBuf,
    /// `-pid`: the file to which the controller's process id is written.
    pub pid: Option<PathBuf>,
    /// `-fg`: stay in the foreground.
    pub foreground: bool,
    /// `-debug-pkcs11`: log the beginning and the end of each PKCS#11 call.
    pub debug_pkcs11: bool,
    /// `-debug`: modules whose debug messages go to standard error. Unknown names are no error.
    pub debug: Vec<String>,
    /// `-debug-all`: write the debug messages of all modules to standard error.
    pub debug_all: bool,
    /// `-takeover`: take the listening sockets of the daemon that runs with this configuration, and have it drain.
    pub takeover: bool,
    /// `-profile`: the file to which the system calls of workers are written.
    pub profile: Option<PathBuf>,
    /// `-daemonize-param`: the parameter of the configured hook. Without a hook it has to be empty.
    pub daemonize_param: Option<String>,
}

impl Options {
    /// Returns the modules that `-debug` and `-debug-all` select.
    pub fn debug_selection(&self) -> DebugSelection {
        match (self.debug_all, self.debug.as_slice()) {
            (true, _) => DebugSelection::All,
            (false, []) => DebugSelection::None,
            (false, modules) => DebugSelection::Modules(modules.to_vec()),
        }
    }
}

/// Why a command line is refused. Displayed with the usage, for standard error; exit status 2.
#[derive(Debug, Error, PartialEq)]
#[error("{message}\n\n{usage}")]
pub struct UsageError {
    message: String,
    usage: String,
}

/// Parses the command line, which begins with the program's own name.
pub fn parse<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Result<Command, UsageError> {
    let mut words = words.into_iter().map(W::into);
    let argument = words.next().unwrap_or_else(|| "pkcs11proxyd".into());
    let program = argument.to_string_lossy();
    let options = known_options();
    let usage = || options.usage(&format!("Usage: {program} [options]"));
    let refuse = |message: String| UsageError {
        message,
        usage: usage(),
    };
    let matches = options
        .parse(words)
        .map_err(|fail| refuse(fail.to_string()))?;
    if matches.opt_present("help") {
        return Ok(Command::Help(usage()));
    }
    if matches.opt_present("version") {
        return Ok(Command::Version);
    }
    if let Some(word) = matches.free.first() {
        return Err(refuse(format!("stray word `{word}`")));
    }
    if matches.opt_present("debug-list") {
        return Ok(Command::DebugList);
    }
    let conf = last(&matches, "conf").map_or_else(
        || Path::new(&argument).with_extension("conf"),
        PathBuf::from,
    );
    if matches.opt_present("check") {
        return Ok(Command::Check(conf, last(&matches, "as")));
    }
    if matches.opt_present("as") {
        return Err(refuse("-as: expected -check".to_owned()));
    }
    Ok(Command::Run(Options {
        conf,
        pid: last(&matches, "pid").map(PathBuf::from),
        foreground: matches.opt_present("fg"),
        debug_pkcs11: matches.opt_present("debug-pkcs11"),
        debug: matches.opt_strs("debug"),
        debug_all: matches.opt_present("debug-all"),
        takeover: matches.opt_present("takeover"),
        profile: last(&matches, "profile").map(PathBuf::from),
        daemonize_param: last(&matches, "daemonize-param"),
    }))
}

/// Every option: its name, what its argument is, if it has one, and its effect.
pub const OPTIONS: &[(&str, Option<&str>, &str)] = &[
    (
        "conf",
        Some("FILE"),
        "Reads the configuration from FILE. The default is the path of the program with its extension replaced by .conf.",
    ),
    (
        "check",
        None,
        "Checks the configuration, prints the rules of each module and what workers give up, and exits. Starts nothing.",
    ),
    (
        "as",
        Some("CLIENT"),
        "With -check, says which profile this client gets, and why, such as \"address=10.0.0.5\".",
    ),
    (
        "fg",
        None,
        "Stays in the foreground. Otherwise the daemon detaches.",
    ),
    (
        "pid",
        Some("FILE"),
        "Writes the daemon's process id to FILE, and removes FILE when the daemon ends.",
    ),
    (
        "debug-pkcs11",
        None,
        "Logs the name and the return value of each PKCS#11 call; never its arguments.",
    ),
    (
        "debug",
        Some("MODULE"),
        "Writes debug messages of this part of the program to standard error. May be repeated, for several parts.",
    ),
    (
        "debug-all",
        None,
        "Writes all debug messages to standard error.",
    ),
    (
        "debug-list",
        None,
        "Lists the parts of the program that have debug messages, and exits.",
    ),
    (
        "takeover",
        None,
        "Takes over the listening sockets of the daemon that runs with this configuration, which then drains. Needs control_socket. If there \
         is none, starts as usual.",
    ),
    (
        "profile",
        Some("FILE"),
        "Appends the system calls of workers to FILE, for the preset learned of the section sandbox.",
    ),
    (
        "daemonize-param",
        Some("STRING"),
        "The parameter of the hook that daemonize_hook names. An error if there is no hook.",
    ),
    ("version", None, "Prints the version and exits."),
    ("help", None, "Prints the options and exits."),
];

/// Declares the options for getopts. All may be repeated, because in the original the last one counts.
fn known_options() -> getopts::Options {
    let mut options = getopts::Options::new();
    options
        .long_only(true)
        .parsing_style(ParsingStyle::FloatingFrees);
    for (name, argument, effect) in OPTIONS {
        match argument {
            Some(argument) => options.optmulti("", name, effect, argument),
            None => options.optflagmulti("", name, effect),
        };
    }
    options
}

fn last(matches: &Matches, name: &str) -> Option<String> {
    matches.opt_strs(name).pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace())
    }

    fn options(line: &str) -> Options {
        match command(line) {
            Ok(Command::Run(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn reads_every_option() {
        let line = "/usr/bin/pkcs11proxyd -conf /etc/a.conf -pid /run/a.pid -fg -debug-pkcs11 \
                    -debug A -debug B -debug-all -takeover";
        let expected = Options {
            conf: "/etc/a.conf".into(),
            pid: Some("/run/a.pid".into()),
            foreground: true,
            debug_pkcs11: true,
            debug: vec!["A".into(), "B".into()],
            debug_all: true,
            takeover: true,
            profile: None,
            daemonize_param: None,
        };
        assert_eq!(options(line), expected);
    }

    #[test]
    fn derives_the_configuration_from_the_program() {
        for (program, conf) in [
            ("/usr/bin/pkcs11proxyd", "/usr/bin/pkcs11proxyd.conf"),
            ("./foo.bar", "./foo.conf"),
            ("foo", "foo.conf"),
        ] {
            assert_eq!(options(program).conf, Path::new(conf));
        }
    }

    #[test]
    fn lets_the_last_of_a_repeated_option_win() {
        let options = options("p -conf a -fg -pid x -conf b -fg -pid y");
        assert_eq!(options.conf, Path::new("b"));
        assert_eq!(options.pid.as_deref(), Some(Path::new("y")));
    }

    #[test]
    fn explains_itself() {
        for line in ["p -help", "p --help", "p -fg -help"] {
            let Ok(Command::Help(text)) = command(line) else {
                panic!("{line}")
            };
            assert!(text.contains("conf FILE"), "{text}");
        }
        assert_eq!(command("p -version"), Ok(Command::Version));
        assert_eq!(command("p -debug-list"), Ok(Command::DebugList));
        for line in ["p -check -conf a", "p -fg -conf a -check"] {
            assert_eq!(command(line), Ok(Command::Check("a".into(), None)));
        }
        let words = ["p", "-check", "-conf", "a", "-as", "uid=1 gid=2"];
        let expected = Command::Check("a".into(), Some("uid=1 gid=2".into()));
        assert_eq!(parse(words), Ok(expected));
        assert!(parse(["p", "-as", "uid=1"]).is_err());
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for line in [
            "p -h",
            "p word",
            "p -fg word",
            "p -conf",
            "p -debug-pkcs11=1",
            "p -con x",
            "p -",
        ] {
            let message = command(line).unwrap_err().to_string();
            assert!(message.contains("Usage: p"), "{line}: {message}");
        }
    }

    #[test]
    fn passes_the_parameter_of_the_hook_on() {
        assert_eq!(options("p -fg").daemonize_param, None);
        let options = options("p -daemonize-param x -daemonize-param y");
        assert_eq!(options.daemonize_param.as_deref(), Some("y"));
    }
}
