//! A module that wants a string: NSS softokn, in a process of its own. It has version 3.0.

use std::ffi::OsStr;

use cryptoki_sys::CKF_OS_LOCKING_OK;
use xdr::{Call, Reply, Room};

use super::{CkRv, Command, Cryptoki, Flags, Module, ModuleOptions, Path, Ulong};

const SOFTOKN: &str = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so";

/// Runs `in_a_softokn_token` with a directory of its own.
#[test]
fn serves_a_softokn_token() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("softokn");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    let this_binary = std::env::current_exe().expect("a test has a name");
    let name = concat!(module_path!(), "::in_a_softokn_token");
    let (_, name) = name.split_once("::").expect("a path begins with the crate");
    let output = Command::new(this_binary)
        .args(["--exact", name, "--ignored"].map(OsStr::new))
        .env("SOFTOKN_DIRECTORY", &directory)
        .output()
        .expect("the test binary can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by serves_a_softokn_token, with a directory of its own"]
fn in_a_softokn_token() {
    let directory = std::env::var("SOFTOKN_DIRECTORY").expect("it is set");
    let load = |init_args| {
        let options = ModuleOptions {
            init_args,
            ..Default::default()
        };
        Module::load(Path::new(SOFTOKN), options).expect("softokn loads")
    };
    let begin = |module: &Module, flags| module.call(Call::C_Initialize(Flags(flags))).rv();
    let without = load(None);
    assert_eq!(begin(&without, 0), CkRv::ARGUMENTS_BAD);
    assert_eq!(begin(&without, CKF_OS_LOCKING_OK), CkRv::ARGUMENTS_BAD);

    let string = format!("configdir='sql:{directory}' certPrefix='' keyPrefix='' secmod='' flags=");
    let softokn = load(Some(string));
    assert_eq!(begin(&softokn, CKF_OS_LOCKING_OK), CkRv::OK);
    let slots = Call::C_GetSlotList(Ulong(1), Room::Buffer(9));
    let slots = result!(C_GetSlotList, softokn.call(slots)).slots;
    assert_eq!(slots.len(), 2);
    // A function of 3.0: there is nothing to cancel.
    let open = Call::C_OpenSession(slots[0], Flags(4), false);
    let session = result!(C_OpenSession, softokn.call(open)).session;
    let cancel = softokn.call(Call::C_SessionCancel(session, Flags(1 << 10)));
    assert_eq!(cancel.rv(), CkRv::OPERATION_CANCEL_FAILED);
    assert_eq!(softokn.call(Call::C_Finalize()).rv(), CkRv::OK);
}
