//! The 68 functions of PKCS#11 v2.20 as C sees them. Nothing else is exported.
//!
//! Each function checks its arguments, hands a [`Call`] on and writes the answer: pointers become
//! slices and values here, through `memory`, and go no further. Functions of one argument shape are
//! rows of one macro. Order of the checks: initialised or not, arguments, call; outputs are written
//! on CKR_OK only, apart from what the standard says of lengths.
//!
//! What every function asks of its caller is what PKCS#11 says of its arguments (v2.20, section
//! 11): a pointer that is not null points to what its type and length say, for the length of the
//! call. `# Safety` below stands for that.

#![allow(non_snake_case)] // the standard's names
#![allow(clippy::missing_safety_doc)] // one contract for all, above
#![allow(clippy::too_many_arguments)] // the standard's signatures

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BBOOL, CK_BYTE, CK_C_INITIALIZE_ARGS, CK_FLAGS, CK_FUNCTION_LIST, CK_INFO,
    CK_MECHANISM, CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV,
    CK_SESSION_HANDLE, CK_SESSION_INFO, CK_SLOT_ID, CK_SLOT_INFO, CK_TOKEN_INFO, CK_TRUE, CK_ULONG,
    CK_USER_TYPE, CK_UTF8CHAR, CK_VOID_PTR,
};
use xdr::word_size::{narrow, wide};
use xdr::{
    Call, CkRv, Cryptoki, Flags, MechanismType, ObjectHandle, SessionHandle, SlotId, UserType,
};

use crate::attributes;
use crate::library::{Library, ask};
use crate::settings::Environment;
use crate::structures;
use memory::{Place, Places, WantedAttributes};

mod function_list;
pub(crate) mod libcrypto;
mod memory;
pub(crate) mod process;

/// The end of the way for panics: none reaches the application.
fn guard(body: impl FnOnce() -> Result<(), CkRv>) -> CK_RV {
    let rv = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CkRv::OK,
        Ok(Err(rv)) => rv,
        Err(_) => CkRv::GENERAL_ERROR,
    };
    narrow(rv.0)
}

/// A function that needs C_Initialize.
fn enter(body: impl FnOnce(&Library) -> Result<(), CkRv>) -> CK_RV {
    guard(|| body(&*process::instance().library()?))
}

fn session_handle(session: CK_SESSION_HANDLE) -> SessionHandle {
    SessionHandle(wide(session))
}

fn object_handle(object: CK_OBJECT_HANDLE) -> ObjectHandle {
    ObjectHandle(wide(object))
}

fn slot_id(slot: CK_SLOT_ID) -> SlotId {
    SlotId(wide(slot))
}

/// Initialises the library: connects, and initialises the module behind the daemon.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Initialize(arguments: CK_VOID_PTR) -> CK_RV {
    guard(|| {
        let arguments = arguments.cast::<CK_C_INITIALIZE_ARGS>();
        if !arguments.is_null() {
            // SAFETY: not null, so a CK_C_INITIALIZE_ARGS by the contract of this module.
            let arguments = unsafe { arguments.read_unaligned() };
            check_arguments(&arguments)?;
        }
        process::instance().initialize(&Environment::process())
    })
}

/// The system's locks serve whatever the flags say: the application's own functions are neither
/// needed nor called, and no thread is started.
fn check_arguments(arguments: &CK_C_INITIALIZE_ARGS) -> Result<(), CkRv> {
    let mutex_functions = [
        arguments.CreateMutex.is_some(),
        arguments.DestroyMutex.is_some(),
        arguments.LockMutex.is_some(),
        arguments.UnlockMutex.is_some(),
    ];
    let alike = mutex_functions
        .iter()
        .all(|given| *given == mutex_functions[0]);
    if alike && arguments.pReserved.is_null() {
        Ok(())
    } else {
        Err(CkRv::ARGUMENTS_BAD)
    }
}

/// Finalises the module and disconnects.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Finalize(reserved: CK_VOID_PTR) -> CK_RV {
    guard(|| {
        let instance = process::instance();
        instance.library()?;
        if !reserved.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        instance.finalize()
    })
}

/// Hands out the one function list. Needs no connection and no C_Initialize.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    guard(|| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(list) }?;
        place.put((&raw const function_list::FUNCTION_LIST).cast_mut());
        Ok(())
    })
}

/// Functions that fill one structure: what they ask by, and what makes the structure.
macro_rules! information {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty => $value:expr),*)
        -> $structure:ty = $make:expr;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type,)* place: *mut $structure) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let place = unsafe { Place::new(place) }?;
                let result = ask!(library, $name($($value),*))?;
                place.put($make(&result));
                Ok(())
            })
        }
    )*};
}

