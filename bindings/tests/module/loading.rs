//! Tests libraries that are not modules, and functions that a module does not have.

use xdr::{INTERFACE_2_40, INTERFACE_3_0, INTERFACE_3_2};

use super::*;

#[test]
fn answers_as_the_original_to_a_library_it_cannot_use() {
    for (name, flag, expected) in [
        ("no_symbol", "-DNO_SYMBOL", CkRv::FUNCTION_FAILED),
        ("null_list", "-DNULL_LIST", CkRv::FUNCTION_FAILED),
        ("refuses", "-DREFUSES", CkRv::CANT_LOCK),
    ] {
        let loaded = Module::load(&compile(name, &[flag]), ModuleOptions::default());
        assert_eq!(
            loaded.err().map(|error| error.rv()),
            Some(expected),
            "{name}"
        );
    }
}

#[test]
fn opens_a_library_with_a_symbol_that_is_nowhere() {
    let library = compile("missing_symbol", &["-DMISSING_SYMBOL", "-Wl,-z,lazy"]);
    assert!(Module::load(&library, ModuleOptions::default()).is_ok());
}

/// Makes any call of the function: its arguments are as many zeros as it takes.
fn any_call(function: Function) -> xdr::Call<'static> {
    static ZEROS: [u8; 256] = [0; 256];
    let lengths = (0..ZEROS.len()).step_by(4);
    lengths
        .filter_map(|length| {
            let arguments = xdr::codec::Decoder::new(&ZEROS[..length], xdr::Architecture::host());
            xdr::Call::read(function, arguments).ok()
        })
        .next()
        .expect("zeros are arguments")
}

#[test]
fn answers_every_function_that_is_not_in_the_list() {
    let empty = compile("empty_list", &["-DEMPTY_LIST", "-w"]);
    let empty = Module::load(&empty, ModuleOptions::default()).expect("it has a list");
    for &function in Function::ALL {
        let reply = empty.call(any_call(function));
        assert_eq!(reply.function(), function);
        assert_eq!(
            reply.rv(),
            CkRv::FUNCTION_NOT_SUPPORTED,
            "{}",
            function.name()
        );
    }
}

#[test]
fn initializes_and_finalizes_without_arguments() {
    assert_eq!(rv(Call::C_Initialize()), 0);
    assert_eq!(rv(Call::C_Finalize()), 0);
}

/// Returns which interfaces a module reports, and whether it has a function of 3.0 and one of 3.2.
fn newer_functions(name: &str, flags: &[&str]) -> (u64, bool, bool) {
    let module = super::exact_module::load(name, flags);
    let has = |call| module.call(call).rv() != CkRv::FUNCTION_NOT_SUPPORTED;
    let (session, nobody) = (session(1), xdr::Input::NULL);
    assert!(has(xdr::Call::C_GetInfo()));
    (
        module.interfaces().0,
        has(xdr::Call::C_LoginUser(session, UserType(1), nobody, nobody)),
        has(xdr::Call::C_GetSessionValidationFlags(session, Ulong(1))),
    )
}

#[test]
fn takes_the_newest_interface_that_the_module_has() {
    assert_eq!(
        newer_functions("exact_3_2", &[]),
        (INTERFACE_2_40 | INTERFACE_3_0 | INTERFACE_3_2, true, true)
    );
    assert_eq!(
        newer_functions("exact_3_1", &["-DMINOR=1"]),
        (INTERFACE_2_40 | INTERFACE_3_0, true, false)
    );
    assert_eq!(
        newer_functions("exact_3_0", &["-DMINOR=0"]),
        (INTERFACE_2_40 | INTERFACE_3_0, true, false)
    );
    assert_eq!(
        newer_functions("exact_odd", &["-DODD"]),
        (INTERFACE_2_40, false, false)
    );
}

/// The loader finds C_GetInterface in a library that the module was linked with.
#[test]
fn takes_no_interface_of_another_library() {
    let _ = super::exact_module::load("exact_linked", &["-Wl,-soname,exact_linked.so"]);
    let directory = env!("CARGO_TARGET_TMPDIR");
    let (folder, path) = (format!("-L{directory}"), format!("-Wl,-rpath,{directory}"));
    let flags = [
        "-w",
        "-Wl,--no-as-needed",
        &folder,
        "-l:exact_linked.so",
        &path,
    ];
    let module = Module::load(&compile("links_another", &flags), ModuleOptions::default());
    let module = Former(module.expect("it has a function list"));
    assert_eq!(module.call(Call::C_Initialize()).rv(), CkRv::OK);
    // This is the answer of the recorder; the other module answers something else.
    let slot = module.call(Call::C_GetSlotInfo(SlotId(1)));
    assert_eq!(slot.rv(), CkRv::SLOT_ID_INVALID);
    let call = xdr::Call::C_SessionCancel(session(1), Flags(0));
    assert_eq!(module.0.call(call).rv(), CkRv::FUNCTION_NOT_SUPPORTED);
}

#[test]
fn refuses_a_string_that_is_none_of_c() {
    let options = ModuleOptions {
        init_args: Some("a\0b".to_owned()),
        ..Default::default()
    };
    let error = Module::load(Path::new("/nonexistent"), options).err();
    let error = error.expect("a zero byte ends a string").to_string();
    assert_eq!(error, "/nonexistent: init_args has a zero byte");
}
