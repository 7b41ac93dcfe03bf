//! Implements `pkcs11proxyctl`, which asks a running daemon about its state and gives it commands.
//!
//! Connects to the control socket, sends a request as [`crate::administration`] defines it, and prints the answer. The
//! exit status is 0 if the daemon did what it was asked, 1 if it did not, and 2 if it could not be asked.

mod audit;
mod explain;
mod readiness;
mod table;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use getopts::ParsingStyle;

use crate::administration::{Connection, Reply, Request, Status};

/// The control socket, unless `-socket` names another.
const CONTROL_SOCKET: &str = "/run/pkcs11proxyd/control";

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a module may take for a call of the readiness check.
const READINESS: Duration = Duration::from_secs(10);

/// The exit status if the daemon did not do what it was asked.
const NOT_DONE: i32 = 1;

/// The exit status if the daemon could not be asked.
const UNUSABLE: i32 = 2;

/// Every command with its arguments, and its effect.
pub const COMMANDS: &[(&str, &str)] = &[
    (
        "status",
        "Shows the services and their clients: who, since when, which module, how many calls, the last call, and calls in \
         flight.",
    ),
    (
        "top",
        "Shows the clients every two seconds, the busiest first.",
    ),
    (
        "metrics",
        "Prints the numbers for a monitoring system, in Prometheus' format.",
    ),
    (
        "ready",
        "A readiness check: asks each module for its slots, in a worker of its own, and succeeds if all answer within ten \
         seconds.",
    ),
    (
        "reload",
        "Does what SIGHUP does: reads filter files, TLS keys and certificates again, and reopens log files. Says what is \
         wrong with them.",
    ),
    (
        "disconnect ID",
        "Ends the connection of the client with this number.",
    ),
    (
        "drain",
        "Does what SIGUSR2 does: accepts no new clients, and ends the daemon when the clients have left, at the latest after drain_timeout.",
    ),
    (
        "stop",
        "Does what SIGTERM does: ends all connections and the daemon.",
    ),
    (
        "upgrade",
        "Starts the installed program with the same arguments, which takes over. The old one serves its clients until they \
         leave.",
    ),
    (
        "audit verify -key PUBLIC.pem FILE...",
        "Finds out whether an audit log is as it was written. The files of a rotation are given in their order; - \
         is standard input. Needs no daemon.",
    ),
    (
        "explain -conf FILE [LINE LOG]",
        "Replays the call of this line of an audit log through the rules as they are now, step by step. Without LINE and \
         LOG, the line is read from standard input. Needs no daemon.",
    ),
];

/// Every option: its name, what its argument is, if it has one, and its effect.
pub const OPTIONS: &[(&str, Option<&str>, &str)] = &[
    (
        "socket",
        Some("PATH"),
        "The daemon's control_socket. The default is /run/pkcs11proxyd/control.",
    ),
    ("json", None, "Prints the daemon's answer as it is."),
    (
        "rounds",
        Some("N"),
        "For top: ends after the clients were shown N times.",
    ),
    (
        "key",
        Some("PATH"),
        "For audit verify: the public key, Ed25519, in PEM.",
    ),
    (
        "running",
        None,
        "For audit verify: the log has no end yet, because the daemon still writes it.",
    ),
    (
        "conf",
        Some("FILE"),
        "For explain: the daemon's configuration.",
    ),
    ("help", None, "Prints the commands and options, and exits."),
];

/// The parsed command line.
struct Asked {
    socket: PathBuf,
    json: bool,
    /// For `top`: how many times the clients are shown; 0 for no limit.
    rounds: u64,
    command: Command,
}

enum Command {
    Top,
    Ready,
    One(Request),
    Verify(audit::Log),
    Explain(explain::Question),
}

/// Runs the program with these arguments, its name first; returns the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<String> = arguments
        .into_iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let asked = match parse(arguments.get(1..).unwrap_or_default()) {
        Ok(Some(asked)) => asked,
        Ok(None) => {
            println!("{}", usage());
            return 0;
        }
        Err(error) => {
            eprintln!("pkcs11proxyctl: {error}\n\n{}", usage());
            return UNUSABLE;
        }
    };
    let done = match &asked.command {
        Command::Top => top(&asked),
        Command::Ready => ready(&asked),
        Command::One(request) => one(&asked, request),
        Command::Verify(log) => audit::verify(log),
        Command::Explain(question) => explain::explain(question),
    };
    done.unwrap_or_else(|error| {
        eprintln!("pkcs11proxyctl: {error}");
        UNUSABLE
    })
}

