//! Defines the members of the log's lines, except number, time and hash.
//!
//! `auditor` builds them. Text that comes from clients is escaped as [`printable`] does.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use filter::log::Printable;
use jiff::Timestamp;
use openssl::sha::Sha256;
use serde::{Serialize, Serializer};
use xdr::{CkRv, Function, mechanism_names, names};

use super::call_record::{BegunRecord, Ended, Object, RefusedBy};
use super::records::Given;
use super::{digits, hex, plain, printable};

/// A line of the log.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    Start {
        previous: String,
        version: &'a str,
        controller: u32,
        /// When this daemon was started.
        started: String,
        /// How many auditors this daemon has had, including this one.
        auditor: u32,
        sign_lines: u64,
        sign_interval: f64,
        #[serde(skip_serializing_if = "is_zero")]
        cut: u64,
        configuration: Vec<Hashed>,
        services: Vec<Modules>,
    },
    Continue {
        previous: String,
        file: String,
    },
    Call(CallLine<'a>),
    /// A call that had begun but had no result when its worker ended.
    Unfinished(UnfinishedLine<'a>),
    /// A worker sent something that is not a record.
    Malformed {
        connection: usize,
        process: i32,
        count: u64,
    },
    /// Numbers of calls that have no line: refused because no line could be written, or lost.
    Resumed {
        refused: u64,
        lost: u64,
    },
    Signed {
        head: String,
        signature: String,
    },
    Rotated,
    End,
}

#[derive(Serialize)]
pub(super) struct Hashed {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) alias: String,
    pub(super) path: String,
    /// None if the file cannot be read, or if the loader searches for it.
    pub(super) sha256: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Modules {
    pub(super) service: String,
    pub(super) modules: Vec<Hashed>,
}

/// What is known of a call when it begins.
#[derive(Serialize)]
struct BegunLine<'a> {
    connection: usize,
    call: u64,
    peer: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    service: &'a str,
    /// Empty for a client without a profile.
    #[serde(skip_serializing_if = "str::is_empty")]
    profile: &'a str,
    module: Text<'a>,
    function: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mechanism: Option<Mechanism>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    objects: Vec<ObjectLine<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    attributes: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct CallLine<'a> {
    #[serde(flatten)]
    begun: BegunLine<'a>,
    result: Shown<CallResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<RefusedLine<'a>>,
}

#[derive(Serialize)]
pub(super) struct UnfinishedLine<'a> {
    #[serde(flatten)]
    begun: BegunLine<'a>,
    began: String,
    /// How its worker ended.
    end: &'a str,
}

#[derive(Serialize)]
struct ObjectLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Shown<Digits<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
}

#[derive(Default, Serialize)]
struct RefusedLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    option: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Text<'a>>,
}

/// Text that may come from a client. It is escaped as [`printable`] does.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match plain(self.0) {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_str(&Printable(self.0)),
        }
    }
}

/// Serializes a value as the text that it displays.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct Digits<'a>(&'a [u8]);

impl fmt::Display for Digits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        digits(self.0).try_for_each(|digit| fmt::Write::write_char(f, digit.into()))
    }
}

/// The CK_RV of a call; none if there was an internal error.
struct CallResult(Option<u64>);

impl fmt::Display for CallResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rv) => CkRv(rv).fmt(f),
            None => f.write_str("internal error"),
        }
    }
}

struct Mechanism(u64);

impl Serialize for Mechanism {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        thread_local! {
            /// The last mechanism and its name. The table of names is long, and mostly the mechanism is the same again.
            static LAST: Cell<(u64, Option<&'static str>)> = const { Cell::new((u64::MAX, None)) };
        }
        let (mut number, mut name) = LAST.get();
        if number != self.0 {
            (number, name) = (self.0, mechanism_names::name(self.0));
            LAST.set((number, name));
        }
        match name {
            Some(name) => serializer.serialize_str(name),
            None => serializer.collect_str(&format_args!("{number:#x}")),
        }
    }
}

fn begun<'a>(given: &'a Given, record: BegunRecord<'a>) -> BegunLine<'a> {
    let object = |object: Object<&'a [u8]>| ObjectLine {
        handle: object.handle,
        label: object.label.map(Text),
        id: object.id.map(|id| Shown(Digits(id))),
        class: object.class.map(names::printed_class),
    };
    let attributes = record.attributes.into_iter();
    BegunLine {
        connection: given.connection,
        call: record.call,
        peer: &given.peer,
        user: &given.user,
        service: &given.service,
        profile: &given.profile,
        module: Text(record.module),
        function: Function::from_number(record.function).map_or("", Function::name),
        session: record.session,
        mechanism: record.mechanism.map(Mechanism),
        objects: record.objects.into_iter().map(object).collect(),
        attributes: attributes.map(names::printed_attribute).collect(),
    }
}

/// The line of a call.
pub(super) fn call<'a>(given: &'a Given, record: BegunRecord<'a>, ended: Ended<'a>) -> Event<'a> {
    let refused = ended.refused.map(|by| match by {
        RefusedBy::Nothing => RefusedLine::default(),
        RefusedBy::Rule { option, file, line } => RefusedLine {
            option: Some(Text(option)),
            file: Some(Text(file)),
            line: Some(line),
            limit: None,
        },
        RefusedBy::Limit(limit) => RefusedLine {
            limit: Some(Text(limit)),
            ..RefusedLine::default()
        },
    });
    Event::Call(CallLine {
        begun: begun(given, record),
        result: Shown(CallResult(ended.rv)),
        refused,
    })
}

/// The line of a call that had no result when its worker ended.
pub(super) fn unfinished<'a>(given: &'a Given, record: BegunRecord<'a>, end: &'a str) -> Event<'a> {
    let began = i64::try_from(record.began).ok();
    let began = began.and_then(|began| Timestamp::from_millisecond(began).ok());
    Event::Unfinished(UnfinishedLine {
        began: format!("{:.3}", began.unwrap_or_default()),
        begun: begun(given, record),
        end,
    })
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Describes a file, with its hash.
pub(super) fn hashed(alias: String, path: &Path) -> Hashed {
    Hashed {
        alias,
        path: printable(path.as_os_str().as_encoded_bytes()),
        sha256: sha256(path).ok(),
    }
}

/// Returns the SHA-256 of a file. Fails for a name without a slash, which the loader searches for in its own places.
fn sha256(path: &Path) -> io::Result<String> {
    if path.parent().is_none_or(|parent| parent == Path::new("")) || !path.metadata()?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let (mut file, mut sha) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&sha.finish())),
            Ok(count) => sha.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
