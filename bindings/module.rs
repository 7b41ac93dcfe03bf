//! A PKCS#11 module: a shared library, loaded and called through its function list.
//!
//! Calls come from the filter, laid out for this host; each becomes C
//! calls here and its outcome a reply, also when it fails: what a failing call carries is what the
//! original sends. The CK_RV is the module's, unless an argument must not reach it. Whoever owns a
//! [`Module`] answers C_SetupArch and C_LoadModule; those are not of PKCS#11.

use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::*;
use xdr::{
    Call, CkRv, Cryptoki, DataResult, Flags, Function, Info, InfoResult, KeyPairResult, Mechanism,
    MechanismInfo, MechanismInfoResult, MechanismListResult, MechanismType, ObjectHandle,
    ObjectListResult, ObjectResult, Reply, SessionHandle, SessionInfo, SessionInfoResult,
    SessionResult, SizeResult, SlotId, SlotInfo, SlotInfoResult, SlotListResult, SlotResult, State,
    Template, TemplateResult, TokenInfo, TokenInfoResult, Ulong, Version,
};

use crate::arguments::{
    CMechanism, CTemplate, Empty, OUTPUT_LIMIT, attribute_values, input, list, objects, output, pin,
};
use xdr::word_size::{narrow, wide};

/// Room for an output that does not grow with the input: a digest, a signature, a wrapped key. The
/// original has this much and no more.
const FIXED_ROOM: usize = 16384;

/// Room beyond the input's length, where the output grows with it: padding, tags, what a module
/// kept of the part before.
const GROWTH: usize = 4096;

/// What a site tells of its module.
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
    /// The library is no PKCS#11 module.
    #[error("{path}: no C_GetFunctionList")]
    NoFunctionList {
        /// The library.
        path: PathBuf,
    },
    /// C_GetFunctionList failed.
    #[error("{path}: C_GetFunctionList answers {rv}")]
    Refused {
        /// The library.
        path: PathBuf,
        /// What it answers.
        rv: CkRv,
    },
    /// C_GetFunctionList succeeded and gave no list.
    #[error("{path}: C_GetFunctionList gives no list")]
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
/// C_Initialize passes no mutexes and no flags, so a module need not be ready for threads: one call
/// at a time.
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

/// Opens as the original does: at once if all symbols can be found, else as they are needed.
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

/// A session.
macro_rules! session {
    ($functions:ident.$name:ident($session:ident)) => {
        Reply::$name(c!($functions.$name(narrow($session.0))))
    };
}

/// A session and bytes.
macro_rules! session_bytes {
    ($functions:ident.$name:ident($session:ident, $bytes:ident)) => {{
        let (bytes, length) = input($bytes);
        Reply::$name(c!($functions.$name(narrow($session.0), bytes, length)))
    }};
}

/// A session to bytes.
macro_rules! session_to_bytes {
    ($functions:ident.$name:ident($session:ident)) => {
        Reply::$name(output(FIXED_ROOM, |data, length| {
            c!($functions.$name(narrow($session.0), data, length))
        }))
    };
}

/// A session and bytes to bytes, with the room there is for them.
macro_rules! session_bytes_to_bytes {
    ($functions:ident.$name:ident($session:ident, $bytes:ident), $room:expr) => {{
        let (bytes, bytes_length) = input($bytes);
        Reply::$name(output($room, |data, length| {
            c!($functions.$name(narrow($session.0), bytes, bytes_length, data, length))
        }))
    }};
}

/// The Init of an operation with a key.
macro_rules! init {
    ($functions:ident.$name:ident($session:ident, $mechanism:ident, $key:ident)) => {
        match $functions.mechanism(&$mechanism) {
            Ok(mut mechanism) => Reply::$name(c!($functions.$name(
                narrow($session.0),
                mechanism.as_ptr(),
                narrow($key.0)
            ))),
            Err(rv) => Reply::$name(rv),
        }
    };
}

/// The reply of a call that may be refused before it gets to the module.
macro_rules! or_refused {
    ($name:ident, $result:expr) => {
        match $result {
            Ok(result) => Reply::$name(result),
            Err(rv) => Reply::only(Function::$name, rv),
        }
    };
}

