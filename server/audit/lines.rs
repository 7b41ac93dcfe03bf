//! Defines what the lines of the log say, besides number, time and hash.
//!
//! `auditor` writes them. Text of clients is shown as [`printable`] does.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use openssl::sha::Sha256;
use serde::Serialize;
use xdr::{CkRv, Function, mechanism_names, names};

use super::records::{self, CallRecord, Given};
use super::{hex, printable, unhex};

/// A line of the log.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    Start {
        previous: String,
        version: &'a str,
        controller: u32,
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
    /// A process sent what is no record.
    Malformed {
        connection: usize,
        process: i32,
        count: u64,
    },
    /// Calls that have no line: refused since none could be written, or lost.
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
    /// None if it cannot be read, or is looked for by the loader.
    pub(super) sha256: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Modules {
    pub(super) service: String,
    pub(super) modules: Vec<Hashed>,
}

#[derive(Serialize)]
pub(super) struct CallLine<'a> {
    pub(super) connection: usize,
    pub(super) call: u64,
    pub(super) peer: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) user: &'a str,
    pub(super) service: &'a str,
    /// Empty for a client that has the service's own values.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) profile: &'a str,
    pub(super) module: String,
    pub(super) function: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mechanism: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) objects: Vec<ObjectLine>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) attributes: Vec<String>,
    pub(super) result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<RuleLine>,
}

#[derive(Serialize)]
pub(super) struct ObjectLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) handle: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) class: Option<String>,
}

#[derive(Serialize)]
pub(super) struct RuleLine {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) option: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) limit: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The line of a call.
pub(super) fn call(given: &Given, record: CallRecord) -> CallLine<'_> {
    let name = |digits: &String| {
        let bytes = unhex(digits)?;
        Some(printable(
            bytes.get(..records::LONGEST_NAME).unwrap_or(&bytes),
        ))
    };
    let object = |object: records::Object| ObjectLine {
        handle: object.handle,
        label: object.label.as_ref().and_then(name),
        id: object.id.as_deref().and_then(unhex).map(|id| hex(&id)),
        class: object.class.map(names::printed_class),
    };
    let function = Function::from_number(record.function);
    let objects = record.objects.into_iter().take(records::MOST_OBJECTS);
    let attributes = record.attributes.into_iter().take(records::MOST_ATTRIBUTES);
    CallLine {
        connection: given.connection,
        call: record.call,
        peer: &given.peer,
        user: &given.user,
        service: &given.service,
        profile: &given.profile,
        module: name(&record.module).unwrap_or_default(),
        function: function.map_or("", Function::name),
        session: record.session,
        mechanism: record.mechanism.map(mechanism_names::printed),
        objects: objects.map(object).collect(),
        attributes: attributes.map(names::printed_attribute).collect(),
        result: record
            .rv
            .map_or_else(|| "internal error".to_owned(), |rv| CkRv(rv).to_string()),
        refused: record.refused.map(|rule| RuleLine {
            option: printable(rule.option.as_bytes()),
            file: printable(rule.file.as_bytes()),
            line: rule.line,
            limit: printable(rule.limit.as_bytes()),
        }),
    }
}

/// A file with its hash.
pub(super) fn hashed(alias: String, path: &Path) -> Hashed {
    Hashed {
        alias,
        path: printable(path.as_os_str().as_encoded_bytes()),
        sha256: sha256(path).ok(),
    }
}

/// The SHA-256 of a file. A name without a slash is looked for by the loader, in places of its own.
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
