//! Maps each call to the C function of the module. Calls whose arguments have a common shape are made here.

#![deny(clippy::wildcard_enum_match_arm)]

use xdr::word_size::{narrow, wide};
use xdr::{Call, CkRv, Function, MechanismOutputResult, MechanismResult, NullPlaces, Reply};

use super::Functions;
use super::functions::FIXED_ROOM;
use super::messages::Direction;
use crate::arguments::input;
use crate::outputs::output;

/// Room in bytes beyond the length of the input, where the output grows with the input and the client does not tell its
/// room. It is for padding, a tag, and what a module kept of the previous part.
const GROWTH: usize = 4096;

/// Makes a call with a session.
macro_rules! session {
    ($functions:ident.$name:ident($session:ident)) => {
        Reply::$name(c!($functions.$name(narrow($session.0))))
    };
}

/// Makes a call with a session and bytes.
macro_rules! session_bytes {
    ($functions:ident.$name:ident($session:ident, $bytes:ident)) => {{
        let (bytes, length) = input($bytes);
        Reply::$name(c!($functions.$name(narrow($session.0), bytes, length)))
    }};
}

/// Makes a call with a session that returns bytes.
macro_rules! session_to_bytes {
    ($functions:ident.$name:ident($session:ident, $room:ident)) => {
        Reply::$name(output(
            Function::$name,
            $room,
            FIXED_ROOM,
            |data, length| c!($functions.$name(narrow($session.0), data, length)),
        ))
    };
}

/// Makes a call with a session and bytes that returns bytes. `$usual` is the room if the client does not tell it.
macro_rules! session_bytes_to_bytes {
    ($functions:ident.$name:ident($session:ident, $bytes:ident, $room:ident), $usual:expr) => {{
        let usual = $usual;
        let (bytes, bytes_length) = input($bytes);
        Reply::$name(output(Function::$name, $room, usual, |data, length| {
            c!($functions.$name(narrow($session.0), bytes, bytes_length, data, length))
        }))
    }};
}

/// Returns the room for an output that grows with the input.
macro_rules! grown {
    ($bytes:ident) => {
        $bytes.bytes().len() + GROWTH
    };
}

/// Begins an operation with a key.
macro_rules! init {
    ($functions:ident.$name:ident($session:ident, $mechanism:ident, $key:ident)) => {
        begin!($functions.$name($session, $mechanism), [narrow($key.0)])
    };
}

/// Makes a call with a session, a mechanism, and the C arguments that follow them.
macro_rules! begin {
    ($functions:ident.$name:ident($session:ident, $mechanism:ident), [$($behind:expr),*]) => {
        or_refused!($name, $functions.begin(Function::$name, $session, &$mechanism, |mechanism| {
            c!($functions.$name(narrow($session.0), mechanism $(, $behind)*))
        }))
    };
}

/// Calls a function that makes a key. Takes the C arguments between the mechanism and the template, and those between
/// the template and the handle.
macro_rules! make_key {
    (
        $functions:ident.$name:ident($session:ident, $mechanism:ident, $template:ident, $nulls:ident),
        [$($before:expr),*], [$($behind:expr),*]
    ) => {
        or_refused!($name, $functions.make_key(
            Function::$name,
            &$mechanism,
            $template,
            $nulls,
            |mechanism, (template, count, key)| {
                c!($functions.$name(
                    narrow($session.0), mechanism, $($before,)* template, count, $($behind,)* key
                ))
            },
        ))
    };
}

/// Calls a function that wraps a key. Takes the C arguments between the mechanism and the output.
macro_rules! wrap_key {
    (
        $functions:ident.$name:ident($session:ident, $mechanism:ident, $room:ident),
        [$($before:expr),*]
    ) => {
        or_refused!($name, $functions.wrap_key(
            Function::$name,
            &$mechanism,
            $room,
            |mechanism, data, length| {
                c!($functions.$name(narrow($session.0), mechanism, $($before,)* data, length))
            },
        ))
    };
}