impl Cryptoki for Module {
    fn call(&self, call: Call<'_>) -> Reply {
        let f = self.functions();
        match call {
            // The worker's, not the module's.
            Call::C_SetupArch(_) | Call::C_LoadModule(_) => {
                Reply::only(call.function(), CkRv::FUNCTION_NOT_SUPPORTED)
            }

            // General purpose
            Call::C_Initialize() => Reply::C_Initialize(c!(f.C_Initialize(null_mut()))),
            Call::C_Finalize() => Reply::C_Finalize(c!(f.C_Finalize(null_mut()))),
            Call::C_GetInfo() => Reply::C_GetInfo(f.info()),

            // Slots and tokens
            Call::C_GetSlotList(present, count) => {
                Reply::C_GetSlotList(f.slot_list(present, count))
            }
            Call::C_GetSlotInfo(slot) => Reply::C_GetSlotInfo(f.slot_info(slot)),
            Call::C_GetTokenInfo(slot) => Reply::C_GetTokenInfo(f.token_info(slot)),
            Call::C_WaitForSlotEvent(flags) => {
                Reply::C_WaitForSlotEvent(f.wait_for_slot_event(flags))
            }
            Call::C_GetMechanismList(slot, count) => {
                Reply::C_GetMechanismList(f.mechanism_list(slot, count))
            }
            Call::C_GetMechanismInfo(slot, mechanism) => {
                Reply::C_GetMechanismInfo(f.mechanism_info(slot, mechanism))
            }
            Call::C_InitToken(slot, pin, label) => {
                Reply::C_InitToken(f.init_token(slot, pin, label))
            }
            Call::C_InitPIN(session, pin) => Reply::C_InitPIN(f.init_pin(session, pin)),
            Call::C_SetPIN(session, old, new) => Reply::C_SetPIN(f.set_pin(session, old, new)),

            // Sessions
            Call::C_OpenSession(slot, flags) => Reply::C_OpenSession(f.open_session(slot, flags)),
            Call::C_CloseSession(s) => session!(f.C_CloseSession(s)),
            Call::C_CloseAllSessions(slot) => session!(f.C_CloseAllSessions(slot)),
            Call::C_GetSessionInfo(session) => Reply::C_GetSessionInfo(f.session_info(session)),
            Call::C_GetOperationState(s) => session_to_bytes!(f.C_GetOperationState(s)),
            Call::C_SetOperationState(session, state, encryption, authentication) => {
                let (state, length) = input(state);
                Reply::C_SetOperationState(c!(f.C_SetOperationState(
                    narrow(session.0),
                    state,
                    length,
                    narrow(encryption.0),
                    narrow(authentication.0)
                )))
            }
            Call::C_Login(session, user, pin) => Reply::C_Login(f.login(session, user.0, pin)),
            Call::C_Logout(s) => session!(f.C_Logout(s)),
            Call::C_GetFunctionStatus(s) => session!(f.C_GetFunctionStatus(s)),
            Call::C_CancelFunction(s) => session!(f.C_CancelFunction(s)),

            // Objects
            Call::C_CreateObject(session, template) => {
                or_refused!(C_CreateObject, f.create_object(session, template))
            }
            Call::C_CopyObject(session, object, template) => {
                or_refused!(C_CopyObject, f.copy_object(session, object, template))
            }
            Call::C_DestroyObject(session, object) => {
                Reply::C_DestroyObject(c!(f.C_DestroyObject(narrow(session.0), narrow(object.0))))
            }
            Call::C_GetObjectSize(session, object) => {
                Reply::C_GetObjectSize(f.object_size(session, object))
            }
            Call::C_GetAttributeValue(session, object, template) => {
                Reply::C_GetAttributeValue(f.attribute_value(session, object, template))
            }
            Call::C_SetAttributeValue(session, object, template) => {
                or_refused!(
                    C_SetAttributeValue,
                    f.set_attribute_value(session, object, template)
                )
            }
            Call::C_FindObjectsInit(session, template) => {
                or_refused!(C_FindObjectsInit, f.find_objects_init(session, template))
            }
            Call::C_FindObjects(session, count) => {
                Reply::C_FindObjects(f.find_objects(session, count))
            }
            Call::C_FindObjectsFinal(s) => session!(f.C_FindObjectsFinal(s)),

            // Encryption and decryption
            Call::C_EncryptInit(s, mechanism, key) => init!(f.C_EncryptInit(s, mechanism, key)),
            Call::C_Encrypt(s, data) => {
                session_bytes_to_bytes!(f.C_Encrypt(s, data), data.len() + GROWTH)
            }
            Call::C_EncryptUpdate(s, part) => {
                session_bytes_to_bytes!(f.C_EncryptUpdate(s, part), part.len() + GROWTH)
            }
            Call::C_EncryptFinal(s) => session_to_bytes!(f.C_EncryptFinal(s)),
            Call::C_DecryptInit(s, mechanism, key) => init!(f.C_DecryptInit(s, mechanism, key)),
            Call::C_Decrypt(s, data) => {
                session_bytes_to_bytes!(f.C_Decrypt(s, data), data.len() + GROWTH)
            }
            Call::C_DecryptUpdate(s, part) => {
                session_bytes_to_bytes!(f.C_DecryptUpdate(s, part), part.len() + GROWTH)
            }
            Call::C_DecryptFinal(s) => session_to_bytes!(f.C_DecryptFinal(s)),

            // Digests
            Call::C_DigestInit(session, mechanism) => {
                Reply::C_DigestInit(match f.mechanism(&mechanism) {
                    Ok(mut mechanism) => c!(f.C_DigestInit(narrow(session.0), mechanism.as_ptr())),
                    Err(rv) => rv,
                })
            }
            Call::C_Digest(s, data) => session_bytes_to_bytes!(f.C_Digest(s, data), FIXED_ROOM),
            Call::C_DigestUpdate(s, part) => session_bytes!(f.C_DigestUpdate(s, part)),
            Call::C_DigestKey(session, key) => {
                Reply::C_DigestKey(c!(f.C_DigestKey(narrow(session.0), narrow(key.0))))
            }
            Call::C_DigestFinal(s) => session_to_bytes!(f.C_DigestFinal(s)),

            // Signatures
            Call::C_SignInit(s, mechanism, key) => init!(f.C_SignInit(s, mechanism, key)),
            Call::C_Sign(s, data) => session_bytes_to_bytes!(f.C_Sign(s, data), FIXED_ROOM),
            Call::C_SignUpdate(s, part) => session_bytes!(f.C_SignUpdate(s, part)),
            Call::C_SignFinal(s) => session_to_bytes!(f.C_SignFinal(s)),
            Call::C_SignRecoverInit(s, mechanism, key) => {
                init!(f.C_SignRecoverInit(s, mechanism, key))
            }
            Call::C_SignRecover(s, data) => {
                session_bytes_to_bytes!(f.C_SignRecover(s, data), FIXED_ROOM)
            }
            Call::C_VerifyInit(s, mechanism, key) => init!(f.C_VerifyInit(s, mechanism, key)),
            Call::C_Verify(session, data, signature) => {
                let (data, data_length) = input(data);
                let (signature, signature_length) = input(signature);
                Reply::C_Verify(c!(f.C_Verify(
                    narrow(session.0),
                    data,
                    data_length,
                    signature,
                    signature_length
                )))
            }
            Call::C_VerifyUpdate(s, part) => session_bytes!(f.C_VerifyUpdate(s, part)),
            Call::C_VerifyFinal(s, signature) => session_bytes!(f.C_VerifyFinal(s, signature)),
            Call::C_VerifyRecoverInit(s, mechanism, key) => {
                init!(f.C_VerifyRecoverInit(s, mechanism, key))
            }
            Call::C_VerifyRecover(s, signature) => {
                session_bytes_to_bytes!(f.C_VerifyRecover(s, signature), signature.len() + GROWTH)
            }

            // Two operations at once
            Call::C_DigestEncryptUpdate(s, part) => {
                session_bytes_to_bytes!(f.C_DigestEncryptUpdate(s, part), part.len() + GROWTH)
            }
            Call::C_DecryptDigestUpdate(s, part) => {
                session_bytes_to_bytes!(f.C_DecryptDigestUpdate(s, part), part.len() + GROWTH)
            }
            Call::C_SignEncryptUpdate(s, part) => {
                session_bytes_to_bytes!(f.C_SignEncryptUpdate(s, part), part.len() + GROWTH)
            }
            Call::C_DecryptVerifyUpdate(s, part) => {
                session_bytes_to_bytes!(f.C_DecryptVerifyUpdate(s, part), part.len() + GROWTH)
            }

            // Keys
            Call::C_GenerateKey(session, mechanism, template) => {
                or_refused!(C_GenerateKey, f.generate_key(session, mechanism, template))
            }
            Call::C_GenerateKeyPair(session, mechanism, public, private) => {
                or_refused!(
                    C_GenerateKeyPair,
                    f.generate_key_pair(session, mechanism, public, private)
                )
            }
            Call::C_WrapKey(session, mechanism, wrapping, key) => {
                or_refused!(C_WrapKey, f.wrap_key(session, mechanism, wrapping, key))
            }
            Call::C_UnwrapKey(session, mechanism, key, wrapped, template) => {
                or_refused!(
                    C_UnwrapKey,
                    f.unwrap_key(session, mechanism, key, wrapped, template)
                )
            }
            Call::C_DeriveKey(session, mechanism, key, template) => {
                or_refused!(C_DeriveKey, f.derive_key(session, mechanism, key, template))
            }

            // Random numbers
            Call::C_SeedRandom(s, seed) => session_bytes!(f.C_SeedRandom(s, seed)),
            Call::C_GenerateRandom(session, length) => {
                Reply::C_GenerateRandom(f.generate_random(session, length))
            }
        }
    }
}