fn options() -> getopts::Options {
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
    options
}

fn usage() -> String {
    let mut text = "Usage: pkcs11proxyctl [options] COMMAND\n\nCommands:".to_owned();
    for (command, effect) in COMMANDS {
        text += &format!("\n    {command}");
        let mut column = usize::MAX;
        for word in effect.split(' ') {
            if column.saturating_add(word.len()) > 76 {
                text += "\n       ";
                column = 7;
            }
            text += &format!(" {word}");
            column += word.len() + 1;
        }
    }
    options().usage(&text)
}

/// Returns what is wrong with a command line, which is given without the program's name.
pub fn complaint(words: &[String]) -> Option<String> {
    parse(words).err()
}

/// Parses the arguments. Returns `None` if only the usage is wanted.
fn parse(arguments: &[String]) -> Result<Option<Asked>, String> {
    let matches = options()
        .parse(arguments)
        .map_err(|error| error.to_string())?;
    if matches.opt_present("help") {
        return Ok(None);
    }
    let words: Vec<&str> = matches.free.iter().map(String::as_str).collect();
    let command = match words.as_slice() {
        ["status"] => Command::One(Request::Status),
        ["top"] => Command::Top,
        ["metrics"] => Command::One(Request::Metrics),
        ["ready"] => Command::Ready,
        ["reload"] => Command::One(Request::Reload),
        ["disconnect", number] => {
            let number = number.parse();
            let number = number.map_err(|_| "disconnect: expected the number of a client")?;
            Command::One(Request::Disconnect(number))
        }
        ["drain"] => Command::One(Request::Drain),
        ["upgrade"] => Command::One(Request::Upgrade),
        ["stop"] => Command::One(Request::Stop),
        ["audit", "verify", files @ ..] => Command::Verify(audit::Log {
            key: matches
                .opt_str("key")
                .ok_or("audit verify: expected -key")?
                .into(),
            files: files.iter().map(PathBuf::from).collect(),
            is_running: matches.opt_present("running"),
        }),
        ["explain", place @ ..] => Command::Explain(explain::Question {
            conf: matches
                .opt_str("conf")
                .ok_or("explain: expected -conf")?
                .into(),
            place: match place {
                [] => None,
                [number, file] => {
                    let number = number.parse();
                    let number = number.map_err(|_| "explain: expected the number of a line")?;
                    Some((number, PathBuf::from(file)))
                }
                _ => return Err("explain: expected the number of a line and a file".into()),
            },
        }),
        [] => return Err("expected a command".into()),
        words => return Err(format!("unknown command `{}`", words.join(" "))),
    };
    let rounds = matches.opt_get_default("rounds", 0);
    Ok(Some(Asked {
        socket: matches
            .opt_str("socket")
            .unwrap_or_else(|| CONTROL_SOCKET.into())
            .into(),
        json: matches.opt_present("json"),
        rounds: rounds.map_err(|_| "-rounds: expected a number")?,
        command,
    }))
}

/// Connects to the daemon.
fn open(asked: &Asked) -> Result<Connection, String> {
    Connection::open(&asked.socket, PATIENCE).map_err(|error| failed(asked, &error))
}

/// Sends a request, and returns the line that answers it.
fn ask(asked: &Asked, request: &Request) -> Result<String, String> {
    let line = open(asked)?.ask_for_line(request);
    line.map_err(|error| failed(asked, &error))
}

/// Returns the message that says why the daemon cannot be asked.
fn failed(asked: &Asked, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; is the daemon running, and is this its `control_socket`?"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::UnexpectedEof => {
            "; only root and the daemon's user may ask"
        }
        _ => "",
    };
    format!("{}: {error}{advice}", asked.socket.display())
}

fn understood(line: &str) -> Result<Reply, String> {
    serde_json::from_str(line).map_err(|error| {
        format!("the answer cannot be understood; does the daemon have another version? {error}")
    })
}

