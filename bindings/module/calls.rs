//! Maps each call to the C function of the module. Calls of a common shape are made here.

#![deny(clippy::wildcard_enum_match_arm)]

use std::ptr::null_mut;

use xdr::word_size::{narrow, wide};
use xdr::{Call, CkRv, Cryptoki, Function, Reply};

use super::Module;
use super::functions::FIXED_ROOM;
use crate::arguments::{input, output};

/// Room beyond the length of the input, where the output grows with the input: for padding, a tag,
/// and what a module kept of the previous part.
const GROWTH: usize = 4096;

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

/// The reply to a call that may be refused before it reaches the module.
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