/// The calls of a shape of their own.
impl Functions {
    fn mechanism(&self, mechanism: &Mechanism) -> Result<CMechanism, CkRv> {
        CMechanism::new(mechanism, &self.flat_mechanisms)
    }

    fn info(&self) -> InfoResult {
        let mut info = CK_INFO::default();
        let rv = c!(self.C_GetInfo(&raw mut info));
        InfoResult {
            rv,
            info: Info {
                cryptoki_version: version(info.cryptokiVersion),
                manufacturer_id: info.manufacturerID.to_vec(),
                flags: Flags(wide(info.flags)),
                library_description: info.libraryDescription.to_vec(),
                library_version: version(info.libraryVersion),
            },
        }
    }

    /// The original takes the lower 32 bits of `present` for its flag, and one byte of them for
    /// C's.
    fn slot_list(&self, present: Ulong, count: Ulong) -> SlotListResult {
        let Ok(present) = CK_BBOOL::try_from(present.0 as u32) else {
            return SlotListResult {
                rv: CkRv::TOKEN_NOT_RECOGNIZED,
                ..Default::default()
            };
        };
        let (rv, slots, count) = list(count, |slots, count| {
            c!(self.C_GetSlotList(present, slots, count))
        });
        SlotListResult {
            rv,
            slots: slots.into_iter().map(SlotId).collect(),
            count,
        }
    }

