//! Captures a call and a reply of every function between the original's client library and its daemon.
//!
//! C programs of `tests/support` make calls through Debian's libp11clienttcp.so, and a relay in front of Debian's
//! pkcs11proxyd records the bytes of both directions. One exchange of each function becomes two files,
//! `C_Sign.call.hex` and `C_Sign.reply.hex`, with comments that name the fields as `pkcs11_rpc.x` does. No code under
//! test makes any of these bytes. `make vectors` adds the files that `tests/wire/vectors` lacks; without it they go to
//! cargo's directory for temporary files.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use xdr::{CkRv, Function};

use super::support::compile::{Kind, compile, program};
use super::support::processes::run;
use super::support::{Endpoint, Maker, PATIENCE, Setup, Stack, Token};
use super::{Vector, check_call, check_reply};

/// The sections of `script.c` that the original's client and daemon both survive.
const SECTIONS: &[&str] = &[
    "info",
    "sessions",
    "login",
    "keygen",
    "find",
    "attributes",
    "objects",
    "sign",
    "encrypt",
    "digest",
    "wrap",
    "derive",
    "random",
    "rare",
    "token",
];

#[test]
#[ignore = "captures the vectors: make vectors"]
fn capture_every_function() {
    let folder = match std::env::var_os("VECTORS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vectors");
            let _none = fs::remove_dir_all(&scratch);
            scratch
        }
    };
    fs::create_dir_all(&folder).expect("a directory can be made");
    let interface = Interface::read();
    let exchanges = exchanges();
    for function in xdr::version3::FUNCTIONS {
        let exchange = choose(*function, &exchanges);
        for is_call in [true, false] {
            let (kind, record) = if is_call {
                ("call", &exchange.call)
            } else {
                ("reply", &exchange.reply)
            };
            let file = folder.join(format!("{}.{kind}.hex", function.name()));
            if !file.exists() {
                let text = interface.describe(*function, is_call, exchange);
                fs::write(&file, text).expect("a file can be written");
            }
            let mark = (record.len() as u32 | 1 << 31).to_be_bytes();
            let vector = Vector {
                file,
                function: *function,
                is_call,
                bytes: [&mark, record.as_slice()].concat(),
            };
            if is_call {
                check_call(&vector);
            } else {
                check_reply(&vector);
            }
        }
    }
}

/// A call and its reply, both without record mark.
struct Exchange {
    call: Vec<u8>,
    reply: Vec<u8>,
    module: &'static str,
}

/// What passes between the original's halves in front of SoftHSM, then in front of the module that
/// supports what SoftHSM does not.
fn exchanges() -> Vec<Exchange> {
    let mut found = Vec::new();
    let stack = Stack::through(
        Maker::Original,
        Maker::Original,
        Endpoint::Tcp,
        Token::new(),
    );
    for section in SECTIONS {
        found.extend(capture(&stack, "script", &[section], "SoftHSM"));
    }
    let token = Token::new();
    let mut setup = Setup::new(Maker::Original, Endpoint::Tcp, &token);
    setup.modules = vec![("softhsm".into(), compile("nullmodule", Kind::Module))];
    let mut stack = Stack::direct(token);
    stack.library = super::support::Library::OriginalTcp;
    stack.daemon = Some(setup.start());
    found.extend(capture(
        &stack,
        "optional",
        &[],
        "tests/support/nullmodule.c",
    ));
    found
}

/// What a program calls through the stack's library, and what its daemon answers.
fn capture(stack: &Stack, name: &str, arguments: &[&str], module: &'static str) -> Vec<Exchange> {
    let daemon = stack.daemon.as_ref().expect("a stack with a daemon");
    let relay = Relay::to(daemon.address());
    let mut command = stack.command(program(name));
    command.arg(stack.library.path()).args(arguments);
    command.env("PKCS11PROXY_SOCKET_PATH", &relay.address);
    let outcome = run(command, PATIENCE);
    assert!(outcome.status.success(), "{name}: {}", outcome.stderr);
    let streams = relay.streams.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::new();
    for [calls, replies] in &*streams {
        let [calls, replies] = [calls, replies].map(|stream| records(&stream.lock().unwrap()));
        for (call, reply) in calls.into_iter().zip(replies) {
            found.push(Exchange {
                call,
                reply,
                module,
            });
        }
    }
    found
}

