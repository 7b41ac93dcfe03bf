//! Measures the cost of a call, a large digest and encryption, a connection and an idle client, compared with the
//! bare transport, and calls of many threads, compared with the module itself.
//!
//! `make bench`. Everything runs on a null module, so that only the way there and back is measured.
//! The baseline is a pair of the same process model (one forked process for each client) that
//! exchanges messages of the same sizes over the same kind of socket, in the same run, turn by turn
//! with our pair, with ours with an audit log and, if they are there, with the original's and with other proxies
//! (`others.rs`). Nothing here passes or fails.
//!
//! Over TLS the baseline is the same pair with OpenSSL on both ends, TLS 1.3 with certificates on
//! both sides, and OpenSSL's reading ahead on, as our own halves have it.
//!
//! The program starts copies of itself, `raw-server`, `raw-client` and `connector`, and an application in C
//! (`tests/support/application.c`). They take a line with a task and a count from standard input and answer with
//! nanoseconds.

#[path = "../support/mod.rs"]
mod support;

mod copies;
mod others;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use copies::{Connector, RawClient, raw_server, serve_tasks};
use others::Other;
use support::certificates::certificate;
use support::processes::{Process, wait_until};
use support::{Daemon, Directory, Endpoint, Library, Maker, Setup, Token, compile};

/// The bytes that C_Sign sends and gets: mark, RPC header, session, data of 32 bytes; mark, header,
/// CK_RV, a signature of 256 bytes.
const SIGN: Exchange = Exchange {
    sent: 4 + 40 + 8 + 4 + 32,
    received: 4 + 24 + 8 + 4 + 256,
};

/// The same for C_Digest of 1 MiB.
const DIGEST: Exchange = Exchange {
    sent: 4 + 40 + 8 + 4 + MEBIBYTE,
    received: 4 + 24 + 8 + 4 + 32,
};

/// The same for C_Encrypt of 1 MiB.
const ENCRYPT: Exchange = Exchange {
    sent: 4 + 40 + 8 + 4 + MEBIBYTE,
    received: 4 + 24 + 8 + 4 + MEBIBYTE,
};

const MEBIBYTE: usize = 1 << 20;

/// How long the module takes that many threads call, in milliseconds.
const SLOW: u32 = 1;

/// Round trips of a connection: C_SetupArch, C_LoadModule, C_Initialize, C_OpenSession, C_Finalize.
const PROLOGUE: usize = 5;

/// How often each measurement is taken, turn by turn.
const ROUNDS: usize = 11;

/// How many calls of 1 MiB make one measurement: so many that the first ones, after a pause and with cold caches, do not
/// count for much.
const LARGE_CALLS: u32 = 200;

/// How many calls each of many threads makes.
const CALLS_OF_A_THREAD: u32 = 200;

/// Clients that idle at once when their memory is measured.
const IDLE_CLIENTS: usize = 24;

/// A daemon, its token, and what a client needs in its environment to reach it.
type Behind = (Daemon, Token, Vec<(String, String)>);

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Clone, Copy)]
struct Exchange {
    sent: usize,
    received: usize,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        [_, "raw-server", endpoint] => raw_server(endpoint),
        [_, "raw-client", endpoint] => serve_tasks(&mut RawClient::new(endpoint)),
        [_, "connector"] => serve_tasks(&mut Connector::new()?),
        _ => measure(),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Transport {
    Tcp,
    Unix,
    Tls,
}

impl Transport {
    fn endpoint(self) -> Endpoint {
        match self {
            Transport::Tcp | Transport::Tls => Endpoint::Tcp,
            Transport::Unix => Endpoint::Unix,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "TCP",
            Transport::Unix => "Unix",
            Transport::Tls => "TLS",
        }
    }

