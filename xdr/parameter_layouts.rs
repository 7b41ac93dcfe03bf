//! Lists the layout of every mechanism parameter of the standard: which fields its C structure has,
//! and which of them are addresses, lengths and handles.
//!
//! `mechanism` decodes parameters by this table. The data that a pointer refers to is not sent.

use std::ops::Range;

use cryptoki_sys::*;

use crate::word_size::Abi;

/// One field of a C structure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Field {
    /// A CK_ULONG: a number, a mechanism.
    Ulong,
    /// The handle of a key or certificate that the mechanism uses as well.
    Handle,
    /// A CK_ULONG that is the length of what a pointer in the structure refers to.
    Length,
    /// An address, in the client's process.
    Pointer,
    /// Bytes in their own order: an IV, a CK_BBOOL.
    Bytes(usize),
}

use Field::{Bytes as B, Handle as H, Length as L, Pointer as P, Ulong as U};

const BOOL: Field = B(1);

/// A C structure, field by field.
pub(crate) type Layout = &'static [Field];

/// The layouts that a mechanism's parameter may have, distinguished by their sizes. Without a
/// layout the parameter is a byte string such as an IV, or there is none, or the mechanism is not
/// in the standard.
///
/// From PKCS#11 v2.20, its amendments, v2.40, v3.0, v3.1 and v3.2. A structure inside of another is
/// written out.
pub(crate) fn of(mechanism: CK_MECHANISM_TYPE) -> &'static [Layout] {
    match mechanism {
        // RSA
        CKM_RSA_PKCS_PSS
        | CKM_SHA1_RSA_PKCS_PSS
        | CKM_SHA224_RSA_PKCS_PSS
        | CKM_SHA256_RSA_PKCS_PSS
        | CKM_SHA384_RSA_PKCS_PSS
        | CKM_SHA512_RSA_PKCS_PSS
        | CKM_SHA3_224_RSA_PKCS_PSS
        | CKM_SHA3_256_RSA_PKCS_PSS
        | CKM_SHA3_384_RSA_PKCS_PSS
        | CKM_SHA3_512_RSA_PKCS_PSS => &[&[U, U, U]],
        CKM_RSA_PKCS_OAEP | CKM_RSA_PKCS_OAEP_TPM_1_1 => &[&[U, U, U, P, L]],
        CKM_RSA_AES_KEY_WRAP => &[&[U, P]],
        CKM_KEY_WRAP_SET_OAEP => &[&[B(1), P, L]],

        // DSA, Diffie-Hellman, elliptic curves
        CKM_DSA_PROBABILISTIC_PARAMETER_GEN
        | CKM_DSA_SHAWE_TAYLOR_PARAMETER_GEN
        | CKM_DSA_FIPS_G_GEN => &[&[U, P, L, U]],
        CKM_X9_42_DH_DERIVE | CKM_ECDH1_DERIVE | CKM_ECDH1_COFACTOR_DERIVE => &[&[U, L, P, L, P]],
        CKM_X9_42_DH_HYBRID_DERIVE => &[&[U, L, P, L, P, L, H, L, P]],
        CKM_X9_42_MQV_DERIVE | CKM_ECMQV_DERIVE => &[&[U, L, P, L, P, L, H, L, P, H]],
        CKM_ECDH_AES_KEY_WRAP | CKM_ECDH_X_AES_KEY_WRAP | CKM_ECDH_COF_AES_KEY_WRAP => {
            &[&[U, U, L, P]]
        }
        CKM_EDDSA => &[&[BOOL, L, P]],
        CKM_XEDDSA => &[&[U]],
        CKM_X3DH_INITIALIZE => &[&[U, H, H, P, P, H, H]],
        CKM_X3DH_RESPOND => &[&[U, P, P, P, H, P]],
        CKM_X2RATCHET_INITIALIZE | CKM_X2RATCHET_RESPOND => &[&[P, H, H, H, BOOL, U, U, U]],

        // Lattices and hashes
        CKM_ML_DSA
        | CKM_HASH_ML_DSA_SHA224
        | CKM_HASH_ML_DSA_SHA256
        | CKM_HASH_ML_DSA_SHA384
        | CKM_HASH_ML_DSA_SHA512
        | CKM_HASH_ML_DSA_SHA3_224
        | CKM_HASH_ML_DSA_SHA3_256
        | CKM_HASH_ML_DSA_SHA3_384
        | CKM_HASH_ML_DSA_SHA3_512
        | CKM_HASH_ML_DSA_SHAKE128
        | CKM_HASH_ML_DSA_SHAKE256
        | CKM_SLH_DSA
        | CKM_HASH_SLH_DSA_SHA224
        | CKM_HASH_SLH_DSA_SHA256
        | CKM_HASH_SLH_DSA_SHA384
        | CKM_HASH_SLH_DSA_SHA512
        | CKM_HASH_SLH_DSA_SHA3_224
        | CKM_HASH_SLH_DSA_SHA3_256
        | CKM_HASH_SLH_DSA_SHA3_384
        | CKM_HASH_SLH_DSA_SHA3_512
        | CKM_HASH_SLH_DSA_SHAKE128
        | CKM_HASH_SLH_DSA_SHAKE256 => &[&[U, P, L]],
        CKM_HASH_ML_DSA | CKM_HASH_SLH_DSA => &[&[U, P, L, U]],

        // Block and stream ciphers
        CKM_RC2_ECB | CKM_RC2_MAC => &[&[U]],
        CKM_RC2_CBC | CKM_RC2_CBC_PAD => &[&[U, B(8)]],
        CKM_RC2_MAC_GENERAL => &[&[U, U]],
        CKM_RC5_ECB | CKM_RC5_MAC => &[&[U, U]],
        CKM_RC5_CBC | CKM_RC5_CBC_PAD => &[&[U, U, P, L]],
        CKM_RC5_MAC_GENERAL => &[&[U, U, U]],
        CKM_AES_CTR | CKM_CAMELLIA_CTR => &[&[U, B(16)]],
        // v2.20 and v2.30 lack ulIvBits. It counts as a length: a module of then finds pAAD there.
        CKM_AES_GCM | CKM_AES_GMAC => &[&[P, L, L, P, L, U], &[P, L, P, L, U]],
        CKM_AES_CCM => &[&[U, P, L, P, L, U]],
        CKM_CHACHA20 => &[&[P, L, P, L]],
        CKM_SALSA20 => &[&[P, P, L]],
        CKM_CHACHA20_POLY1305 | CKM_SALSA20_POLY1305 => &[&[P, L, P, L]],
        CKM_SKIPJACK_PRIVATE_WRAP => &[&[L, P, L, P, L, L, L, P, P, P, P]],
        CKM_SKIPJACK_RELAYX => &[&[L, P, L, P, L, P, L, P, L, P, L, P, L, P]],
        CKM_KEA_KEY_DERIVE | CKM_KEA_DERIVE => &[&[BOOL, L, P, P, L, P]],
        CKM_GOSTR3410_KEY_WRAP => &[&[P, L, P, L, H]],
        CKM_GOSTR3410_DERIVE => &[&[U, P, L, P, L]],

        // MACs and digests cut to a length: CK_MAC_GENERAL_PARAMS
        CKM_DES_MAC_GENERAL
        | CKM_DES3_MAC_GENERAL
        | CKM_DES3_CMAC_GENERAL
        | CKM_CDMF_MAC_GENERAL
        | CKM_CAST_MAC_GENERAL
        | CKM_CAST3_MAC_GENERAL
        | CKM_CAST128_MAC_GENERAL
        | CKM_IDEA_MAC_GENERAL
        | CKM_CAMELLIA_MAC_GENERAL
        | CKM_ARIA_MAC_GENERAL
        | CKM_SEED_MAC_GENERAL
        | CKM_AES_MAC_GENERAL
        | CKM_AES_CMAC_GENERAL
        | CKM_MD2_HMAC_GENERAL
        | CKM_MD5_HMAC_GENERAL
        | CKM_SHA_1_HMAC_GENERAL
        | CKM_RIPEMD128_HMAC_GENERAL
        | CKM_RIPEMD160_HMAC_GENERAL
        | CKM_SHA224_HMAC_GENERAL
        | CKM_SHA256_HMAC_GENERAL
        | CKM_SHA384_HMAC_GENERAL
        | CKM_SHA512_HMAC_GENERAL
        | CKM_SHA512_224_HMAC_GENERAL
        | CKM_SHA512_256_HMAC_GENERAL
        | CKM_SHA512_T
        | CKM_SHA512_T_HMAC
        | CKM_SHA512_T_HMAC_GENERAL
        | CKM_SHA512_T_KEY_DERIVATION
        | CKM_SHA3_224_HMAC_GENERAL
        | CKM_SHA3_256_HMAC_GENERAL
        | CKM_SHA3_384_HMAC_GENERAL
        | CKM_SHA3_512_HMAC_GENERAL
        | CKM_BLAKE2B_160_HMAC_GENERAL
        | CKM_BLAKE2B_256_HMAC_GENERAL
        | CKM_BLAKE2B_384_HMAC_GENERAL
        | CKM_BLAKE2B_512_HMAC_GENERAL
        | CKM_SSL3_MD5_MAC
        | CKM_SSL3_SHA1_MAC => &[&[U]],

        // Keys made of keys
        CKM_CONCATENATE_BASE_AND_KEY => &[&[H]],
        CKM_EXTRACT_KEY_FROM_KEY => &[&[U]],
        CKM_CONCATENATE_BASE_AND_DATA
        | CKM_CONCATENATE_DATA_AND_BASE
        | CKM_XOR_BASE_AND_DATA
        | CKM_DES_ECB_ENCRYPT_DATA
        | CKM_DES3_ECB_ENCRYPT_DATA
        | CKM_AES_ECB_ENCRYPT_DATA
        | CKM_CAMELLIA_ECB_ENCRYPT_DATA
        | CKM_ARIA_ECB_ENCRYPT_DATA
        | CKM_SEED_ECB_ENCRYPT_DATA => &[&[P, L]],
        CKM_DES_CBC_ENCRYPT_DATA | CKM_DES3_CBC_ENCRYPT_DATA => &[&[B(8), P, L]],
        CKM_AES_CBC_ENCRYPT_DATA
        | CKM_CAMELLIA_CBC_ENCRYPT_DATA
        | CKM_ARIA_CBC_ENCRYPT_DATA
        | CKM_SEED_CBC_ENCRYPT_DATA => &[&[B(16), P, L]],
        CKM_HKDF_DERIVE | CKM_HKDF_DATA => &[&[BOOL, BOOL, U, U, P, L, H, P, L]],
        CKM_SP800_108_COUNTER_KDF | CKM_SP800_108_DOUBLE_PIPELINE_KDF => &[&[U, L, P, L, P]],
        CKM_SP800_108_FEEDBACK_KDF => &[&[U, L, P, L, P, L, P]],
        CKM_IKE2_PRF_PLUS_DERIVE | CKM_IKE1_EXTENDED_DERIVE => &[&[U, BOOL, H, P, L]],
        CKM_IKE_PRF_DERIVE => &[&[U, BOOL, BOOL, P, L, P, L, H]],
        CKM_IKE1_PRF_DERIVE => &[&[U, BOOL, H, H, P, L, P, L, B(1)]],

        // Passwords. Up to v2.40 the last field of PBKDF2 is a pointer to the length.
        CKM_PBE_MD2_DES_CBC
        | CKM_PBE_MD5_DES_CBC
        | CKM_PBE_MD5_CAST_CBC
        | CKM_PBE_MD5_CAST3_CBC
        | CKM_PBE_MD5_CAST128_CBC
        | CKM_PBE_SHA1_CAST128_CBC
        | CKM_PBE_SHA1_RC4_128
        | CKM_PBE_SHA1_RC4_40
        | CKM_PBE_SHA1_DES3_EDE_CBC
        | CKM_PBE_SHA1_DES2_EDE_CBC
        | CKM_PBE_SHA1_RC2_128_CBC
        | CKM_PBE_SHA1_RC2_40_CBC
        | CKM_PBA_SHA1_WITH_SHA1_HMAC => &[&[P, P, L, P, L, U]],
        CKM_PKCS5_PBKD2 => &[&[U, P, L, U, U, P, L, P, P]],
        CKM_SECURID | CKM_HOTP | CKM_ACTI => &[&[P, L]],
        CKM_KIP_DERIVE | CKM_KIP_WRAP | CKM_KIP_MAC => &[&[P, H, P, L]],
        CKM_CMS_SIG => &[&[H, P, P, P, P, L, P, L]],

        // SSL, TLS, WTLS; the randoms of client and server are P, L, P, L
        CKM_SSL3_MASTER_KEY_DERIVE
        | CKM_SSL3_MASTER_KEY_DERIVE_DH
        | CKM_TLS_MASTER_KEY_DERIVE
        | CKM_TLS_MASTER_KEY_DERIVE_DH => &[&[P, L, P, L, P]],
        CKM_SSL3_KEY_AND_MAC_DERIVE | CKM_TLS_KEY_AND_MAC_DERIVE => {
            &[&[U, U, U, BOOL, P, L, P, L, P]]
        }
        CKM_TLS12_MASTER_KEY_DERIVE | CKM_TLS12_MASTER_KEY_DERIVE_DH => &[&[P, L, P, L, P, U]],
        CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE | CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH => {
            &[&[U, P, L, P]]
        }
        CKM_TLS12_KEY_AND_MAC_DERIVE | CKM_TLS12_KEY_SAFE_DERIVE => {
            &[&[U, U, U, BOOL, P, L, P, L, P, U]]
        }
        CKM_TLS_MAC | CKM_TLS12_MAC | CKM_TLS10_MAC_SERVER | CKM_TLS10_MAC_CLIENT => &[&[U, U, U]],
        CKM_TLS_KDF | CKM_TLS12_KDF => &[&[U, P, L, P, L, P, L, P, L]],
        CKM_TLS_PRF => &[&[P, L, P, L, P, P]],
        CKM_WTLS_MASTER_KEY_DERIVE | CKM_WTLS_MASTER_KEY_DERIVE_DH_ECC => &[&[U, P, L, P, L, P]],
        CKM_WTLS_SERVER_KEY_AND_MAC_DERIVE | CKM_WTLS_CLIENT_KEY_AND_MAC_DERIVE => {
            &[&[U, U, U, U, U, BOOL, P, L, P, L, P]]
        }
        CKM_WTLS_PRF => &[&[U, P, L, P, L, P, P]],

        _ => &[],
    }
}