/// The exchange to keep of a function: one that succeeds and answers with more than its CK_RV and
/// empty fields if there is one, and no long one; of several the first.
fn choose(function: Function, exchanges: &[Exchange]) -> &Exchange {
    let rank = |exchange: &&Exchange| {
        let body = exchange.reply.get(24..).unwrap_or_default();
        let fails = !body.starts_with(&[0; 8]);
        let is_long = exchange.call.len().max(exchange.reply.len()) > 700;
        let is_bare = body.len() <= 12;
        (fails, is_long, is_bare)
    };
    let number = function.number().to_be_bytes();
    let of_function = exchanges
        .iter()
        .filter(|exchange| exchange.call.get(20..24) == Some(&number[..]));
    of_function
        .min_by_key(rank)
        .unwrap_or_else(|| panic!("{} is not called", function.name()))
}

/// The bytes of one direction of a connection.
type Stream = Arc<Mutex<Vec<u8>>>;

/// A relay to a daemon that keeps what passes.
struct Relay {
    address: String,
    /// For each connection, what the client and what the daemon sent.
    streams: Arc<Mutex<Vec<[Stream; 2]>>>,
}

impl Relay {
    fn to(daemon: String) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let streams: Arc<Mutex<Vec<[Stream; 2]>>> = Arc::default();
        let kept = Arc::clone(&streams);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                let server = TcpStream::connect(&daemon).expect("the daemon accepts");
                let [calls, replies] = [Stream::default(), Stream::default()];
                kept.lock()
                    .unwrap()
                    .push([Arc::clone(&calls), Arc::clone(&replies)]);
                let from_client = client.try_clone().expect("a descriptor more");
                let to_server = server.try_clone().expect("a descriptor more");
                thread::spawn(move || pump(from_client, to_server, &calls));
                thread::spawn(move || pump(server, client, &replies));
            }
        });
        Relay { address, streams }
    }
}

/// Hands on what comes, and keeps it before the other side can see it.
fn pump(mut from: TcpStream, mut to: TcpStream, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        kept.lock().unwrap().extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _gone = to.shutdown(Shutdown::Write);
}

/// The complete records of a stream (RFC 5531, section 11).
fn records(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut record = Vec::new();
    while let Some((mark, rest)) = stream.split_first_chunk() {
        let mark = u32::from_be_bytes(*mark);
        let Some((payload, rest)) = rest.split_at_checked((mark & 0x7fff_ffff) as usize) else {
            break;
        };
        record.extend_from_slice(payload);
        stream = rest;
        if mark >> 31 == 1 {
            found.push(std::mem::take(&mut record));
        }
    }
    found
}

/// The names of `pkcs11_rpc.x`, for comments.
struct Interface {
    /// Fields of each structure, as `TYPE name`, `TYPE name<>`.
    structures: HashMap<String, Vec<String>>,
    /// What each procedure takes and what it answers.
    procedures: HashMap<String, (Vec<String>, String)>,
}

impl Interface {
    fn read() -> Interface {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("xdr/pkcs11_rpc.x");
        let text = fs::read_to_string(file).expect("the interface is there");
        let (types, program) = text.split_once("program PKCS11").expect("a program");
        let (mut structures, mut procedures) = (HashMap::new(), HashMap::new());
        for structure in types.split("\nstruct ").skip(1) {
            let (name, rest) = structure.split_once('{').expect("a structure");
            let (fields, _) = rest.split_once('}').expect("a structure that ends");
            let fields = fields.split(';').map(|field| field.trim().to_owned());
            let fields = fields.filter(|field| !field.is_empty()).collect();
            structures.insert(name.trim().to_owned(), fields);
        }
        for line in program.lines().filter(|line| line.contains(") = ")) {
            let (head, rest) = line.split_once('(').expect("a procedure");
            let (arguments, _) = rest.split_once(')').expect("a procedure");
            let (result, name) = head.trim().split_once(' ').expect("a result and a name");
            let arguments = arguments.split(", ").filter(|kind| *kind != "void");
            let arguments = arguments.map(str::to_owned).collect();
            procedures.insert(name.trim().to_owned(), (arguments, result.to_owned()));
        }
        Interface {
            structures,
            procedures,
        }
    }

