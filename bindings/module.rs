//! Loads a PKCS#11 module: a shared library with a list of C functions.
//!
//! Calls come from the filter, with everything in this host's layout; `calls` finds the function
//! for each, and `functions` makes the C call and turns its outcome into a reply. Whoever owns a
//! [`Module`] answers C_SetupArch and C_LoadModule; those are not of PKCS#11.

use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use crate::arguments::LONGEST_RANDOM;
use cryptoki_sys::{CK_C_GetFunctionList, CK_FUNCTION_LIST};
use xdr::CkRv;
use xdr::word_size::wide;

/// What the configuration says about a module.
#[derive(Clone, Debug, Default)]
pub struct ModuleOptions {
    /// Mechanisms outside of the standard whose parameters hold no pointer. Others are refused.
    pub flat_mechanisms: Vec<u64>,
}

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The library cannot be opened.
    #[error("{path}: {source}")]
    Open {
        /// The library.
        path: PathBuf,
        /// What the loader says.
        source: libloading::Error,
    },
    /// The library is not a PKCS#11 module.
    #[error("{path}: no C_GetFunctionList")]
    NoFunctionList {
        /// The library.
        path: PathBuf,
    },
    /// C_GetFunctionList failed.
    #[error("{path}: C_GetFunctionList returned {rv}")]
    Refused {
        /// The library.
        path: PathBuf,
        /// What it answers.
        rv: CkRv,
    },
    /// C_GetFunctionList succeeded and gave no list.
    #[error("{path}: C_GetFunctionList returned no list")]
    NullList {
        /// The library.
        path: PathBuf,
    },
}

impl LoadError {
    /// What C_LoadModule answers.
    pub fn rv(&self) -> CkRv {
        match self {
            LoadError::Refused { rv, .. } => *rv,
            _ => CkRv::FUNCTION_FAILED,
        }
    }
}

/// A loaded module. It stays in memory until the process ends.
///
/// C_Initialize passes no mutexes and no flags, so the module need not be ready for threads. It
/// gets one call at a time.
pub struct Module {
    functions: Mutex<Functions>,
}

/// The module's functions, reached by one thread at a time.
struct Functions {
    list: CK_FUNCTION_LIST,
    flat_mechanisms: Vec<u64>,
}

impl Module {
    /// Opens the library and takes its function list. Runs the library's constructors, and nothing
    /// else of the module.
    pub fn load(path: &Path, options: ModuleOptions) -> Result<Module, LoadError> {
        let named = || path.to_path_buf();
        let library = open(path).map_err(|source| LoadError::Open {
            path: named(),
            source,
        })?;
        // SAFETY: the type is the prototype that PKCS#11 gives the symbol; a library that breaks
        // the standard is a broken module, which the administrator who named it answers for. An
        // optional function pointer may be null.
        let symbol = unsafe { library.get::<CK_C_GetFunctionList>(b"C_GetFunctionList\0") };
        let Some(function) = symbol.ok().and_then(|symbol| *symbol) else {
            return Err(LoadError::NoFunctionList { path: named() });
        };
        let mut list = null_mut();
        // SAFETY: `library` is open, and `list` is a variable to be written by the module.
        let rv = CkRv(wide(unsafe { function(&raw mut list) }));
        if !rv.is_ok() {
            return Err(LoadError::Refused { path: named(), rv });
        }
        if list.is_null() {
            return Err(LoadError::NullList { path: named() });
        }
        // SAFETY: with CKR_OK a module gives the address of its list, of this type since v2.01, and
        // keeps it for as long as it is loaded. No alignment is assumed: Windows packs it.
        let list = unsafe { list.read_unaligned() };
        // Never unloaded: the functions in the list, threads of the module and its handlers at exit
        // are code of the library.
        std::mem::forget(library);
        let functions = Functions {
            list,
            flat_mechanisms: options.flat_mechanisms,
        };
        Ok(Module {
            functions: Mutex::new(functions),
        })
    }

    fn functions(&self) -> MutexGuard<'_, Functions> {
        // What a panicking thread leaves is the list, which nobody changes.
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the library as the original does: resolves all symbols at once, or each at its first use if
/// that fails.
#[cfg(unix)]
fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LAZY, RTLD_NOW};

    // SAFETY: the library's constructors run. The administrator named it to be run in this process.
    let library = unsafe { Library::open(Some(path), RTLD_NOW) };
    let library = library.or_else(|_| {
        // SAFETY: as above.
        unsafe { Library::open(Some(path), RTLD_LAZY) }
    });
    library.map(libloading::Library::from)
}

#[cfg(not(unix))]
fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: the library's constructors run. The administrator named it to be run in this process.
    unsafe { libloading::Library::new(path) }
}

/// Calls a function of the list with plain values; CKR_FUNCTION_NOT_SUPPORTED when the list has
/// none.
macro_rules! c {
    ($functions:ident.$name:ident($($argument:expr),* $(,)?)) => {
        match $functions.list.$name {
            // SAFETY: the address is of the list of a module that is never unloaded, its type is
            // the standard's. An argument that is an address is null where PKCS#11 allows it, or
            // comes of a variable or of `arguments`: of memory that outlives the call, whose own
            // length is the argument beside it. Bytes of a client are never an address:
            // `CMechanism` and `CTemplate` see to that. `Functions` is locked, so no other call is
            // running.
            Some(function) => CkRv(wide(unsafe { function($($argument),*) })),
            None => CkRv::FUNCTION_NOT_SUPPORTED,
        }
    };
}

mod calls;
mod functions;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_why_a_library_is_no_module() {
        let missing = Path::new("/nonexistent/module.so");
        let error = Module::load(missing, ModuleOptions::default()).err();
        let error = error.expect("there is no such file");
        assert_eq!(error.rv(), CkRv::FUNCTION_FAILED);
        assert!(error.to_string().starts_with("/nonexistent/module.so: "));
    }

    #[test]
    fn is_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Module>();
    }
}
