//! Loads the module `exact.c`, and makes calls of version 4 on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use bindings::module::{Module, ModuleOptions};
use xdr::mechanism::{Memory, OutputPlace};
use xdr::{Call, CkRv, Cryptoki, Mechanism, MechanismType, Use, Written};

use super::compile_source;

/// The module for all tests that change nothing in it.
pub(super) static EXACT: LazyLock<Module> = LazyLock::new(|| load("exact", &[]));

/// Compiles and loads a separate module. Tests in one process share a module of the same name.
pub(super) fn load(name: &str, flags: &[&str]) -> Module {
    load_with(name, flags, ModuleOptions::default())
}

pub(super) fn load_with(name: &str, flags: &[&str], options: ModuleOptions) -> Module {
    let header = format!("-I{}", header().display());
    let flags: Vec<&str> = flags
        .iter()
        .copied()
        .chain([&*header, "-pthread"])
        .collect();
    let library = compile_source("exact.c", name, &flags);
    Module::load(&library, options).expect("it is a module")
}

/// The directory of the `pkcs11.h` of version 3.2, in the sources of the crate `cryptoki-sys`.
fn header() -> PathBuf {
    // Without the filter, dependencies of other systems would be needed, which were not downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", &platform])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output();
    let metadata = metadata.expect("cargo can be run").stdout;
    let metadata = String::from_utf8(metadata).expect("cargo writes JSON");
    let mut words = metadata.split('"').map(Path::new);
    let manifest = words.find(|word| {
        let directory = word.parent().and_then(Path::file_name).unwrap_or_default();
        word.ends_with("Cargo.toml") && directory.to_string_lossy().starts_with("cryptoki-sys-")
    });
    let manifest = manifest.expect("the crate is a dependency");
    manifest.with_file_name("vendor")
}

pub(super) fn rv(module: &Module, call: Call<'_>) -> u64 {
    module.call(call).rv().0
}

pub(super) fn mechanism(number: u64) -> Mechanism {
    Mechanism::bare(MechanismType(number))
}

/// This process's own memory.
struct Own;

impl Memory for Own {
    fn read(&self, address: usize, length: usize) -> Result<Vec<u8>, CkRv> {
        let address: *const u8 = std::ptr::with_exposed_provenance(address);
        // SAFETY: the structures of these tests point to their own variables.
        Ok(unsafe { std::slice::from_raw_parts(address, length) }.to_vec())
    }
}

/// Makes a mechanism with a structure of the standard, as an application has it, and returns where its outputs are.
pub(super) fn parameter<T>(
    number: u64,
    usage: Use,
    parameter: &mut T,
) -> (Mechanism, Vec<OutputPlace>) {
    let address = std::ptr::from_mut(parameter).expose_provenance();
    let number = MechanismType(number);
    Mechanism::from_memory(number, address, size_of::<T>(), usage, &Own).expect("in the table")
}

/// The places of an application before a call.
struct Zeros;

impl Memory for Zeros {
    fn read(&self, _: usize, length: usize) -> Result<Vec<u8>, CkRv> {
        Ok(vec![0; length])
    }
}

/// Returns what the module wrote to places that held zeros.
pub(super) fn written(written: &Written, places: &[OutputPlace]) -> Vec<Vec<u8>> {
    let changes = written.changes(places, &Zeros).expect("its own places");
    changes.iter().map(|change| change.bytes.to_vec()).collect()
}