    /// The text of a vector: its record, field by field.
    fn describe(&self, function: Function, is_call: bool, exchange: &Exchange) -> String {
        let name = function.name();
        let rv = exchange.reply.get(24..32).expect("a reply has a CK_RV");
        let rv = CkRv(u64::from_be_bytes(rv.try_into().expect("eight bytes")));
        let (record, header, words) = if is_call {
            (
                &exchange.call,
                40,
                "mark, xid, CALL, 2, 4, 3, procedure, cred, verf",
            )
        } else {
            (
                &exchange.reply,
                24,
                "mark, xid, REPLY, ACCEPTED, verf, SUCCESS",
            )
        };
        let mut text = Annotated {
            text: String::new(),
            rest: record,
        };
        let mark = record.len() as u32 | 1 << 31;
        let _ = match function {
            // Answers an architecture.
            Function::C_SetupArch => writeln!(text.text, "# {name}"),
            _ => writeln!(text.text, "# {name}, answered with {rv}"),
        };
        let _ = writeln!(
            text.text,
            "# Captured by tests/wire/capture.rs between Caml Crush 1.0.12's TCP client and server (amd64), in front of {}.",
            exchange.module
        );
        let _ = write!(text.text, "{mark:08x} ");
        text.take(header, &format!("  # {words}"), usize::MAX);
        let (arguments, result) = &self.procedures[name];
        if is_call {
            for argument in arguments {
                self.describe_value(&mut text, argument, "");
            }
        } else {
            self.describe_value(&mut text, result, "");
        }
        assert!(text.rest.is_empty(), "{name}: more than its fields");
        text.text
    }

    /// A value of this type; `label` names it.
    fn describe_value(&self, text: &mut Annotated<'_>, kind: &str, label: &str) {
        let named = if label.is_empty() { kind } else { label };
        match (kind, self.structures.get(kind)) {
            ("Bytes", _) => text.bytes(named),
            ("Template", _) => self.describe_array(text, "Attribute", named),
            (_, None) => {
                let number = text.rest.first_chunk().expect("a hyper");
                let number = u64::from_be_bytes(*number);
                text.take(8, &format!("# {named} = {number:#x}"), 8);
            }
            (_, Some(fields)) => {
                for field in fields {
                    let (kind, name) = field.split_once(' ').expect("a type and a name");
                    let (name, is_array) = match name.split_once('<') {
                        Some((name, _)) => (name, true),
                        None => (name, false),
                    };
                    let name = match label {
                        "" => name.to_owned(),
                        _ => format!("{label}.{name}"),
                    };
                    match (kind, is_array) {
                        ("opaque", _) => text.bytes(&name),
                        (_, true) => self.describe_array(text, kind, &name),
                        (_, false) => self.describe_value(text, kind, &name),
                    }
                }
            }
        }
    }

    fn describe_array(&self, text: &mut Annotated<'_>, kind: &str, label: &str) {
        let count = text.word();
        text.take(4, &format!("# {label}: {count} elements"), 8);
        for index in 0..count {
            self.describe_value(text, kind, &format!("{label}[{index}]"));
        }
    }
}

/// What is described so far, and what is left to describe.
struct Annotated<'a> {
    text: String,
    rest: &'a [u8],
}

impl Annotated<'_> {
    fn word(&self) -> u32 {
        u32::from_be_bytes(*self.rest.first_chunk().expect("a word"))
    }

    /// A byte string, with what it says if that is text.
    fn bytes(&mut self, label: &str) {
        let length = self.word() as usize;
        self.take(4, &format!("# {label}: opaque, {length} bytes"), 8);
        let (padded, value) = (length.next_multiple_of(4), &self.rest[..length]);
        let is_text = value.iter().all(|byte| (b' '..=b'~').contains(byte));
        let comment = match std::str::from_utf8(value) {
            Ok(value) if is_text => format!("#   \"{value}\""),
            _ => String::new(),
        };
        if padded > 0 {
            self.take(padded, &comment, 8);
        }
    }

    /// Whole words, `in_line` of them in a line at the most, the first with the comment.
    fn take(&mut self, length: usize, comment: &str, in_line: usize) {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        let words: Vec<String> = taken
            .chunks(4)
            .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        for (number, line) in words.chunks(in_line.min(words.len())).enumerate() {
            let comment = if number == 0 { comment } else { "" };
            let line = format!("{:37} {comment}", line.join(" "));
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }
}