/// Begins an operation on messages.
macro_rules! message_init {
    ($functions:ident.$name:ident($session:ident, $mechanism:ident, $key:ident), $direction:ident) => {
        or_refused!(
            $name,
            $functions.message_init(
                Function::$name,
                Direction::$direction,
                $session,
                &$mechanism,
                |mechanism| c!($functions.$name(narrow($session.0), mechanism, narrow($key.0)))
            )
        )
    };
}

/// Makes a call with a message, or a part of one, without an output. Takes the C arguments behind the parameter.
macro_rules! message {
    (
        $functions:ident.$name:ident($session:ident, $parameter:ident $(, $argument:expr)*),
        $direction:ident
    ) => {
        if $functions.list.$name.is_none() {
            Reply::only(Function::$name, CkRv::FUNCTION_NOT_SUPPORTED)
        } else {
            let called = $functions.message(
                Function::$name,
                Direction::$direction,
                $session,
                &$parameter,
                |address, length| {
                    c!($functions.$name(narrow($session.0), address, length $(, $argument)*))
                },
            );
            or_refused!($name, called.map(|(rv, written)| MechanismResult { rv, written }))
        }
    };
}

/// Makes a call with a message, or a part of one, with an output. Takes the C arguments between the parameter and the
/// output, and those behind the output.
macro_rules! message_to_bytes {
    (
        $functions:ident.$name:ident($session:ident, $parameter:ident, $room:ident, $usual:expr),
        $direction:ident, [$($before:expr),*], [$($behind:expr),*]
    ) => {
        if $functions.list.$name.is_none() {
            Reply::only(Function::$name, CkRv::FUNCTION_NOT_SUPPORTED)
        } else {
            let called = $functions.message(
                Function::$name,
                Direction::$direction,
                $session,
                &$parameter,
                |address, size| {
                    output(Function::$name, $room, $usual, |data, length| {
                        c!($functions.$name(
                            narrow($session.0),
                            address,
                            size,
                            $($before,)*
                            data,
                            length
                            $(, $behind)*
                        ))
                    })
                },
            );
            or_refused!($name, called.map(|(output, written)| MechanismOutputResult {
                rv: output.rv,
                length: output.length,
                data: output.data,
                written,
            }))
        }
    };
}

/// Ends an operation on messages.
macro_rules! message_final {
    ($functions:ident.$name:ident($session:ident), $direction:ident) => {
        Reply::$name(
            $functions.message_final(Direction::$direction, $session, || {
                c!($functions.$name(narrow($session.0)))
            }),
        )
    };
}

/// Builds the reply to a call that may be refused before it reaches the module.
macro_rules! or_refused {
    ($name:ident, $result:expr) => {
        match $result {
            Ok(result) => Reply::$name(result),
            Err(rv) => Reply::only(Function::$name, rv),
        }
    };
}