    fn slot_info(&self, slot: SlotId) -> SlotInfoResult {
        // No Default: an array of 64 has none.
        let mut info = CK_SLOT_INFO {
            slotDescription: [0; 64],
            manufacturerID: [0; 32],
            flags: 0,
            hardwareVersion: CK_VERSION::default(),
            firmwareVersion: CK_VERSION::default(),
        };
        let rv = c!(self.C_GetSlotInfo(narrow(slot.0), &raw mut info));
        SlotInfoResult {
            rv,
            info: SlotInfo {
                slot_description: info.slotDescription.to_vec(),
                manufacturer_id: info.manufacturerID.to_vec(),
                flags: Flags(wide(info.flags)),
                hardware_version: version(info.hardwareVersion),
                firmware_version: version(info.firmwareVersion),
            },
        }
    }

    fn token_info(&self, slot: SlotId) -> TokenInfoResult {
        let mut info = CK_TOKEN_INFO::default();
        let rv = c!(self.C_GetTokenInfo(narrow(slot.0), &raw mut info));
        TokenInfoResult {
            rv,
            info: TokenInfo {
                label: info.label.to_vec(),
                manufacturer_id: info.manufacturerID.to_vec(),
                model: info.model.to_vec(),
                serial_number: info.serialNumber.to_vec(),
                flags: Flags(wide(info.flags)),
                max_session_count: Ulong(wide(info.ulMaxSessionCount)),
                session_count: Ulong(wide(info.ulSessionCount)),
                max_rw_session_count: Ulong(wide(info.ulMaxRwSessionCount)),
                rw_session_count: Ulong(wide(info.ulRwSessionCount)),
                max_pin_len: Ulong(wide(info.ulMaxPinLen)),
                min_pin_len: Ulong(wide(info.ulMinPinLen)),
                total_public_memory: Ulong(wide(info.ulTotalPublicMemory)),
                free_public_memory: Ulong(wide(info.ulFreePublicMemory)),
                total_private_memory: Ulong(wide(info.ulTotalPrivateMemory)),
                free_private_memory: Ulong(wide(info.ulFreePrivateMemory)),
                hardware_version: version(info.hardwareVersion),
                firmware_version: version(info.firmwareVersion),
                utc_time: info.utcTime.to_vec(),
            },
        }
    }