    fn library(self, maker: Maker) -> Library {
        match (self, maker) {
            (Transport::Tls, Maker::Ours) => Library::OursTls,
            (Transport::Tls, Maker::Original) => Library::OriginalTls,
            _ => Library::of(maker, self.endpoint()),
        }
    }
}

/// A pair of client and daemon that is measured.
struct Pair {
    name: &'static str,
    transport: &'static str,
    client: Measured,
    /// What connects, and makes no other calls; none for another protocol than ours.
    connector: Option<Measured>,
    /// Its children serve the clients.
    daemon: Process,
    /// What starts another client.
    start: Box<dyn Fn() -> Outcome<Measured>>,
    /// What has to live on while it is measured.
    _alive: Box<dyn std::any::Any>,
}

fn measure() -> Outcome<()> {
    let mut pairs = Vec::new();
    for transport in [Transport::Tcp, Transport::Unix, Transport::Tls] {
        pairs.push(raw_pair(transport)?);
        pairs.push(real_pair("ours", Maker::Ours, transport)?);
        pairs.push(real_pair("audited", Maker::Ours, transport)?);
        if transport.library(Maker::Original).path().exists() {
            pairs.push(real_pair("original", Maker::Original, transport)?);
        }
    }
    for other in Other::all(None) {
        pairs.push(other_pair(other)?);
    }
    println!("One call: C_Sign, 32 bytes in, 256 out; microseconds, times the bare transport.");
    table(&mut pairs, "sign", 2000, 1e-3, false)?;
    println!("C_Digest of 1 MiB; MiB a second, part of the bare transport.");
    table(&mut pairs, "digest", LARGE_CALLS, 1e-9, true)?;
    println!("C_Encrypt of 1 MiB; MiB a second, part of the bare transport.");
    table(&mut pairs, "encrypt", LARGE_CALLS, 1e-9, true)?;
    println!("Connect, initialise, finalise, close; a second, part of the bare transport.");
    table(&mut pairs, "connect", 100, 1e-9, true)?;
    println!("An idle client; KiB of memory that its process does not share.");
    for pair in &pairs {
        let clients: Vec<Measured> = (0..IDLE_CLIENTS)
            .map(|_| (pair.start)())
            .collect::<Outcome<_>>()?;
        match private_memory(pair.daemon) {
            Some(size) => println!("  {:12} {:5} {size:10.0}", pair.name, pair.transport),
            None => println!(
                "  {:12} {:5} can be read by root only, or is no process of its own",
                pair.name, pair.transport
            ),
        }
        drop(clients);
    }
    drop(pairs);
    println!(
        "Threads that call C_Sign of a module of {SLOW} ms; calls a second, part of the module alone."
    );
    for threads in [1, 16, 64] {
        in_threads(threads)?;
    }
    Ok(())
}

/// Measures calls of this many threads, in turns: at the module itself, and through our pair on each transport.
fn in_threads(threads: u32) -> Outcome<()> {
    let module = compile::module("nullmodule").display().to_string();
    let sleep = ("NULLMODULE_SLEEP".to_owned(), format!("C_Sign:{SLOW}"));
    let alone = Measured::application(&module, std::slice::from_ref(&sleep))?;
    let mut measured = vec![("alone", "", alone, None::<Box<dyn std::any::Any>>)];
    for transport in [Transport::Tcp, Transport::Unix, Transport::Tls] {
        let (running, token, environment) = behind(
            Maker::Ours,
            transport,
            "max_parallel_calls = 64;",
            Some(&sleep),
        );
        let library = transport.library(Maker::Ours).path().display().to_string();
        let client = Measured::application(&library, &environment)?;
        let alive: Box<dyn std::any::Any> = Box::new((running, token));
        measured.push(("ours", transport.name(), client, Some(alive)));
    }
    // One that has its threads take turns would need a minute for more.
    let others = if threads <= 16 {
        Other::all(Some(&sleep))
    } else {
        Vec::new()
    };
    for other in others {
        let library = other.library.display().to_string();
        let client = Measured::application(&library, &other.environment)?;
        measured.push((other.name, other.transport, client, Some(Box::new(other))));
    }
    let task = format!("threads-{threads}");
    let mut taken: Vec<Vec<f64>> = vec![Vec::new(); measured.len()];
    for round in 0..=5 {
        for ((_, _, client, _), times) in measured.iter_mut().zip(&mut taken) {
            let nanoseconds = client.run(&task, CALLS_OF_A_THREAD)?;
            if round > 0 {
                times.push(nanoseconds);
            }
        }
    }
    let mut alone = 0.0;
    for ((name, transport, ..), times) in measured.iter().zip(&mut taken) {
        times.sort_by(f64::total_cmp);
        let rate = f64::from(threads * CALLS_OF_A_THREAD) / (times[times.len() / 2] * 1e-9);
        if *name == "alone" {
            alone = rate;
        }
        let part = rate / alone;
        println!("  {name:12} {transport:5} {threads:3} threads {rate:10.0} {part:8.2}");
    }
    Ok(())
}

/// Measures every pair in turns; prints the median and its ratio to the raw pair of its transport.
/// `connect` has no figure for the pairs that speak another protocol.
fn table(pairs: &mut [Pair], task: &str, count: u32, unit: f64, is_rate: bool) -> Outcome<()> {
    let mut taken: Vec<Vec<f64>> = vec![Vec::new(); pairs.len()];
    for round in 0..=ROUNDS {
        for (pair, times) in pairs.iter_mut().zip(&mut taken) {
            // The slowest would take minutes otherwise.
            let count = if ["original", "p11-kit", "pkcs11-proxy"].contains(&pair.name) {
                count.div_ceil(10)
            } else {
                count
            };
            let client = match (task, &mut pair.connector) {
                ("connect", None) => continue,
                ("connect", Some(connector)) => connector,
                _ => &mut pair.client,
            };
            let nanoseconds = client.run(task, count)? / f64::from(count);
            if round > 0 {
                times.push(nanoseconds);
            }
        }
    }
    let mut raw: Vec<(&str, f64)> = Vec::new();
    for (pair, times) in pairs.iter().zip(&mut taken) {
        times.sort_by(f64::total_cmp);
        let Some(&median) = times.get(times.len() / 2) else {
            continue;
        };
        if pair.name == "raw" {
            raw.push((pair.transport, median));
        }
        let raw = raw
            .iter()
            .find(|(transport, _)| *transport == pair.transport);
        let raw = raw.map_or(f64::NAN, |(_, median)| *median);
        let (value, ratio) = match is_rate {
            true => (1.0 / (median * unit), raw / median),
            false => (median * unit, median / raw),
        };
        println!(
            "  {:12} {:5} {value:10.1} {ratio:8.2}",
            pair.name, pair.transport
        );
    }
    Ok(())
}

fn raw_pair(transport: Transport) -> Outcome<Pair> {
    let directory = Directory::new();
    let free = || TcpListener::bind("127.0.0.1:0")?.local_addr();
    let address = match transport {
        Transport::Tcp => free()?.to_string(),
        Transport::Tls => format!("tls:{}", free()?),
        Transport::Unix => directory.join("socket").display().to_string(),
    };
    let server = Measured::start(&["raw-server", &address], &[])?;
    let daemon = Process::of(server.child.id()).ok_or("the raw server ended")?;
    wait_until(Duration::from_secs(5), || {
        RawClient::open(&address, None).is_ok()
    });
    let start = Box::new(move || {
        let mut client = Measured::start(&["raw-client", &address], &[])?;
        client.run("idle", 1).map(|_| client)
    });
    let (client, connector) = (start()?, start()?);
    let _alive = Box::new((server, directory));
    Ok(Pair {
        name: "raw",
        transport: transport.name(),
        client,
        connector: Some(connector),
        daemon,
        start,
        _alive,
    })
}

/// A daemon with the null module, and what a client needs in its environment to reach it.
fn behind(
    maker: Maker,
    transport: Transport,
    processor: &str,
    module: Option<&(String, String)>,
) -> Behind {
    behind_with(maker, transport, processor, module, String::new())
}

/// The same with an audit log in this directory.
fn behind_audit(transport: Transport, log: &Directory) -> Outcome<Behind> {
    let key = openssl::pkey::PKey::generate_ed25519()?;
    std::fs::write(log.join("key.pem"), key.private_key_to_pem_pkcs8()?)?;
    let audit = format!(
        "audit {{ file = \"{}\"; key = \"{}\"; }};",
        log.join("audit.log").display(),
        log.join("key.pem").display()
    );
    Ok(behind_with(Maker::Ours, transport, "", None, audit))
}

fn behind_with(
    maker: Maker,
    transport: Transport,
    processor: &str,
    module: Option<&(String, String)>,
    daemon: String,
) -> Behind {
    let token = Token::new();
    let mut setup = Setup::new(maker, transport.endpoint(), &token);
    setup.processor = processor.to_owned();
    setup.daemon = daemon;
    setup.environment.extend(module.cloned());
    if transport == Transport::Tls {
        setup.use_ssl = true;
        setup.processor += &format!(
            "tls {{ {} peer_auth = \"required\"; x509 {{ key {{ crt_file = \"{}\"; key_file = \"{}\" }};
               trust {{ crt_file = \"{}\" }} }} }};",
            // The original hangs with TLS 1.3.
            if maker == Maker::Original { "algorithms = \"NORMAL:-VERS-TLS1.3\";" } else { "" },
            certificate("server.pem"),
            certificate("server.key"),
            certificate("ca.pem"),
        );
    }
    setup.modules = vec![("null".into(), compile::module("nullmodule"))];

    let running = setup.start();
    let variable = |name: &str, value: String| (name.to_owned(), value);
    let mut environment = vec![
        variable("PKCS11PROXY_SOCKET_PATH", running.address()),
        variable("PKCS11PROXY_LIBNAME", "null".to_owned()),
    ];
    if transport == Transport::Tls {
        environment.extend([
            variable("PKCS11PROXY_CA_FILE", certificate("ca.pem")),
            variable("PKCS11PROXY_CERT_FILE", certificate("client.pem")),
            variable("PKCS11PROXY_PRIVKEY_FILE", certificate("client.key")),
        ]);
    }
    (running, token, environment)
}

fn real_pair(name: &'static str, maker: Maker, transport: Transport) -> Outcome<Pair> {
    let log = Directory::new();
    let (running, token, environment) = match name {
        "audited" => behind_audit(transport, &log)?,
        _ => behind(maker, transport, "", None),
    };
    let daemon = running.process();
    let library = transport.library(maker).path().display().to_string();
    let address = match transport {
        Transport::Tls => format!("tls:{}", running.address()),
        Transport::Tcp | Transport::Unix => running.address(),
    };
    let connector = Measured::start(&["connector"], &[("CONNECT_TO".to_owned(), address)])?;
    let start = Box::new(move || {
        let mut client = Measured::application(&library, &environment)?;
        client.run("idle", 1).map(|_| client)
    });
    let client = start()?;
    let _alive = Box::new((running, token, log));
    Ok(Pair {
        name,
        transport: transport.name(),
        client,
        connector: Some(connector),
        daemon,
        start,
        _alive,
    })
}

/// Another proxy's pair of client and server.
fn other_pair(other: Other) -> Outcome<Pair> {
    let daemon = Process::of(other.pid()).ok_or("the other server ended")?;
    let (library, environment) = (
        other.library.display().to_string(),
        other.environment.clone(),
    );
    let start = Box::new(move || {
        let mut client = Measured::application(&library, &environment)?;
        client.run("idle", 1).map(|_| client)
    });
    Ok(Pair {
        name: other.name,
        transport: other.transport,
        client: start()?,
        connector: None,
        daemon,
        start,
        _alive: Box::new(other),
    })
}

/// Mean private memory, in KiB, of a daemon's workers.
fn private_memory(daemon: Process) -> Option<f64> {
    let size = |child: Process| -> Option<f64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.pid)).ok()?;
        let private = rollup.lines().filter(|line| line.starts_with("Private_"));
        let sizes = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        Some(sizes.sum())
    };
    let sizes: Vec<f64> = daemon.children().into_iter().filter_map(size).collect();
    (!sizes.is_empty()).then(|| sizes.iter().sum::<f64>() / sizes.len() as f64)
}

/// A process that does tasks.
struct Measured {
    child: Child,
    tasks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Measured {
    fn start(arguments: &[&str], environment: &[(String, String)]) -> Outcome<Measured> {
        Measured::spawn(&std::env::current_exe()?, arguments, environment)
    }

    /// The application that calls this library.
    fn application(library: &str, environment: &[(String, String)]) -> Outcome<Measured> {
        Measured::spawn(&compile::program("application"), &[library], environment)
    }

    fn spawn(
        program: &Path,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> Outcome<Measured> {
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.iter().cloned());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let tasks = child.stdin.take().ok_or("no standard input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Measured {
            child,
            tasks,
            answers,
        })
    }

    /// Nanoseconds that `count` times the task took.
    fn run(&mut self, task: &str, count: u32) -> Outcome<f64> {
        writeln!(self.tasks, "{task} {count}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim()
            .parse()
            .map_err(|_| format!("{task}: no answer but {line:?}").into())
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
