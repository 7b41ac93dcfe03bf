//! Exports the functions for single messages, which are encrypted, decrypted, signed and verified one by one: PKCS#11
//! v3.0, sections 5.9, 5.11, 5.14 and 5.16.
//!
//! The structure of a message's parameter depends on the mechanism that the operation began with. The library remembers
//! that mechanism for each session and sends it with each message.

use std::ffi::c_void;

use cryptoki_sys::{
    CK_BYTE, CK_FLAGS, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG,
};
use xdr::word_size::wide;
use xdr::{Call, Flags, Function};

use super::memory::{self, Places};
use super::{enter, object_handle, put_bytes, session_handle};
use crate::library::TOO_LONG;
use crate::remote::{ask, result};

/// Defines message functions from their arguments after the session and the parameter, and the values made of these.
macro_rules! of_message {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> {$($made:expr),*};)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            parameter: *mut c_void,
            parameter_length: CK_ULONG,
            $($argument: $type),*
        ) -> CK_RV {
            enter(|library| {
                let session = session_handle(session);
                let length = parameter_length;
                // SAFETY: the contract of this module.
                let read = unsafe {
                    memory::message_parameter(library, session, Function::$name, parameter, length)
                };
                let (parameter, inside) = read?;
                let answer = ask!(library, $name(session, parameter $(, $made)*))?;
                inside.put(&answer.written)?;
                result(answer.rv)
            })
        }
    )*};
}

/// Defines message functions that also return bytes.
macro_rules! of_message_to_bytes {
    ($($(#[$doc:meta])* $name:ident(
        $($argument:ident: $type:ty),*; output $(, $last:ident: $last_type:ty)?
    ) -> {$($made:expr),*; $($last_made:expr)?};)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            parameter: *mut c_void,
            parameter_length: CK_ULONG,
            $($argument: $type,)*
            output: *mut CK_BYTE,
            output_length: *mut CK_ULONG,
            $($last: $last_type)?
        ) -> CK_RV {
            enter(|library| {
                let session = session_handle(session);
                // SAFETY: the contract of this module.
                let places = unsafe { Places::new(output, output_length) };
                let length = parameter_length;
                // SAFETY: the contract of this module.
                let read = unsafe {
                    memory::message_parameter(library, session, Function::$name, parameter, length)
                };
                let (parameter, inside) = read?;
                let room = places.room();
                let answer =
                    ask!(library, $name(session, parameter, $($made,)* room $(, $last_made)?))?;
                inside.put(&answer.written)?;
                put_bytes(places, Function::$name, answer.rv, answer.length, answer.data)
            })
        }
    )*};
}

/// Reads a byte string from two arguments.
macro_rules! bytes {
    ($first:ident, $length:ident) => {{
        // SAFETY: the contract of this module.
        let input = unsafe { memory::input($first, $length, TOO_LONG) };
        input?
    }};
}

beginning_with_key! {
    /// Begins to encrypt messages.
    C_MessageEncryptInit;
    /// Begins to decrypt messages.
    C_MessageDecryptInit;
    /// Begins to sign messages.
    C_MessageSignInit;
    /// Begins to verify messages.
    C_MessageVerifyInit;
}

of_message_to_bytes! {
    /// Encrypts a message.
    C_EncryptMessage(
        associated: *mut CK_BYTE, associated_length: CK_ULONG,
        plaintext: *mut CK_BYTE, plaintext_length: CK_ULONG; output
    ) -> {bytes!(associated, associated_length), bytes!(plaintext, plaintext_length);};
    /// Encrypts a part of a message.
    C_EncryptMessageNext(
        part: *mut CK_BYTE, part_length: CK_ULONG; output, flags: CK_FLAGS
    ) -> {bytes!(part, part_length); Flags(wide(flags))};
    /// Decrypts a message.
    C_DecryptMessage(
        associated: *mut CK_BYTE, associated_length: CK_ULONG,
        ciphertext: *mut CK_BYTE, ciphertext_length: CK_ULONG; output
    ) -> {bytes!(associated, associated_length), bytes!(ciphertext, ciphertext_length);};
    /// Decrypts a part of a message.
    C_DecryptMessageNext(
        part: *mut CK_BYTE, part_length: CK_ULONG; output, flags: CK_FLAGS
    ) -> {bytes!(part, part_length); Flags(wide(flags))};
    /// Signs a message.
    C_SignMessage(data: *mut CK_BYTE, data_length: CK_ULONG; output)
        -> {bytes!(data, data_length);};
    /// Signs a part of a message. More parts follow if the pointer to the length is NULL.
    C_SignMessageNext(part: *mut CK_BYTE, part_length: CK_ULONG; output)
        -> {bytes!(part, part_length);};
}

of_message! {
    /// Begins a message to encrypt in parts.
    C_EncryptMessageBegin(associated: *mut CK_BYTE, associated_length: CK_ULONG)
        -> {bytes!(associated, associated_length)};
    /// Begins a message to decrypt in parts.
    C_DecryptMessageBegin(associated: *mut CK_BYTE, associated_length: CK_ULONG)
        -> {bytes!(associated, associated_length)};
    /// Begins a message to sign in parts.
    C_SignMessageBegin() -> {};
    /// Begins a message to verify in parts.
    C_VerifyMessageBegin() -> {};
    /// Verifies a message.
    C_VerifyMessage(
        data: *mut CK_BYTE, data_length: CK_ULONG,
        signature: *mut CK_BYTE, signature_length: CK_ULONG
    ) -> {bytes!(data, data_length), bytes!(signature, signature_length)};
    /// Verifies a part of a message. More parts follow if the signature is NULL.
    C_VerifyMessageNext(
        part: *mut CK_BYTE, part_length: CK_ULONG,
        signature: *mut CK_BYTE, signature_length: CK_ULONG
    ) -> {bytes!(part, part_length), bytes!(signature, signature_length)};
}

of_session! {
    /// Ends encrypting messages.
    C_MessageEncryptFinal;
    /// Ends decrypting messages.
    C_MessageDecryptFinal;
    /// Ends signing messages.
    C_MessageSignFinal;
    /// Ends verifying messages.
    C_MessageVerifyFinal;
}