    fn wait_for_slot_event(&self, flags: Flags) -> SlotResult {
        let mut slot = narrow(SlotId::NONE.0);
        let rv = c!(self.C_WaitForSlotEvent(narrow(flags.0), &raw mut slot, null_mut()));
        let slot_id = if rv.is_ok() {
            SlotId(wide(slot))
        } else {
            SlotId::NONE
        };
        SlotResult { rv, slot_id }
    }

    fn mechanism_list(&self, slot: SlotId, count: Ulong) -> MechanismListResult {
        let (rv, mechanisms, count) = list(count, |mechanisms, count| {
            c!(self.C_GetMechanismList(narrow(slot.0), mechanisms, count))
        });
        MechanismListResult {
            rv,
            mechanisms: mechanisms.into_iter().map(MechanismType).collect(),
            count,
        }
    }

    fn mechanism_info(&self, slot: SlotId, mechanism: MechanismType) -> MechanismInfoResult {
        let mut info = CK_MECHANISM_INFO::default();
        let rv = c!(self.C_GetMechanismInfo(narrow(slot.0), narrow(mechanism.0), &raw mut info));
        MechanismInfoResult {
            rv,
            info: MechanismInfo {
                min_key_size: Ulong(wide(info.ulMinKeySize)),
                max_key_size: Ulong(wide(info.ulMaxKeySize)),
                flags: Flags(wide(info.flags)),
            },
        }
    }

    /// The wire has no null PIN: an empty one means null on a token with a keypad of its own, and
    /// is a mistake on another. Nothing is known of a token that does not answer; it gets what was
    /// sent.
    fn init_token(&self, slot: SlotId, so_pin: &[u8], label: &[u8]) -> CkRv {
        let so_pin = match so_pin {
            [] => match self.has_protected_path(slot) {
                Some(true) => None,
                Some(false) => return CkRv::ARGUMENTS_BAD,
                None => Some(so_pin),
            },
            _ => Some(so_pin),
        };
        let (so_pin, length) = pin(so_pin);
        let mut label = padded_label(label);
        c!(self.C_InitToken(narrow(slot.0), so_pin, length, label.as_mut_ptr()))
    }

    /// An empty PIN as in `init_token`; the original answers another CK_RV here.
    fn init_pin(&self, session: SessionHandle, new: &[u8]) -> CkRv {
        let new = match new {
            [] => match self.session_has_protected_path(session) {
                Some(true) => None,
                Some(false) => return CkRv::PIN_INVALID,
                None => Some(new),
            },
            _ => Some(new),
        };
        let (new, length) = pin(new);
        c!(self.C_InitPIN(narrow(session.0), new, length))
    }

    /// As `init_pin`, when both are empty; one empty PIN goes to the module as it is.
    fn set_pin(&self, session: SessionHandle, old: &[u8], new: &[u8]) -> CkRv {
        let (old, new) = match (old, new) {
            ([], []) => match self.session_has_protected_path(session) {
                Some(true) => (None, None),
                Some(false) => return CkRv::PIN_INVALID,
                None => (Some(old), Some(new)),
            },
            _ => (Some(old), Some(new)),
        };
        let (old, old_length) = pin(old);
        let (new, new_length) = pin(new);
        c!(self.C_SetPIN(narrow(session.0), old, old_length, new, new_length))
    }

    fn session_has_protected_path(&self, session: SessionHandle) -> Option<bool> {
        let result = self.session_info(session);
        result
            .rv
            .is_ok()
            .then_some(result.info.slot_id)
            .and_then(|slot| self.has_protected_path(slot))
    }

