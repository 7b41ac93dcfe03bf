//! Tests `bindings::module` with real libraries: what reaches a module's functions, and what its answers become.
//!
//! `recorder.c` reports what it was called with and misbehaves on demand; it is compiled here with `cc`, and gets calls
//! of version 3. `exact.c` gets calls of version 4. SoftHSM shows that a real module works; it reads its configuration
//! from the environment, so its test runs in a process of its own.

// Values of 8 bytes are written out.
#![cfg(all(unix, target_pointer_width = "64"))]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use bindings::module::{Module, ModuleOptions};
use xdr::integers::Count;
use xdr::version3::{Attribute, Call, DataResult, Mechanism, Reply, Template};
use xdr::{
    AttributeType, CkRv, Cryptoki, Flags, Function, MechanismType, ObjectHandle, SessionHandle,
    SlotId, Ulong, UserType,
};

macro_rules! result {
    ($name:ident, $reply:expr) => {
        match $reply {
            Reply::$name(result) => result,
            other => panic!("{other:?}"),
        }
    };
}

mod arguments;
mod exact;
mod exact_module;
mod loading;
mod messages;
mod nss;
mod outputs;
mod softhsm;
mod threads;

const TOLD: u64 = 0x8000_0000;
const TOLD_NULL: u64 = 0x1_0000;
const TOLD_TEMPLATE: u64 = 0x2_0000;

const CKA_CLASS: u64 = 0x0;
const CKA_TOKEN: u64 = 0x1;
const CKA_PRIVATE: u64 = 0x2;
const CKA_LABEL: u64 = 0x3;
const CKA_APPLICATION: u64 = 0x10;
const CKA_VALUE: u64 = 0x11;
const CKA_OWNER: u64 = 0x84;
const CKA_AC_ISSUER: u64 = 0x83;
const CKA_SUBJECT: u64 = 0x101;
const CKA_VALUE_LEN: u64 = 0x161;
const CKA_WRAP_TEMPLATE: u64 = 0x4000_0211;
const CKA_UNWRAP_TEMPLATE: u64 = 0x4000_0212;
const CKA_ALLOWED_MECHANISMS: u64 = 0x4000_0600;

const CKM_RSA_PKCS_OAEP: u64 = 0x9;
const CKM_AES_CBC: u64 = 0x1082;
const CKM_AES_GCM: u64 = 0x1087;
const CKM_VENDOR: u64 = 0x8000_0001;

/// Compiles `recorder.c` and returns the path of the library.
fn compile(name: &str, flags: &[&str]) -> PathBuf {
    let flags = [&["-I/usr/include/softhsm"], flags].concat();
    compile_source("recorder.c", name, &flags)
}

/// Compiles a file of `tests` and returns the path of the library.
fn compile_source(source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = directory.join(format!("{name}.so"));
    // Tests are processes that start at the same time. The rename makes the library appear as a whole.
    let draft = directory.join(format!("{name}-{}.draft", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(source);
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-g", "-o"])
        .arg(&draft)
        .arg(source)
        .args(flags)
        .status();
    assert!(status.expect("cc can be run").success());
    std::fs::rename(draft, &library).expect("a file in the same directory");
    library
}

/// A module for calls of version 3.
struct Former(Module);

impl Former {
    fn call(&self, call: Call<'_>) -> Reply {
        let reply = self.0.call(call.into_current());
        Reply::of(reply).expect("version 3 has the function")
    }
}

static RECORDER: LazyLock<Former> = LazyLock::new(|| {
    let options = ModuleOptions {
        flat_mechanisms: vec![CKM_VENDOR],
        init_args: None,
    };
    let module = Module::load(&compile("recorder", &[]), options);
    Former(module.expect("it has a function list"))
});

fn session(number: u64) -> SessionHandle {
    SessionHandle(number)
}

fn mechanism(mechanism_type: u64, parameter: &[u8]) -> Mechanism {
    let mechanism_type = MechanismType(mechanism_type);
    Mechanism::laid_out(
        mechanism_type,
        parameter.to_vec(),
        xdr::Architecture::host(),
    )
}

fn template(attributes: &[(u64, &[u8])]) -> Template {
    let attribute =
        |(number, value): &(u64, &[u8])| Attribute::new(AttributeType(*number), value.to_vec());
    Template(attributes.iter().map(attribute).collect())
}

fn rv(call: Call<'_>) -> u64 {
    RECORDER.call(call).rv().0
}

fn data(reply: Reply) -> DataResult {
    match reply {
        Reply::C_Encrypt(result)
        | Reply::C_Decrypt(result)
        | Reply::C_Sign(result)
        | Reply::C_SignFinal(result)
        | Reply::C_WrapKey(result)
        | Reply::C_GenerateRandom(result) => result,
        other => panic!("{other:?} has no data"),
    }
}