impl Functions {
    /// Makes the call. The caller must hold a turn.
    pub(super) fn call(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        let f = self;
        match call {
            // The worker answers the first two itself, and `Module` makes the other three.
            Call::C_SetupArch(_)
            | Call::C_LoadModule(_)
            | Call::C_Initialize(_)
            | Call::C_Finalize()
            | Call::C_WaitForSlotEvent(_) => {
                Reply::only(call.function(), CkRv::FUNCTION_NOT_SUPPORTED)
            }

            // General purpose
            Call::C_GetInfo() => Reply::C_GetInfo(Box::new(f.info(nulls))),

            // Slots and tokens
            Call::C_GetSlotList(present, room) => Reply::C_GetSlotList(f.slot_list(present, room)),
            Call::C_GetSlotInfo(slot) => Reply::C_GetSlotInfo(Box::new(f.slot_info(slot, nulls))),
            Call::C_GetTokenInfo(slot) => {
                Reply::C_GetTokenInfo(Box::new(f.token_info(slot, nulls)))
            }
            Call::C_GetMechanismList(slot, room) => {
                Reply::C_GetMechanismList(f.mechanism_list(slot, room))
            }
            Call::C_GetMechanismInfo(slot, mechanism) => {
                Reply::C_GetMechanismInfo(f.mechanism_info(slot, mechanism, nulls))
            }
            Call::C_InitToken(slot, pin, label) => {
                Reply::C_InitToken(f.init_token(slot, pin, label))
            }
            Call::C_InitPIN(session, pin) => Reply::C_InitPIN(f.init_pin(session, pin)),
            Call::C_SetPIN(session, old, new) => Reply::C_SetPIN(f.set_pin(session, old, new)),

            // Sessions
            Call::C_OpenSession(slot, flags, notify) => {
                Reply::C_OpenSession(f.open_session(slot, flags, notify, nulls))
            }
            Call::C_CloseSession(session) => Reply::C_CloseSession(f.close_session(session)),
            Call::C_CloseAllSessions(slot) => Reply::C_CloseAllSessions(f.close_all_sessions(slot)),
            Call::C_GetSessionInfo(session) => {
                Reply::C_GetSessionInfo(f.session_info(session, nulls))
            }
            Call::C_GetOperationState(s, room) => {
                session_to_bytes!(f.C_GetOperationState(s, room))
            }
            Call::C_SetOperationState(session, state, encryption, authentication) => {
                let (state, length) = input(state);
                Reply::C_SetOperationState(f.restoring(session, || {
                    c!(f.C_SetOperationState(
                        narrow(session.0),
                        state,
                        length,
                        narrow(encryption.0),
                        narrow(authentication.0)
                    ))
                }))
            }
            Call::C_Login(session, user, pin) => Reply::C_Login(f.login(session, user, pin)),
            Call::C_LoginUser(session, user, pin, name) => {
                let (pin, pin_length) = input(pin);
                let (name, name_length) = input(name);
                Reply::C_LoginUser(c!(f.C_LoginUser(
                    narrow(session.0),
                    narrow(user.0),
                    pin,
                    pin_length,
                    name,
                    name_length
                )))
            }
            Call::C_Logout(s) => session!(f.C_Logout(s)),
            Call::C_GetFunctionStatus(s) => session!(f.C_GetFunctionStatus(s)),
            Call::C_CancelFunction(s) => session!(f.C_CancelFunction(s)),
            Call::C_SessionCancel(session, flags) => {
                Reply::C_SessionCancel(f.session_cancel(session, flags))
            }
            Call::C_GetSessionValidationFlags(session, kind) => {
                let flags = f.session_validation_flags(session, kind, nulls);
                Reply::C_GetSessionValidationFlags(flags)
            }

            // Objects
            Call::C_CreateObject(session, template) => {
                or_refused!(C_CreateObject, f.create_object(session, template, nulls))
            }
            Call::C_CopyObject(session, object, template) => {
                or_refused!(
                    C_CopyObject,
                    f.copy_object(session, object, template, nulls)
                )
            }
            Call::C_DestroyObject(session, object) => {
                Reply::C_DestroyObject(c!(f.C_DestroyObject(narrow(session.0), narrow(object.0))))
            }
            Call::C_GetObjectSize(session, object) => {
                Reply::C_GetObjectSize(f.object_size(session, object, nulls))
            }
            Call::C_GetAttributeValue(session, object, query) => {
                Reply::C_GetAttributeValue(f.attribute_value(session, object, query))
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
            Call::C_FindObjects(session, room) => {
                Reply::C_FindObjects(f.find_objects(session, room))
            }
            Call::C_FindObjectsFinal(s) => session!(f.C_FindObjectsFinal(s)),

            // Encryption and decryption
            Call::C_EncryptInit(s, mechanism, key) => init!(f.C_EncryptInit(s, mechanism, key)),
            Call::C_Encrypt(s, data, room) => {
                session_bytes_to_bytes!(f.C_Encrypt(s, data, room), grown!(data))
            }
            Call::C_EncryptUpdate(s, part, room) => {
                session_bytes_to_bytes!(f.C_EncryptUpdate(s, part, room), grown!(part))
            }
            Call::C_EncryptFinal(s, room) => session_to_bytes!(f.C_EncryptFinal(s, room)),
            Call::C_DecryptInit(s, mechanism, key) => init!(f.C_DecryptInit(s, mechanism, key)),
            Call::C_Decrypt(s, data, room) => {
                session_bytes_to_bytes!(f.C_Decrypt(s, data, room), grown!(data))
            }
            Call::C_DecryptUpdate(s, part, room) => {
                session_bytes_to_bytes!(f.C_DecryptUpdate(s, part, room), grown!(part))
            }
            Call::C_DecryptFinal(s, room) => session_to_bytes!(f.C_DecryptFinal(s, room)),

            // Digests
            Call::C_DigestInit(s, mechanism) => begin!(f.C_DigestInit(s, mechanism), []),
            Call::C_Digest(s, data, room) => {
                session_bytes_to_bytes!(f.C_Digest(s, data, room), FIXED_ROOM)
            }
            Call::C_DigestUpdate(s, part) => session_bytes!(f.C_DigestUpdate(s, part)),
            Call::C_DigestKey(session, key) => {
                Reply::C_DigestKey(c!(f.C_DigestKey(narrow(session.0), narrow(key.0))))
            }
            Call::C_DigestFinal(s, room) => session_to_bytes!(f.C_DigestFinal(s, room)),

            // Signatures
            Call::C_SignInit(s, mechanism, key) => init!(f.C_SignInit(s, mechanism, key)),
            Call::C_Sign(s, data, room) => {
                session_bytes_to_bytes!(f.C_Sign(s, data, room), FIXED_ROOM)
            }
            Call::C_SignUpdate(s, part) => session_bytes!(f.C_SignUpdate(s, part)),
            Call::C_SignFinal(s, room) => session_to_bytes!(f.C_SignFinal(s, room)),
            Call::C_SignRecoverInit(s, mechanism, key) => {
                init!(f.C_SignRecoverInit(s, mechanism, key))
            }
            Call::C_SignRecover(s, data, room) => {
                session_bytes_to_bytes!(f.C_SignRecover(s, data, room), FIXED_ROOM)
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
            Call::C_VerifyRecover(s, signature, room) => {
                session_bytes_to_bytes!(f.C_VerifyRecover(s, signature, room), grown!(signature))
            }
            Call::C_VerifySignatureInit(s, mechanism, key, signature) => {
                let (signature, length) = input(signature);
                begin!(
                    f.C_VerifySignatureInit(s, mechanism),
                    [narrow(key.0), signature, length]
                )
            }
            Call::C_VerifySignature(s, data) => session_bytes!(f.C_VerifySignature(s, data)),
            Call::C_VerifySignatureUpdate(s, part) => {
                session_bytes!(f.C_VerifySignatureUpdate(s, part))
            }
            Call::C_VerifySignatureFinal(s) => session!(f.C_VerifySignatureFinal(s)),

            // Two operations at once
            Call::C_DigestEncryptUpdate(s, part, room) => {
                session_bytes_to_bytes!(f.C_DigestEncryptUpdate(s, part, room), grown!(part))
            }
            Call::C_DecryptDigestUpdate(s, part, room) => {
                session_bytes_to_bytes!(f.C_DecryptDigestUpdate(s, part, room), grown!(part))
            }
            Call::C_SignEncryptUpdate(s, part, room) => {
                session_bytes_to_bytes!(f.C_SignEncryptUpdate(s, part, room), grown!(part))
            }
            Call::C_DecryptVerifyUpdate(s, part, room) => {
                session_bytes_to_bytes!(f.C_DecryptVerifyUpdate(s, part, room), grown!(part))
            }

            // Messages
            Call::C_MessageEncryptInit(s, mechanism, key) => {
                message_init!(f.C_MessageEncryptInit(s, mechanism, key), Encrypt)
            }
            Call::C_EncryptMessage(s, parameter, associated, plaintext, room) => {
                let usual = grown!(plaintext);
                let (associated, associated_length) = input(associated);
                let (plaintext, plaintext_length) = input(plaintext);
                message_to_bytes!(
                    f.C_EncryptMessage(s, parameter, room, usual),
                    Encrypt,
                    [associated, associated_length, plaintext, plaintext_length],
                    []
                )
            }
            Call::C_EncryptMessageBegin(s, parameter, associated) => {
                let (associated, length) = input(associated);
                message!(
                    f.C_EncryptMessageBegin(s, parameter, associated, length),
                    Encrypt
                )
            }
            Call::C_EncryptMessageNext(s, parameter, part, room, flags) => {
                let usual = grown!(part);
                let (part, part_length) = input(part);
                message_to_bytes!(
                    f.C_EncryptMessageNext(s, parameter, room, usual),
                    Encrypt,
                    [part, part_length],
                    [narrow(flags.0)]
                )
            }
            Call::C_MessageEncryptFinal(s) => message_final!(f.C_MessageEncryptFinal(s), Encrypt),
            Call::C_MessageDecryptInit(s, mechanism, key) => {
                message_init!(f.C_MessageDecryptInit(s, mechanism, key), Decrypt)
            }
            Call::C_DecryptMessage(s, parameter, associated, ciphertext, room) => {
                let usual = grown!(ciphertext);
                let (associated, associated_length) = input(associated);
                let (ciphertext, ciphertext_length) = input(ciphertext);
                message_to_bytes!(
                    f.C_DecryptMessage(s, parameter, room, usual),
                    Decrypt,
                    [associated, associated_length, ciphertext, ciphertext_length],
                    []
                )
            }
            Call::C_DecryptMessageBegin(s, parameter, associated) => {
                let (associated, length) = input(associated);
                message!(
                    f.C_DecryptMessageBegin(s, parameter, associated, length),
                    Decrypt
                )
            }
            Call::C_DecryptMessageNext(s, parameter, part, room, flags) => {
                let usual = grown!(part);
                let (part, part_length) = input(part);
                message_to_bytes!(
                    f.C_DecryptMessageNext(s, parameter, room, usual),
                    Decrypt,
                    [part, part_length],
                    [narrow(flags.0)]
                )
            }
            Call::C_MessageDecryptFinal(s) => message_final!(f.C_MessageDecryptFinal(s), Decrypt),
            Call::C_MessageSignInit(s, mechanism, key) => {
                message_init!(f.C_MessageSignInit(s, mechanism, key), Sign)
            }
            Call::C_SignMessage(s, parameter, data, room) => {
                let (data, data_length) = input(data);
                message_to_bytes!(
                    f.C_SignMessage(s, parameter, room, FIXED_ROOM),
                    Sign,
                    [data, data_length],
                    []
                )
            }
            Call::C_SignMessageBegin(s, parameter) => {
                message!(f.C_SignMessageBegin(s, parameter), Sign)
            }
            Call::C_SignMessageNext(s, parameter, part, room) => {
                let (part, part_length) = input(part);
                message_to_bytes!(
                    f.C_SignMessageNext(s, parameter, room, FIXED_ROOM),
                    Sign,
                    [part, part_length],
                    []
                )
            }
            Call::C_MessageSignFinal(s) => message_final!(f.C_MessageSignFinal(s), Sign),
            Call::C_MessageVerifyInit(s, mechanism, key) => {
                message_init!(f.C_MessageVerifyInit(s, mechanism, key), Verify)
            }
            Call::C_VerifyMessage(s, parameter, data, signature) => {
                let (data, data_length) = input(data);
                let (signature, signature_length) = input(signature);
                message!(
                    f.C_VerifyMessage(s, parameter, data, data_length, signature, signature_length),
                    Verify
                )
            }
            Call::C_VerifyMessageBegin(s, parameter) => {
                message!(f.C_VerifyMessageBegin(s, parameter), Verify)
            }
            Call::C_VerifyMessageNext(s, parameter, part, signature) => {
                let (part, part_length) = input(part);
                let (signature, signature_length) = input(signature);
                message!(
                    f.C_VerifyMessageNext(
                        s,
                        parameter,
                        part,
                        part_length,
                        signature,
                        signature_length
                    ),
                    Verify
                )
            }
            Call::C_MessageVerifyFinal(s) => message_final!(f.C_MessageVerifyFinal(s), Verify),

            // Keys
            Call::C_GenerateKey(s, mechanism, template) => {
                make_key!(f.C_GenerateKey(s, mechanism, template, nulls), [], [])
            }
            Call::C_GenerateKeyPair(session, mechanism, public, private) => {
                or_refused!(
                    C_GenerateKeyPair,
                    f.generate_key_pair(session, &mechanism, public, private, nulls)
                )
            }
            Call::C_WrapKey(s, mechanism, wrapping, key, room) => {
                wrap_key!(
                    f.C_WrapKey(s, mechanism, room),
                    [narrow(wrapping.0), narrow(key.0)]
                )
            }
            Call::C_WrapKeyAuthenticated(s, mechanism, wrapping, key, associated, room) => {
                let (associated, length) = input(associated);
                wrap_key!(
                    f.C_WrapKeyAuthenticated(s, mechanism, room),
                    [narrow(wrapping.0), narrow(key.0), associated, length]
                )
            }
            Call::C_UnwrapKey(s, mechanism, key, wrapped, template) => {
                let (wrapped, length) = input(wrapped);
                make_key!(
                    f.C_UnwrapKey(s, mechanism, template, nulls),
                    [narrow(key.0), wrapped, length],
                    []
                )
            }
            Call::C_UnwrapKeyAuthenticated(s, mechanism, key, wrapped, template, associated) => {
                let (wrapped, wrapped_length) = input(wrapped);
                let (associated, length) = input(associated);
                make_key!(
                    f.C_UnwrapKeyAuthenticated(s, mechanism, template, nulls),
                    [narrow(key.0), wrapped, wrapped_length],
                    [associated, length]
                )
            }
            Call::C_DeriveKey(s, mechanism, key, template) => {
                make_key!(
                    f.C_DeriveKey(s, mechanism, template, nulls),
                    [narrow(key.0)],
                    []
                )
            }
            Call::C_EncapsulateKey(session, mechanism, key, template, room) => {
                or_refused!(
                    C_EncapsulateKey,
                    f.encapsulate_key(session, &mechanism, key, template, room, nulls)
                )
            }
            Call::C_DecapsulateKey(s, mechanism, key, template, ciphertext) => {
                let (ciphertext, length) = input(ciphertext);
                make_key!(
                    f.C_DecapsulateKey(s, mechanism, template, nulls),
                    [narrow(key.0)],
                    [ciphertext, length]
                )
            }

            // Asynchronous sessions, which no client has
            Call::C_AsyncComplete(session, function) => {
                or_refused!(C_AsyncComplete, f.async_complete(session, function, nulls))
            }
            Call::C_AsyncGetID(session, function) => {
                or_refused!(C_AsyncGetID, f.async_id(session, function, nulls))
            }
            Call::C_AsyncJoin(session, function, id, _) => {
                or_refused!(C_AsyncJoin, f.async_join(session, function, id))
            }

            // Random numbers
            Call::C_SeedRandom(s, seed) => session_bytes!(f.C_SeedRandom(s, seed)),
            Call::C_GenerateRandom(session, room) => {
                Reply::C_GenerateRandom(f.generate_random(session, room))
            }
        }
    }
}