    fn has_protected_path(&self, slot: SlotId) -> Option<bool> {
        let TokenInfoResult { rv, info } = self.token_info(slot);
        let flag = narrow(info.flags.0) & CKF_PROTECTED_AUTHENTICATION_PATH;
        rv.is_ok().then_some(flag != 0)
    }

    /// The original gives an empty PIN an address, which keeps clients from a token's own keypad.
    fn login(&self, session: SessionHandle, user: u64, user_pin: &[u8]) -> CkRv {
        let (user_pin, length) = pin(Some(user_pin).filter(|user_pin| !user_pin.is_empty()));
        c!(self.C_Login(narrow(session.0), narrow(user), user_pin, length))
    }

    /// Neither an application's pointer nor its callback exists here.
    fn open_session(&self, slot: SlotId, flags: Flags) -> SessionResult {
        let mut session = CK_INVALID_HANDLE;
        let rv = c!(self.C_OpenSession(
            narrow(slot.0),
            narrow(flags.0),
            null_mut(),
            None,
            &raw mut session
        ));
        SessionResult {
            rv,
            session: SessionHandle(if_ok(rv, session)),
        }
    }

    fn session_info(&self, session: SessionHandle) -> SessionInfoResult {
        let mut info = CK_SESSION_INFO::default();
        let rv = c!(self.C_GetSessionInfo(narrow(session.0), &raw mut info));
        if !rv.is_ok() {
            let info = SessionInfo {
                slot_id: SlotId::NONE,
                ..Default::default()
            };
            return SessionInfoResult { rv, info };
        }
        SessionInfoResult {
            rv,
            info: SessionInfo {
                slot_id: SlotId(wide(info.slotID)),
                state: State(wide(info.state)),
                flags: Flags(wide(info.flags)),
                device_error: Ulong(wide(info.ulDeviceError)),
            },
        }
    }

    fn create_object(
        &self,
        session: SessionHandle,
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let mut object = CK_INVALID_HANDLE;
        let rv = c!(self.C_CreateObject(
            narrow(session.0),
            template.as_ptr(),
            template.count(),
            &raw mut object
        ));
        Ok(object_result(rv, object))
    }

    fn copy_object(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let mut copy = CK_INVALID_HANDLE;
        let rv = c!(self.C_CopyObject(
            narrow(session.0),
            narrow(object.0),
            template.as_ptr(),
            template.count(),
            &raw mut copy
        ));
        Ok(object_result(rv, copy))
    }

    fn object_size(&self, session: SessionHandle, object: ObjectHandle) -> SizeResult {
        let mut size = 0;
        let rv = c!(self.C_GetObjectSize(narrow(session.0), narrow(object.0), &raw mut size));
        SizeResult {
            rv,
            size: Ulong(if_ok(rv, size)),
        }
    }

    fn attribute_value(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        mut template: Template,
    ) -> TemplateResult {
        let rv = attribute_values(&mut template, |attributes, count| {
            c!(self.C_GetAttributeValue(narrow(session.0), narrow(object.0), attributes, count))
        });
        TemplateResult { rv, template }
    }

    fn set_attribute_value(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        mut template: Template,
    ) -> Result<CkRv, CkRv> {
        let mut template = CTemplate::new(&mut template, Empty::Null)?;
        Ok(c!(self.C_SetAttributeValue(
            narrow(session.0),
            narrow(object.0),
            template.as_ptr(),
            template.count()
        )))
    }

    fn find_objects_init(
        &self,
        session: SessionHandle,
        mut template: Template,
    ) -> Result<CkRv, CkRv> {
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        Ok(c!(self.C_FindObjectsInit(
            narrow(session.0),
            template.as_ptr(),
            template.count()
        )))
    }

    fn find_objects(&self, session: SessionHandle, count: Ulong) -> ObjectListResult {
        let (rv, objects) = objects(count, |objects, room, number| {
            c!(self.C_FindObjects(narrow(session.0), objects, room, number))
        });
        ObjectListResult {
            rv,
            count: Ulong(objects.len() as u64),
            objects: objects.into_iter().map(ObjectHandle).collect(),
        }
    }

