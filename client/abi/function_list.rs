//! Defines the function lists of PKCS#11 2.40, 3.0 and 3.2.

use cryptoki_sys::{CK_FUNCTION_LIST, CK_FUNCTION_LIST_3_0, CK_FUNCTION_LIST_3_2, CK_VERSION};

use super::asynchronous::*;
use super::interfaces::*;
use super::keys::*;
use super::messages::*;
use super::objects::*;
use super::operations::*;
use super::sessions::*;
use super::slots::*;
use super::{C_Finalize, C_GetInfo, C_Initialize};

/// The versions of PKCS#11 that have a function list here.
pub(super) const V2_40: CK_VERSION = version(2, 40);
pub(super) const V3_0: CK_VERSION = version(3, 0);
pub(super) const V3_2: CK_VERSION = version(3, 2);

const fn version(major: u8, minor: u8) -> CK_VERSION {
    CK_VERSION { major, minor }
}

/// Defines the lists. Each version adds functions to those of the version before. No list is ever written to.
macro_rules! function_lists {
    (2.40: $($old:ident)*; 3.0: $($newer:ident)*; 3.2: $($newest:ident)*;) => {
        pub(super) static LIST_2_40: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
            version: V2_40,
            $($old: Some($old)),*
        };

        pub(super) static LIST_3_0: CK_FUNCTION_LIST_3_0 = CK_FUNCTION_LIST_3_0 {
            version: V3_0,
            $($old: Some($old),)*
            $($newer: Some($newer)),*
        };

        pub(super) static LIST_3_2: CK_FUNCTION_LIST_3_2 = CK_FUNCTION_LIST_3_2 {
            version: V3_2,
            $($old: Some($old),)*
            $($newer: Some($newer),)*
            $($newest: Some($newest)),*
        };

        /// The number of functions in each list.
        #[cfg(test)]
        const COUNTS: [usize; 3] = {
            let old = [$(stringify!($old)),*].len();
            let newer = [$(stringify!($newer)),*].len();
            let newest = [$(stringify!($newest)),*].len();
            [old, old + newer, old + newer + newest]
        };
    };
}

function_lists! {
    2.40:
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
        C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent;
    3.0:
        C_GetInterfaceList C_GetInterface
        C_LoginUser C_SessionCancel
        C_MessageEncryptInit C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext
        C_MessageEncryptFinal
        C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext
        C_MessageDecryptFinal
        C_MessageSignInit C_SignMessage C_SignMessageBegin C_SignMessageNext C_MessageSignFinal
        C_MessageVerifyInit C_VerifyMessage C_VerifyMessageBegin C_VerifyMessageNext
        C_MessageVerifyFinal;
    3.2:
        C_EncapsulateKey C_DecapsulateKey
        C_VerifySignatureInit C_VerifySignature C_VerifySignatureUpdate C_VerifySignatureFinal
        C_GetSessionValidationFlags
        C_AsyncComplete C_AsyncGetID C_AsyncJoin
        C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated;
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// Every function of the protocol except the two of the proxy itself, and three that are not in the protocol.
    #[test]
    fn each_list_has_the_functions_of_its_version() {
        assert_eq!(COUNTS, [68, 92, 104]);
        assert_eq!(xdr::Function::ALL.len() - 2 + 3, 104);
        let pointer = size_of::<usize>();
        let sizes = [
            size_of::<CK_FUNCTION_LIST>(),
            size_of::<CK_FUNCTION_LIST_3_0>(),
            size_of::<CK_FUNCTION_LIST_3_2>(),
        ];
        assert_eq!(sizes, COUNTS.map(|count| (count + 1) * pointer));
        assert_eq!(offset_of!(CK_FUNCTION_LIST_3_2, C_Initialize), pointer);
        assert_eq!(
            offset_of!(CK_FUNCTION_LIST_3_2, C_WaitForSlotEvent),
            68 * pointer
        );
        assert_eq!(
            offset_of!(CK_FUNCTION_LIST_3_2, C_UnwrapKeyAuthenticated),
            104 * pointer
        );
    }
}