information! {
    /// Which module answers, and its version.
    C_GetInfo() -> CK_INFO = |result: &xdr::InfoResult| structures::info(&result.info);
    /// About a slot.
    C_GetSlotInfo(slot: CK_SLOT_ID => slot_id(slot)) -> CK_SLOT_INFO
        = |result: &xdr::SlotInfoResult| structures::slot_info(&result.info);
    /// About a token.
    C_GetTokenInfo(slot: CK_SLOT_ID => slot_id(slot)) -> CK_TOKEN_INFO
        = |result: &xdr::TokenInfoResult| structures::token_info(&result.info);
    /// About a mechanism.
    C_GetMechanismInfo(
        slot: CK_SLOT_ID => slot_id(slot),
        mechanism: CK_MECHANISM_TYPE => MechanismType(wide(mechanism))
    ) -> CK_MECHANISM_INFO
        = |result: &xdr::MechanismInfoResult| structures::mechanism_info(&result.info);
    /// About a session.
    C_GetSessionInfo(session: CK_SESSION_HANDLE => session_handle(session)) -> CK_SESSION_INFO
        = |result: &xdr::SessionInfoResult| structures::session_info(&result.info);
    /// The size of an object.
    C_GetObjectSize(
        session: CK_SESSION_HANDLE => session_handle(session),
        object: CK_OBJECT_HANDLE => object_handle(object)
    ) -> CK_ULONG = |result: &xdr::SizeResult| narrow(result.size.0);
}

/// Lists the slots.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSlotList(
    token_present: CK_BBOOL,
    slots: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let places = unsafe { Places::new(slots, count) }?;
        let slots = library.slots(token_present == CK_TRUE, places.room())?;
        places.put(slots.map(|slots| numbers(slots.iter().map(|slot| slot.0))))
    })
}

/// Lists the mechanisms of a token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    mechanisms: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let places = unsafe { Places::new(mechanisms, count) }?;
        let mechanisms = library.mechanisms(slot_id(slot), places.room())?;
        places.put(mechanisms.map(|types| numbers(types.iter().map(|one| one.0))))
    })
}

fn numbers(numbers: impl Iterator<Item = u64>) -> Vec<CK_ULONG> {
    numbers.map(narrow).collect()
}

/// Initialises a token. A null PIN asks for the token's own way of entry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitToken(
    slot: CK_SLOT_ID,
    pin: *mut CK_UTF8CHAR,
    pin_length: CK_ULONG,
    label: *mut CK_UTF8CHAR,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let pin = unsafe { memory::optional_bytes(pin, pin_length) }?;
        // SAFETY: the contract of this module: a label has 32 bytes.
        let label = unsafe { memory::field::<{ xdr::LABEL_SIZE as usize }>(label) }?;
        library.only(Call::C_InitToken(slot_id(slot), pin, label))
    })
}

/// Sets the user's first PIN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitPIN(
    session: CK_SESSION_HANDLE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let pin = unsafe { memory::optional_bytes(pin, length) }?;
        library.only(Call::C_InitPIN(session_handle(session), pin))
    })
}

/// Changes a PIN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetPIN(
    session: CK_SESSION_HANDLE,
    old: *mut CK_UTF8CHAR,
    old_length: CK_ULONG,
    new: *mut CK_UTF8CHAR,
    new_length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let old = unsafe { memory::optional_bytes(old, old_length) }?;
        // SAFETY: the contract of this module.
        let new = unsafe { memory::optional_bytes(new, new_length) }?;
        library.only(Call::C_SetPIN(session_handle(session), old, new))
    })
}

/// Opens a session. Notifications do not cross: `application` and `notify` are not used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: CK_VOID_PTR,
    _notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(session) }?;
        let session = library.open_session(slot_id(slot), Flags(wide(flags)))?;
        place.put(narrow(session.0));
        Ok(())
    })
}

/// Closes a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    enter(|library| library.close_session(session_handle(session)))
}

/// Closes the sessions with a token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    enter(|library| library.close_all_sessions(slot_id(slot)))
}

/// Logs in. A null PIN without length asks for the token's own way of entry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let pin = unsafe { memory::bytes(pin, length) }?;
        let user = UserType(wide(user));
        library.only(Call::C_Login(session_handle(session), user, pin))
    })
}

/// Functions of a session alone.
macro_rules! of_session {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(session: CK_SESSION_HANDLE) -> CK_RV {
            enter(|library| library.only(Call::$name(session_handle(session))))
        }
    )*};
}

of_session! {
    /// Logs out.
    C_Logout;
    /// Ends a search.
    C_FindObjectsFinal;
    /// Obsolete; the module answers.
    C_GetFunctionStatus;
    /// Obsolete; the module answers.
    C_CancelFunction;
}

/// Makes an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CreateObject(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(object) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let made = ask!(library, C_CreateObject(session_handle(session), template))?;
        place.put(narrow(made.object.0));
        Ok(())
    })
}