fn one(asked: &Asked, request: &Request) -> Result<i32, String> {
    let line = ask(asked, request)?;
    let reply = understood(&line)?;
    let status = match &reply {
        Reply::Failed(_) => NOT_DONE,
        _ => 0,
    };
    if asked.json {
        print(&line);
        return Ok(status);
    }
    match reply {
        Reply::Done => {}
        Reply::Failed(reasons) => {
            for reason in reasons.lines() {
                eprintln!("pkcs11proxyctl: {}", table::printable(reason));
            }
        }
        Reply::Status(status) => print(&table::status(&status)),
        Reply::Metrics(text) => print(&text),
        Reply::HandingOver(_) | Reply::Counts(_) | Reply::Files(_) => {
            return Err("unexpected answer from the daemon".into());
        }
    }
    Ok(status)
}

fn top(asked: &Asked) -> Result<i32, String> {
    const INTERVAL: Duration = Duration::from_secs(2);
    let mut before = HashMap::new();
    let mut round = 0;
    loop {
        let status = match understood(&ask(asked, &Request::Status)?)? {
            Reply::Status(status) => status,
            Reply::Failed(reason) => return Err(reason),
            _ => return Err("unexpected answer from the daemon".into()),
        };
        // Clears the screen, and moves the cursor to its first line.
        let clear = if io::stdout().is_terminal() {
            "\x1b[H\x1b[2J"
        } else {
            ""
        };
        print(&format!(
            "{clear}{}",
            table::top(&status, &before, INTERVAL)
        ));
        before = calls(&status);
        round += 1;
        if round == asked.rounds {
            return Ok(0);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Asks each module of each service for its slots.
fn ready(asked: &Asked) -> Result<i32, String> {
    let mut connection = open(asked)?;
    let mut ask = |request: &Request| {
        let reply = connection.ask(request);
        let reply = reply.map_err(|error| failed(asked, &error))?;
        let sockets = match reply {
            Reply::HandingOver(count) => connection.sockets(count),
            _ => Ok(Vec::new()),
        };
        Ok::<_, String>((reply, sockets.map_err(|error| failed(asked, &error))?))
    };
    let (Reply::Status(status), _) = ask(&Request::Status)? else {
        return Err("unexpected answer from the daemon".into());
    };
    let mut exit = 0;
    if status.drains {
        eprintln!("pkcs11proxyctl: the daemon accepts no new clients");
        exit = NOT_DONE;
    }
    for (position, service) in status.services.iter().enumerate() {
        for alias in &service.modules {
            let name = table::printable(&format!("{}, {alias}", service.name));
            let slots = match ask(&Request::Probe(position))? {
                (_, mut sockets) if sockets.len() == 1 => {
                    let socket = sockets.pop().ok_or("no socket")?;
                    readiness::slots(socket, alias, READINESS)
                }
                (Reply::Failed(reason), _) => Err(reason),
                _ => Err("unexpected answer from the daemon".into()),
            };
            match slots {
                Ok(count) => print(&format!("{name}: ready, {count} slots\n")),
                Err(reason) => {
                    eprintln!("pkcs11proxyctl: {name}: {}", table::printable(&reason));
                    exit = NOT_DONE;
                }
            }
        }
    }
    Ok(exit)
}

/// Returns how many calls each client has made so far.
fn calls(status: &Status) -> HashMap<usize, u64> {
    let clients = status.services.iter().flat_map(|service| &service.clients);
    clients.map(|client| (client.id, client.calls)).collect()
}

/// Prints text. It is no error if the output is closed.
fn print(text: &str) {
    let _ = write!(io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_options_are_read_in_any_order() {
        let parsed = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            parse(&words)
        };
        let Ok(Some(asked)) = parsed("disconnect -json 7 -socket /s") else {
            panic!("refused");
        };
        assert_eq!(asked.socket.to_str(), Some("/s"));
        assert!(asked.json);
        assert!(matches!(
            asked.command,
            Command::One(Request::Disconnect(7))
        ));
        assert!(matches!(parsed("-help"), Ok(None)));
        for (line, expected) in [
            ("", "expected a command"),
            ("disconnect", "unknown command"),
            ("disconnect x", "the number of a client"),
            ("audit verify f", "-key"),
            ("explain 1 f", "-conf"),
            ("explain -conf c x f", "the number of a line"),
            ("explain -conf c 1", "a line and a file"),
            ("status now", "unknown command `status now`"),
            ("top -rounds x", "-rounds"),
        ] {
            let message = parsed(line).err().unwrap_or_default();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
