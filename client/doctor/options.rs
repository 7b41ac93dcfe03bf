//! Reads the doctor's command line. Options begin with one dash, like those of the daemon.

use std::ffi::OsString;
use std::path::PathBuf;

use getopts::ParsingStyle;

/// What the operator asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    /// Print this text and exit with 0.
    Help(String),
    Examine(Options),
}

/// What to examine.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Options {
    /// The library whose compiled-in values are used, instead of those of this program.
    pub library: Option<PathBuf>,
    /// The program whose section of the settings file applies.
    pub program: Option<String>,
}

/// Why a command line is refused. Displayed with the usage.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{message}\n\n{usage}")]
pub(super) struct UsageError {
    message: String,
    usage: String,
}

/// Every option: its name, its argument, if it has one, and its effect.
pub const OPTIONS: &[(&str, Option<&str>, &str)] = &[
    (
        "library",
        Some("FILE"),
        "Takes what is compiled into this client library, and its name: transport, endpoint, alias, TLS files. The default \
         is what libp11client.so was built with.",
    ),
    (
        "program",
        Some("NAME"),
        "Takes this program's section of the settings file. The default is p11client-doctor.",
    ),
    ("help", None, "Prints the options and exits."),
];

/// Parses the command line, the program's own name first.
pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut options = getopts::Options::new();
    options
        .long_only(true)
        .parsing_style(ParsingStyle::FloatingFrees);
    for (name, argument, effect) in OPTIONS {
        match argument {
            Some(argument) => options.optopt("", name, effect, argument),
            None => options.optflag("", name, effect),
        };
    }
    let usage = options.usage(
        "Usage: p11client-doctor [-library FILE] [-program NAME]\n\n\
        Takes the steps of the PKCS#11 client library one by one, with its settings, and says which one fails,\n\
        why, and what to do. Exit status: 0 if all went well, 1 if a step failed, 2 for wrong usage.",
    );
    let refuse = |message| UsageError {
        message,
        usage: usage.clone(),
    };
    let matches = options.parse(words.into_iter().skip(1));
    let matches = matches.map_err(|fail| refuse(fail.to_string()))?;
    if matches.opt_present("help") {
        return Ok(Command::Help(usage));
    }
    if let Some(word) = matches.free.first() {
        return Err(refuse(format!("stray word `{word}`")));
    }
    Ok(Command::Examine(Options {
        library: matches.opt_str("library").map(PathBuf::from),
        program: matches.opt_str("program"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Command, UsageError> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn reads_every_option() {
        let options = Options {
            library: Some("/l/a.so".into()),
            program: Some("nginx".into()),
        };
        let line = "doctor -library /l/a.so -program nginx";
        assert_eq!(command(line), Ok(Command::Examine(options)));
        let none = Ok(Command::Examine(Options::default()));
        assert_eq!(command("doctor"), none);
        assert!(matches!(command("doctor -help"), Ok(Command::Help(_))));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for line in [
            "d word",
            "d -alias x",
            "d -library",
            "d -h",
            "d -program a -program b",
        ] {
            let message = command(line).unwrap_err().to_string();
            assert!(message.contains("Usage: p11client-doctor"), "{message}");
        }
    }
}
