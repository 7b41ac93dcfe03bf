//! Loads a PKCS#11 module: a shared library with a list of C functions.
//!
//! Calls come from the filter, with everything in this host's layout. `calls` finds the function for each; `functions`,
//! `keys` and `messages` make the C call and turn its outcome into a reply. C_SetupArch and C_LoadModule are not
//! PKCS#11: the owner of a [`Module`] answers those.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use cryptoki_sys::CK_FUNCTION_LIST_3_2;
use xdr::{Call, CkRv, Cryptoki, Flags, NullPlaces, Reply};

use messages::Sessions;
use turns::Turns;

pub use crate::outputs::{LONGEST_RANDOM, OUTPUT_LIMIT, reuse};

/// What the configuration says about a module.
#[derive(Clone, Default)]
pub struct ModuleOptions {
    /// Mechanisms outside of the standard whose parameters hold no pointer. Others are refused.
    pub flat_mechanisms: Vec<u64>,
    /// A string for the module: `pReserved` of C_Initialize. Without it, the pointer is null.
    pub init_args: Option<String>,
}

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The library cannot be opened.
    #[error("{path}: {source}")]
    Open {
        /// The library.
        path: PathBuf,
        /// The loader's error.
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
        /// The CK_RV that it returned.
        rv: CkRv,
    },
    /// C_GetFunctionList succeeded but returned no list.
    #[error("{path}: C_GetFunctionList returned no list")]
    NullList {
        /// The library.
        path: PathBuf,
    },
    /// The string for the module contains a zero byte, so that it is no C string.
    #[error("{path}: init_args has a zero byte")]
    InitArgs {
        /// The library.
        path: PathBuf,
    },
}

impl LoadError {
    /// The CK_RV that C_LoadModule returns.
    pub fn rv(&self) -> CkRv {
        match self {
            LoadError::Refused { rv, .. } => *rv,
            _ => CkRv::FUNCTION_FAILED,
        }
    }
}

/// A loaded module. It stays in memory until the process ends.
///
/// It gets calls in parallel if the application's C_Initialize allowed threads and the module accepted that; otherwise
/// one call at a time.
pub struct Module {
    turns: Turns,
    functions: Functions,
    interfaces: Flags,
}

/// The module's functions. The caller must hold a [`turns::Turn`], except for a C_WaitForSlotEvent that blocks in a module
/// that takes calls in parallel.
struct Functions {
    list: CK_FUNCTION_LIST_3_2,
    flat_mechanisms: Vec<u64>,
    init_args: Option<CString>,
    sessions: Sessions,
    parameters: parameters::Budget,
}

impl Module {
    /// Opens the library, asks it for its interfaces, and takes the newest function list. Runs the library's
    /// constructors and its C_GetInterface and C_GetFunctionList, and nothing else of the module.
    pub fn load(path: &Path, options: ModuleOptions) -> Result<Module, LoadError> {
        let named = || path.to_path_buf();
        let init_args = options.init_args.map(CString::new).transpose();
        let init_args = init_args.map_err(|_| LoadError::InitArgs { path: named() })?;
        let library = open(path).map_err(|source| LoadError::Open {
            path: named(),
            source,
        })?;
        let (list, interfaces) = interfaces::function_list(&library, path)?;
        // Never unloaded: the functions in the list, threads of the module and its handlers at exit
        // are code of the library.
        std::mem::forget(library);
        let functions = Functions {
            list,
            flat_mechanisms: options.flat_mechanisms,
            init_args,
            sessions: Sessions::default(),
            parameters: parameters::Budget::default(),
        };
        Ok(Module {
            turns: Turns::new(),
            functions,
            interfaces,
        })
    }

    /// Returns the interfaces that the module listed when it was loaded: `INTERFACE_*` of `pkcs11_rpc_v4.x`.
    pub fn interfaces(&self) -> Flags {
        self.interfaces
    }
}

impl Cryptoki for Module {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_with_nulls(call, NullPlaces::NONE)
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        match call {
            Call::C_Initialize(flags) => Reply::C_Initialize(self.initialize(flags)),
            Call::C_Finalize() => Reply::C_Finalize(self.finalize()),
            Call::C_WaitForSlotEvent(flags) => {
                Reply::C_WaitForSlotEvent(self.slot_event(flags, nulls))
            }
            call => {
                let _turn = self.turns.turn();
                let functions = &self.functions;
                // Another call may close the session meanwhile. Its parameters live until the module has returned.
                let _session = parameters::session_of(functions, &call);
                let ending = parameters::ending(&functions.parameters, &call);
                let reply = functions.call(call, nulls);
                if let (Some((session, family)), CkRv::OK) = (ending, reply.rv()) {
                    if let Some(session) = functions.sessions.get(session) {
                        session.parameters.ended(family);
                    }
                }
                reply
            }
        }
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

/// Calls a function of the list with plain values; CKR_FUNCTION_NOT_SUPPORTED if the list does not have it.
macro_rules! c {
    ($functions:ident.$name:ident($($argument:expr),* $(,)?)) => {
        match $functions.list.$name {
            // SAFETY: the address comes from the list of a module that is never unloaded, and its type is the
            // standard's. An argument that is an address is null where PKCS#11 allows it, or comes from a variable or
            // from `arguments`, `templates` and `outputs`: it is the address of memory that outlives the call, and the
            // argument beside it is the length of that memory. The parameter of an operation outlives the operation, as
            // far as this process knows of its end (`parameters`). Where PKCS#11 does not allow null, it is null only
            // because the client said so; a module that does not check it ends with an access to address 0. Bytes of a
            // client are never an address: `CMechanism`, `CTemplate` and `messages` see to that. The caller holds a
            // turn, so no other call is running, or the module takes calls in parallel.
            Some(function) => CkRv(wide(unsafe { function($($argument),*) })),
            None => CkRv::FUNCTION_NOT_SUPPORTED,
        }
    };
}

mod calls;
mod functions;
mod initialize;
mod interfaces;
mod keys;
mod messages;
pub mod notify;
mod parameters;
mod turns;

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