/// Whether a parameter of this mechanism names keys or certificates.
pub(crate) fn name_keys(mechanism: CK_MECHANISM_TYPE) -> bool {
    let names_some = |layout: &Layout| layout.contains(&Field::Handle);
    of(mechanism).iter().any(names_some)
}

/// The layout that has this size.
pub(crate) fn of_size(length: usize, layouts: &'static [Layout], abi: Abi) -> Option<Layout> {
    let mut layouts = layouts.iter().copied();
    layouts.find(|layout| size(layout, abi) == length)
}

pub(crate) fn has_pointers(layout: Layout) -> bool {
    layout.contains(&Field::Pointer)
}

/// Where C puts each field: at the next multiple of its own alignment.
pub(crate) fn places(
    layout: Layout,
    abi: Abi,
) -> impl Iterator<Item = (Field, Range<usize>)> + use<> {
    layout.iter().scan(0_usize, move |end, &field| {
        let start = end.next_multiple_of(abi.alignment(field));
        *end = start + abi.size(field);
        Some((field, start..*end))
    })
}

/// The size of the structure, its padding at the end included.
pub(crate) fn size(layout: Layout, abi: Abi) -> usize {
    let end = places(layout, abi).last().map_or(0, |(_, place)| place.end);
    let alignment = layout.iter().map(|&field| abi.alignment(field)).max();
    end.next_multiple_of(alignment.unwrap_or(1))
}

