//! Exports the functions for encryption, digests, signatures and random numbers: PKCS#11 v3.0, sections 5.8, 5.10,
//! 5.12, 5.13, 5.15, 5.17 and 5.19.

use cryptoki_sys::{CK_BYTE, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG};
use xdr::word_size::wide;
use xdr::{Call, CkRv, Function, Room};
use zeroize::Zeroizing;

use super::memory;
use super::memory::Places;
use super::{enter, object_handle, put_output, session_handle};
use crate::library::TOO_LONG;
use crate::remote::{ask, result};

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
        let read = unsafe { memory::mechanism(mechanism, Function::C_DigestInit) };
        let (mechanism, parameter) = read?;
        let answer = ask!(library, C_DigestInit(session_handle(session), mechanism))?;
        parameter.put(&answer.written)?;
        result(answer.rv)
    })
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

to_bytes! {
    /// Ends encrypting.
    C_EncryptFinal;
    /// Ends decrypting.
    C_DecryptFinal;
    /// Ends digesting.
    C_DigestFinal;
    /// Ends signing.
    C_SignFinal;
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
    /// Verifies the signature that the operation began with.
    C_VerifySignature;
    /// Verifies a part, for the signature that the operation began with.
    C_VerifySignatureUpdate;
    /// Adds to the token's randomness.
    C_SeedRandom;
}

of_session! {
    /// Verifies, after all parts, the signature that the operation began with.
    C_VerifySignatureFinal;
}

/// Begins to verify a signature, which is given here instead of at the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignatureInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    signature: *mut CK_BYTE,
    signature_length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        // SAFETY: the contract of this module.
        let read = unsafe { memory::mechanism(mechanism, Function::C_VerifySignatureInit) };
        let (mechanism, parameter) = read?;
        let too_long = CkRv::SIGNATURE_LEN_RANGE;
        // SAFETY: the contract of this module.
        let signature = unsafe { memory::input(signature, signature_length, too_long) }?;
        let (session, key) = (session_handle(session), object_handle(key));
        let answer = ask!(
            library,
            C_VerifySignatureInit(session, mechanism, key, signature)
        )?;
        parameter.put(&answer.written)?;
        result(answer.rv)
    })
}

/// Digests a key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> CK_RV {
    enter(|library| {
        let session = session_handle(session);
        library.only(Call::C_DigestKey(session, object_handle(key)))
    })
}

/// Verifies the signature of data.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Verify(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_length: CK_ULONG,
    signature: *mut CK_BYTE,
    signature_length: CK_ULONG,
) -> CK_RV {
    enter(|library| {
        let session = session_handle(session);
        // SAFETY: the contract of this module.
        let data = unsafe { memory::input(data, data_length, TOO_LONG) };
        let data = library.checked(session, Function::C_Verify, data)?;
        let too_long = CkRv::SIGNATURE_LEN_RANGE;
        // SAFETY: the contract of this module.
        let signature = unsafe { memory::input(signature, signature_length, too_long) };
        let signature = library.checked(session, Function::C_Verify, signature)?;
        library.only(Call::C_Verify(session, data, signature))
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
        let size = wide(length);
        let room = if random.is_null() {
            Room::Null { length: size }
        } else {
            Room::Buffer(size)
        };
        let answer = ask!(library, C_GenerateRandom(session_handle(session), room))?;
        result(answer.rv)?;
        let bytes = Zeroizing::new(answer.data);
        let is_written = !random.is_null();
        if bytes.len() as u64 != if is_written { size } else { 0 } {
            return Err(CkRv::DEVICE_ERROR);
        }
        // SAFETY: there is room for exactly this many bytes, by the contract; there are none if `random` is NULL.
        unsafe { memory::copy(&bytes, random) };
        Ok(())
    })
}