    fn generate_key(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let mut key = CK_INVALID_HANDLE;
        let rv = c!(self.C_GenerateKey(
            narrow(session.0),
            mechanism.as_ptr(),
            template.as_ptr_or_null(),
            template.count(),
            &raw mut key
        ));
        Ok(object_result(rv, key))
    }

    fn generate_key_pair(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        mut public: Template,
        mut private: Template,
    ) -> Result<KeyPairResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        let mut public = CTemplate::new(&mut public, Empty::Address)?;
        let mut private = CTemplate::new(&mut private, Empty::Address)?;
        let (mut public_key, mut private_key) = (CK_INVALID_HANDLE, CK_INVALID_HANDLE);
        let rv = c!(self.C_GenerateKeyPair(
            narrow(session.0),
            mechanism.as_ptr(),
            public.as_ptr_or_null(),
            public.count(),
            private.as_ptr_or_null(),
            private.count(),
            &raw mut public_key,
            &raw mut private_key
        ));
        Ok(KeyPairResult {
            rv,
            public_key: ObjectHandle(if_ok(rv, public_key)),
            private_key: ObjectHandle(if_ok(rv, private_key)),
        })
    }

    fn wrap_key(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        wrapping: ObjectHandle,
        key: ObjectHandle,
    ) -> Result<DataResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        Ok(output(FIXED_ROOM, |data, length| {
            c!(self.C_WrapKey(
                narrow(session.0),
                mechanism.as_ptr(),
                narrow(wrapping.0),
                narrow(key.0),
                data,
                length
            ))
        }))
    }

    fn unwrap_key(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let (wrapped, length) = input(wrapped);
        let mut key = CK_INVALID_HANDLE;
        let rv = c!(self.C_UnwrapKey(
            narrow(session.0),
            mechanism.as_ptr(),
            narrow(unwrapping.0),
            wrapped,
            length,
            template.as_ptr(),
            template.count(),
            &raw mut key
        ));
        Ok(object_result(rv, key))
    }

    fn derive_key(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        base: ObjectHandle,
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let mut key = CK_INVALID_HANDLE;
        let rv = c!(self.C_DeriveKey(
            narrow(session.0),
            mechanism.as_ptr(),
            narrow(base.0),
            template.as_ptr(),
            template.count(),
            &raw mut key
        ));
        Ok(object_result(rv, key))
    }

    /// The original runs out of memory on what is too much here, and ends the call with SYSTEM_ERR.
    fn generate_random(&self, session: SessionHandle, length: Ulong) -> DataResult {
        let size = usize::try_from(length.0).unwrap_or(usize::MAX);
        if size > OUTPUT_LIMIT {
            return DataResult {
                rv: CkRv::ARGUMENTS_BAD,
                ..Default::default()
            };
        }
        let mut data = vec![0; size.max(1)];
        let rv = c!(self.C_GenerateRandom(narrow(session.0), data.as_mut_ptr(), narrow(length.0)));
        data.truncate(if rv.is_ok() { size } else { 0 });
        DataResult { rv, data }
    }
}

fn version(version: CK_VERSION) -> Version {
    Version::new(version.major, version.minor)
}

fn object_result(rv: CkRv, object: CK_OBJECT_HANDLE) -> ObjectResult {
    ObjectResult {
        rv,
        object: ObjectHandle(if_ok(rv, object)),
    }
}

/// A handle or a size, or 0 with a call that failed.
fn if_ok(rv: CkRv, number: CK_ULONG) -> u64 {
    if rv.is_ok() { wide(number) } else { 0 }
}

/// A token's label: what stands before the first zero byte, padded with blanks or cut.
fn padded_label(label: &[u8]) -> [CK_UTF8CHAR; 32] {
    let mut padded = [b' '; 32];
    let text = label.iter().take_while(|&&byte| byte != 0);
    for (byte, value) in padded.iter_mut().zip(text) {
        *byte = *value;
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_a_label_with_blanks_and_cuts_it_at_a_zero_byte() {
        assert_eq!(&padded_label(b"gateway")[..9], b"gateway  ");
        assert_eq!(padded_label(b"gate\0way"), padded_label(b"gate"));
        assert_eq!(padded_label(&[b'x'; 40]), [b'x'; 32]);
        assert_eq!(padded_label(b""), [b' '; 32]);
    }

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
