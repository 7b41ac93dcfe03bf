//! The function list of `C_GetFunctionList`: PKCS#11 v2.20, all 68 functions.

use cryptoki_sys::{CK_FUNCTION_LIST, CK_VERSION};

use super::keys::*;
use super::objects::*;
use super::operations::*;
use super::sessions::*;
use super::slots::*;
use super::{C_Finalize, C_GetFunctionList, C_GetInfo, C_Initialize};

macro_rules! function_list {
    ($($name:ident)*) => {
        CK_FUNCTION_LIST {
            version: CK_VERSION { major: 2, minor: 20 },
            $($name: Some($name)),*
        }
    };
}

/// The one list an application ever gets. Never written to.
pub(super) static FUNCTION_LIST: CK_FUNCTION_LIST = function_list! {
    C_Initialize C_Finalize C_GetInfo C_GetFunctionList
    C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo
    C_InitToken C_InitPIN C_SetPIN
    C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo
    C_GetOperationState C_SetOperationState C_Login C_Logout
    C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
    C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal
    C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal
    C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal
    C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal
    C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover
    C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover
    C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate
    C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey
    C_SeedRandom C_GenerateRandom
    C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
};

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// Each function of the wire but the two of the proxy itself, and C_GetFunctionList, which is
    /// not on the wire: 68 pointers behind the version.
    #[test]
    fn has_the_68_functions_of_v2_20() {
        assert_eq!(xdr::version3::FUNCTIONS.len() - 2 + 1, 68);
        let pointer = size_of::<usize>();
        assert_eq!(size_of::<CK_FUNCTION_LIST>(), 69 * pointer);
        assert_eq!(offset_of!(CK_FUNCTION_LIST, C_Initialize), pointer);
        assert_eq!(
            offset_of!(CK_FUNCTION_LIST, C_WaitForSlotEvent),
            68 * pointer
        );
    }
}
