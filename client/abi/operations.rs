//! Encryption, digests, signatures and random numbers: PKCS#11 v2.20, sections 11.8 to 11.13 and 11.15.

use cryptoki_sys::{CK_BYTE, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG};
use xdr::{Call, CkRv, Function};

use super::memory;
use super::memory::Places;
use super::{enter, object_handle, session_handle};
use crate::library::TOO_LONG;

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
        let session = session_handle(session);
        // SAFETY: the contract of this module.
        let data = unsafe { memory::bytes(data, data_length, TOO_LONG) };
        let data = library.checked(session, Function::C_Verify, data)?;
        let too_long = CkRv::SIGNATURE_LEN_RANGE;
        // SAFETY: the contract of this module.
        let signature = unsafe { memory::bytes(signature, signature_length, too_long) };
        let signature = library.checked(session, Function::C_Verify, signature)?;
        library.operate(session, Call::C_Verify(session, data, signature))
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