/// Copies an object, with changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CopyObject(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    copy: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(copy) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, object) = (session_handle(session), object_handle(object));
        let made = ask!(library, C_CopyObject(session, object, template))?;
        place.put(narrow(made.object.0));
        Ok(())
    })
}

/// Destroys an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DestroyObject(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        let (session, object) = (session_handle(session), object_handle(object));
        library.only(Call::C_DestroyObject(session, object))
    })
}

/// Reads attributes of an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let template = unsafe { WantedAttributes::new(template, count) }?;
        let (session, object) = (session_handle(session), object_handle(object));
        let (rv, found) = attributes::values(library, session, object, &template.wanted());
        template.put(&found)?;
        if rv.is_ok() { Ok(()) } else { Err(rv) }
    })
}

/// Changes attributes of an object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        if template.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, object) = (session_handle(session), object_handle(object));
        library.only(Call::C_SetAttributeValue(session, object, template))
    })
}

/// Begins a search.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjectsInit(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        library.only(Call::C_FindObjectsInit(session_handle(session), template))
    })
}

/// Goes on with a search. The places are checked first: what the module found is found once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    most: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let count = unsafe { Place::new(count) }?;
        if objects.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        let room = usize::try_from(most).unwrap_or(usize::MAX);
        let found = library.find_objects(session_handle(session), room)?;
        let found = numbers(found.iter().map(|object| object.0));
        // SAFETY: `find_objects` gives no more than there is room for by the contract.
        unsafe { memory::copy(&found, objects) };
        count.put(found.len() as CK_ULONG);
        Ok(())
    })
}

/// Functions that begin an operation with a key.
macro_rules! beginning_with_key {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            mechanism: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let mechanism = unsafe { memory::mechanism(mechanism) }?;
                let (session, key) = (session_handle(session), object_handle(key));
                library.operate(session, Call::$name(session, mechanism, key))
            })
        }
    )*};
}

beginning_with_key! {
    /// Begins to encrypt.
    C_EncryptInit;
    /// Begins to decrypt.
    C_DecryptInit;
    /// Begins to sign.
    C_SignInit;
    /// Begins to sign with recovery.
    C_SignRecoverInit;
    /// Begins to verify.
    C_VerifyInit;
    /// Begins to verify with recovery.
    C_VerifyRecoverInit;
}

/// Begins to digest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        let session = session_handle(session);
        library.operate(session, Call::C_DigestInit(session, mechanism))
    })
}

/// Functions of a session that make bytes of bytes.
macro_rules! bytes_to_bytes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            input: *mut CK_BYTE,
            input_length: CK_ULONG,
            output: *mut CK_BYTE,
            output_length: *mut CK_ULONG,
        ) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let places = unsafe { Places::new(output, output_length) }?;
                // SAFETY: the contract of this module; output is written when it is no longer used.
                let input = unsafe { memory::bytes(input, input_length) }?;
                let session = session_handle(session);
                let call = Call::$name(session, input);
                let answer = library.two_phase(session, call, input, places.room())?;
                places.put(answer)
            })
        }
    )*};
}

bytes_to_bytes! {
    /// Encrypts.
    C_Encrypt;
    /// Encrypts a part.
    C_EncryptUpdate;
    /// Decrypts.
    C_Decrypt;
    /// Decrypts a part.
    C_DecryptUpdate;
    /// Digests.
    C_Digest;
    /// Signs.
    C_Sign;
    /// Signs, with the data recoverable from the signature.
    C_SignRecover;
    /// Verifies a signature and recovers its data.
    C_VerifyRecover;
    /// Digests and encrypts a part.
    C_DigestEncryptUpdate;
    /// Decrypts and digests a part.
    C_DecryptDigestUpdate;
    /// Signs and encrypts a part.
    C_SignEncryptUpdate;
    /// Decrypts and verifies a part.
    C_DecryptVerifyUpdate;
}

/// Functions of a session that make bytes out of what went before.
macro_rules! to_bytes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            output: *mut CK_BYTE,
            output_length: *mut CK_ULONG,
        ) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let places = unsafe { Places::new(output, output_length) }?;
                let session = session_handle(session);
                let call = Call::$name(session);
                places.put(library.two_phase(session, call, &[], places.room())?)
            })
        }
    )*};
}

to_bytes! {
    /// Ends encrypting.
    C_EncryptFinal;
    /// Ends decrypting.
    C_DecryptFinal;
    /// Ends digesting.
    C_DigestFinal;
    /// Ends signing.
    C_SignFinal;
    /// Reads out the session's operation.
    C_GetOperationState;
}

/// Functions of a session that take bytes.
macro_rules! taking_bytes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            input: *mut CK_BYTE,
            length: CK_ULONG,
        ) -> CK_RV {
            enter(|library| {
                // SAFETY: the contract of this module.
                let input = unsafe { memory::bytes(input, length) }?;
                let session = session_handle(session);
                library.operate(session, Call::$name(session, input))
            })
        }
    )*};
}