impl Abi {
    fn size(self, field: Field) -> usize {
        match field {
            Field::Ulong | Field::Handle | Field::Length => self.word,
            Field::Pointer => self.pointer,
            Field::Bytes(size) => size,
        }
    }

    fn alignment(self, field: Field) -> usize {
        match field {
            Field::Bytes(_) => 1,
            Field::Ulong | Field::Handle | Field::Length | Field::Pointer if self.packed => 1,
            Field::Ulong | Field::Handle | Field::Length | Field::Pointer => self.size(field),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanism_names;
    use crate::word_size::wide;

    /// Which field of the table a field of this C type is.
    trait Kind {
        const FIELD: Field;
    }
    impl Kind for CK_ULONG {
        const FIELD: Field = U;
    }
    impl<T> Kind for *mut T {
        const FIELD: Field = P;
    }
    impl Kind for u8 {
        const FIELD: Field = B(1);
    }
    impl<const SIZE: usize> Kind for [u8; SIZE] {
        const FIELD: Field = B(SIZE);
    }

    fn kind<S, T: Kind>(_: fn(S) -> T) -> Field {
        T::FIELD
    }

    fn same_as_c(mechanism: CK_MECHANISM_TYPE, c_size: usize, c_fields: &[(Field, usize)]) {
        let name = mechanism_names::name(wide(mechanism)).expect("a standard mechanism");
        let layout = of(mechanism).first().expect(name);
        let fields: Vec<(Field, usize)> = places(layout, Abi::HOST)
            .map(|(field, place)| match field {
                Field::Length | Field::Handle => (Field::Ulong, place.start),
                _ => (field, place.start),
            })
            .collect();
        assert_eq!(fields, c_fields, "{name}");
        assert_eq!(size(layout, Abi::HOST), c_size, "{name}");
    }

    macro_rules! same_as_c {
        ($($mechanism:ident: $type:ident { $($field:ident $(. $inner:ident)?)* })*) => {$(
            same_as_c($mechanism, size_of::<$type>(), &[$((
                kind(|all: $type| all.$field$(.$inner)?),
                std::mem::offset_of!($type, $field$(.$inner)?),
            )),*]);
        )*};
    }

    #[test]
    fn lays_out_parameters_as_the_c_compiler_does() {
        same_as_c! {
            CKM_RSA_PKCS_PSS: CK_RSA_PKCS_PSS_PARAMS { hashAlg mgf sLen }
            CKM_RSA_PKCS_OAEP: CK_RSA_PKCS_OAEP_PARAMS { hashAlg mgf source pSourceData
                ulSourceDataLen }
            CKM_RSA_AES_KEY_WRAP: CK_RSA_AES_KEY_WRAP_PARAMS { ulAESKeyBits pOAEPParams }
            CKM_KEY_WRAP_SET_OAEP: CK_KEY_WRAP_SET_OAEP_PARAMS { bBC pX ulXLen }
            CKM_DSA_FIPS_G_GEN: CK_DSA_PARAMETER_GEN_PARAM { hash pSeed ulSeedLen ulIndex }
            CKM_ECDH1_DERIVE: CK_ECDH1_DERIVE_PARAMS { kdf ulSharedDataLen pSharedData
                ulPublicDataLen pPublicData }
            CKM_X9_42_DH_DERIVE: CK_X9_42_DH1_DERIVE_PARAMS { kdf ulOtherInfoLen pOtherInfo
                ulPublicDataLen pPublicData }
            CKM_X9_42_DH_HYBRID_DERIVE: CK_X9_42_DH2_DERIVE_PARAMS { kdf ulOtherInfoLen
                pOtherInfo ulPublicDataLen pPublicData ulPrivateDataLen hPrivateData
                ulPublicDataLen2 pPublicData2 }
            CKM_X9_42_MQV_DERIVE: CK_X9_42_MQV_DERIVE_PARAMS { kdf ulOtherInfoLen OtherInfo
                ulPublicDataLen PublicData ulPrivateDataLen hPrivateData ulPublicDataLen2
                PublicData2 publicKey }
            CKM_ECMQV_DERIVE: CK_ECMQV_DERIVE_PARAMS { kdf ulSharedDataLen pSharedData
                ulPublicDataLen pPublicData ulPrivateDataLen hPrivateData ulPublicDataLen2
                pPublicData2 publicKey }
            CKM_ECDH_AES_KEY_WRAP: CK_ECDH_AES_KEY_WRAP_PARAMS { ulAESKeyBits kdf
                ulSharedDataLen pSharedData }
            CKM_EDDSA: CK_EDDSA_PARAMS { phFlag ulContextDataLen pContextData }
            CKM_XEDDSA: CK_XEDDSA_PARAMS { hash }
            CKM_X3DH_INITIALIZE: CK_X3DH_INITIATE_PARAMS { kdf pPeer_identity pPeer_prekey
                pPrekey_signature pOnetime_key pOwn_identity pOwn_ephemeral }
            CKM_X3DH_RESPOND: CK_X3DH_RESPOND_PARAMS { kdf pIdentity_id pPrekey_id pOnetime_id
                pInitiator_identity pInitiator_ephemeral }
            CKM_X2RATCHET_INITIALIZE: CK_X2RATCHET_INITIALIZE_PARAMS { sk peer_public_prekey
                peer_public_identity own_public_identity bEncryptedHeader eCurve aeadMechanism
                kdfMechanism }
            CKM_X2RATCHET_RESPOND: CK_X2RATCHET_RESPOND_PARAMS { sk own_prekey
                initiator_identity own_public_identity bEncryptedHeader eCurve aeadMechanism
                kdfMechanism }
            CKM_ML_DSA: CK_SIGN_ADDITIONAL_CONTEXT { hedgeVariant pContext ulContextLen }
            CKM_HASH_SLH_DSA: CK_HASH_SIGN_ADDITIONAL_CONTEXT { hedgeVariant pContext
                ulContextLen hash }
            CKM_RC2_CBC: CK_RC2_CBC_PARAMS { ulEffectiveBits iv }
            CKM_RC2_MAC_GENERAL: CK_RC2_MAC_GENERAL_PARAMS { ulEffectiveBits ulMacLength }
            CKM_RC5_ECB: CK_RC5_PARAMS { ulWordsize ulRounds }
            CKM_RC5_CBC: CK_RC5_CBC_PARAMS { ulWordsize ulRounds pIv ulIvLen }
            CKM_RC5_MAC_GENERAL: CK_RC5_MAC_GENERAL_PARAMS { ulWordsize ulRounds ulMacLength }
            CKM_AES_CTR: CK_AES_CTR_PARAMS { ulCounterBits cb }
            CKM_CAMELLIA_CTR: CK_CAMELLIA_CTR_PARAMS { ulCounterBits cb }
            CKM_AES_GCM: CK_GCM_PARAMS { pIv ulIvLen ulIvBits pAAD ulAADLen ulTagBits }
            CKM_AES_CCM: CK_CCM_PARAMS { ulDataLen pNonce ulNonceLen pAAD ulAADLen ulMACLen }
            CKM_CHACHA20: CK_CHACHA20_PARAMS { pBlockCounter blockCounterBits pNonce ulNonceBits
                }
            CKM_SALSA20: CK_SALSA20_PARAMS { pBlockCounter pNonce ulNonceBits }
            CKM_CHACHA20_POLY1305: CK_SALSA20_CHACHA20_POLY1305_PARAMS { pNonce ulNonceLen pAAD
                ulAADLen }
            CKM_SKIPJACK_PRIVATE_WRAP: CK_SKIPJACK_PRIVATE_WRAP_PARAMS { ulPasswordLen pPassword
                ulPublicDataLen pPublicData ulPAndGLen ulQLen ulRandomLen pRandomA pPrimeP
                pBaseG pSubprimeQ }
            CKM_SKIPJACK_RELAYX: CK_SKIPJACK_RELAYX_PARAMS { ulOldWrappedXLen pOldWrappedX
                ulOldPasswordLen pOldPassword ulOldPublicDataLen pOldPublicData ulOldRandomLen
                pOldRandomA ulNewPasswordLen pNewPassword ulNewPublicDataLen pNewPublicData
                ulNewRandomLen pNewRandomA }
            CKM_KEA_DERIVE: CK_KEA_DERIVE_PARAMS { isSender ulRandomLen RandomA RandomB
                ulPublicDataLen PublicData }
            CKM_GOSTR3410_KEY_WRAP: CK_GOSTR3410_KEY_WRAP_PARAMS { pWrapOID ulWrapOIDLen pUKM
                ulUKMLen hKey }
            CKM_GOSTR3410_DERIVE: CK_GOSTR3410_DERIVE_PARAMS { kdf pPublicData ulPublicDataLen
                pUKM ulUKMLen }
            CKM_XOR_BASE_AND_DATA: CK_KEY_DERIVATION_STRING_DATA { pData ulLen }
            CKM_DES3_CBC_ENCRYPT_DATA: CK_DES_CBC_ENCRYPT_DATA_PARAMS { iv pData length }
            CKM_AES_CBC_ENCRYPT_DATA: CK_AES_CBC_ENCRYPT_DATA_PARAMS { iv pData length }
            CKM_CAMELLIA_CBC_ENCRYPT_DATA: CK_CAMELLIA_CBC_ENCRYPT_DATA_PARAMS { iv pData length
                }
            CKM_ARIA_CBC_ENCRYPT_DATA: CK_ARIA_CBC_ENCRYPT_DATA_PARAMS { iv pData length }
            CKM_SEED_CBC_ENCRYPT_DATA: CK_SEED_CBC_ENCRYPT_DATA_PARAMS { iv pData length }
            CKM_HKDF_DERIVE: CK_HKDF_PARAMS { bExtract bExpand prfHashMechanism ulSaltType pSalt
                ulSaltLen hSaltKey pInfo ulInfoLen }
            CKM_SP800_108_COUNTER_KDF: CK_SP800_108_KDF_PARAMS { prfType ulNumberOfDataParams
                pDataParams ulAdditionalDerivedKeys pAdditionalDerivedKeys }
            CKM_SP800_108_FEEDBACK_KDF: CK_SP800_108_FEEDBACK_KDF_PARAMS { prfType
                ulNumberOfDataParams pDataParams ulIVLen pIV ulAdditionalDerivedKeys
                pAdditionalDerivedKeys }
            CKM_IKE2_PRF_PLUS_DERIVE: CK_IKE2_PRF_PLUS_DERIVE_PARAMS { prfMechanism bHasSeedKey
                hSeedKey pSeedData ulSeedDataLen }
            CKM_IKE_PRF_DERIVE: CK_IKE_PRF_DERIVE_PARAMS { prfMechanism bDataAsKey bRekey pNi
                ulNiLen pNr ulNrLen hNewKey }
            CKM_IKE1_PRF_DERIVE: CK_IKE1_PRF_DERIVE_PARAMS { prfMechanism bHasPrevKey hKeygxy
                hPrevKey pCKYi ulCKYiLen pCKYr ulCKYrLen keyNumber }
            CKM_IKE1_EXTENDED_DERIVE: CK_IKE1_EXTENDED_DERIVE_PARAMS { prfMechanism bHasKeygxy
                hKeygxy pExtraData ulExtraDataLen }
            CKM_PBE_SHA1_RC4_128: CK_PBE_PARAMS { pInitVector pPassword ulPasswordLen pSalt
                ulSaltLen ulIteration }
            CKM_PKCS5_PBKD2: CK_PKCS5_PBKD2_PARAMS { saltSource pSaltSourceData
                ulSaltSourceDataLen iterations prf pPrfData ulPrfDataLen pPassword ulPasswordLen
                }
            CKM_HOTP: CK_OTP_PARAMS { pParams ulCount }
            CKM_KIP_MAC: CK_KIP_PARAMS { pMechanism hKey pSeed ulSeedLen }
            CKM_CMS_SIG: CK_CMS_SIG_PARAMS { certificateHandle pSigningMechanism
                pDigestMechanism pContentType pRequestedAttributes ulRequestedAttributesLen
                pRequiredAttributes ulRequiredAttributesLen }
            CKM_SSL3_MASTER_KEY_DERIVE: CK_SSL3_MASTER_KEY_DERIVE_PARAMS {
                RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom
                RandomInfo.ulServerRandomLen pVersion }
            CKM_TLS_KEY_AND_MAC_DERIVE: CK_SSL3_KEY_MAT_PARAMS { ulMacSizeInBits ulKeySizeInBits
                ulIVSizeInBits bIsExport RandomInfo.pClientRandom RandomInfo.ulClientRandomLen
                RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pReturnedKeyMaterial }
            CKM_TLS12_MASTER_KEY_DERIVE: CK_TLS12_MASTER_KEY_DERIVE_PARAMS {
                RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom
                RandomInfo.ulServerRandomLen pVersion prfHashMechanism }
            CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE: CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS {
                prfHashMechanism pSessionHash ulSessionHashLen pVersion }
            CKM_TLS12_KEY_SAFE_DERIVE: CK_TLS12_KEY_MAT_PARAMS { ulMacSizeInBits ulKeySizeInBits
                ulIVSizeInBits bIsExport RandomInfo.pClientRandom RandomInfo.ulClientRandomLen
                RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pReturnedKeyMaterial
                prfHashMechanism }
            CKM_TLS_MAC: CK_TLS_MAC_PARAMS { prfHashMechanism ulMacLength ulServerOrClient }
            CKM_TLS_KDF: CK_TLS_KDF_PARAMS { prfMechanism pLabel ulLabelLength
                RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom
                RandomInfo.ulServerRandomLen pContextData ulContextDataLength }
            CKM_TLS_PRF: CK_TLS_PRF_PARAMS { pSeed ulSeedLen pLabel ulLabelLen pOutput
                pulOutputLen }
            CKM_WTLS_MASTER_KEY_DERIVE: CK_WTLS_MASTER_KEY_DERIVE_PARAMS { DigestMechanism
                RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom
                RandomInfo.ulServerRandomLen pVersion }
            CKM_WTLS_CLIENT_KEY_AND_MAC_DERIVE: CK_WTLS_KEY_MAT_PARAMS { DigestMechanism
                ulMacSizeInBits ulKeySizeInBits ulIVSizeInBits ulSequenceNumber bIsExport
                RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom
                RandomInfo.ulServerRandomLen pReturnedKeyMaterial }
            CKM_WTLS_PRF: CK_WTLS_PRF_PARAMS { DigestMechanism pSeed ulSeedLen pLabel ulLabelLen
                pOutput pulOutputLen }
        }
    }
}