taking_bytes! {
    /// Digests a part.
    C_DigestUpdate;
    /// Signs a part.
    C_SignUpdate;
    /// Verifies a part.
    C_VerifyUpdate;
    /// Verifies the signature of all parts.
    C_VerifyFinal;
    /// Adds to the token's randomness.
    C_SeedRandom;
}

/// Digests a key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> CK_RV {
    enter(|library| {
        let session = session_handle(session);
        library.operate(session, Call::C_DigestKey(session, object_handle(key)))
    })
}

/// Verifies.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Verify(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_length: CK_ULONG,
    signature: *mut CK_BYTE,
    signature_length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let data = unsafe { memory::bytes(data, data_length) }?;
        // SAFETY: the contract of this module.
        let signature = unsafe { memory::bytes(signature, signature_length) }?;
        let session = session_handle(session);
        library.operate(session, Call::C_Verify(session, data, signature))
    })
}

/// Puts back an operation read out earlier.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetOperationState(
    session: CK_SESSION_HANDLE,
    state: *mut CK_BYTE,
    length: CK_ULONG,
    encryption_key: CK_OBJECT_HANDLE,
    authentication_key: CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let state = unsafe { memory::bytes(state, length) }?;
        let session = session_handle(session);
        let keys = (
            object_handle(encryption_key),
            object_handle(authentication_key),
        );
        let call = Call::C_SetOperationState(session, state, keys.0, keys.1);
        library.set_operation_state(session, call)
    })
}

/// Makes a key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(key) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let session = session_handle(session);
        let made = ask!(library, C_GenerateKey(session, mechanism, template))?;
        place.put(narrow(made.object.0));
        Ok(())
    })
}

/// Makes a pair of keys.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public_template: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private_template: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let public_place = unsafe { Place::new(public_key) }?;
        // SAFETY: the contract of this module.
        let private_place = unsafe { Place::new(private_key) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        // SAFETY: the contract of this module.
        let public = unsafe { memory::template(public_template, public_count) }?;
        // SAFETY: the contract of this module.
        let private = unsafe { memory::template(private_template, private_count) }?;
        let session = session_handle(session);
        let made = ask!(
            library,
            C_GenerateKeyPair(session, mechanism, public, private)
        )?;
        public_place.put(narrow(made.public_key.0));
        private_place.put(narrow(made.private_key.0));
        Ok(())
    })
}

/// Encrypts a key for transport.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrapping_key: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    wrapped_length: *mut CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let places = unsafe { Places::new(wrapped, wrapped_length) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        let session = session_handle(session);
        let keys = (object_handle(wrapping_key), object_handle(key));
        places.put(library.wrap_key(session, mechanism, keys.0, keys.1, places.room())?)
    })
}

/// Decrypts a key into the token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_UnwrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    unwrapping_key: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    wrapped_length: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(key) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        // SAFETY: the contract of this module.
        let wrapped = unsafe { memory::bytes(wrapped, wrapped_length) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, with) = (session_handle(session), object_handle(unwrapping_key));
        let made = ask!(
            library,
            C_UnwrapKey(session, mechanism, with, wrapped, template)
        )?;
        place.put(narrow(made.object.0));
        Ok(())
    })
}

/// Derives a key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DeriveKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    base_key: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(key) }?;
        // SAFETY: the contract of this module.
        let mechanism = unsafe { memory::mechanism(mechanism) }?;
        // SAFETY: the contract of this module.
        let template = unsafe { memory::template(template, count) }?;
        let (session, base) = (session_handle(session), object_handle(base_key));
        let made = ask!(library, C_DeriveKey(session, mechanism, base, template))?;
        place.put(narrow(made.object.0));
        Ok(())
    })
}

/// Gets random bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateRandom(
    session: CK_SESSION_HANDLE,
    random: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        if random.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        let size = usize::try_from(length).map_err(|_| CkRv::HOST_MEMORY)?;
        let bytes = library.random(session_handle(session), size)?;
        // SAFETY: `random` gives exactly as many bytes as there is room for by the contract.
        unsafe { memory::copy(&bytes, random) };
        Ok(())
    })
}

/// Waits for a slot event, or asks whether there was one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WaitForSlotEvent(
    flags: CK_FLAGS,
    slot: *mut CK_SLOT_ID,
    reserved: CK_VOID_PTR,
) -> CK_RV {
    enter(|library| {
        if !reserved.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        // SAFETY: the contract of this module.
        let place = unsafe { Place::new(slot) }?;
        let slot = library.wait_for_slot_event(Flags(wide(flags)))?;
        place.put(narrow(slot.0));
        Ok(())
    })
}
