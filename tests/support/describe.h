/*
 * Describes the arguments of a PKCS#11 3.2 call in one form, for recorder.c, which was called, and
 * for exact.c, which calls: so that the two descriptions of a call can be compared.
 *
 * It reads what the arguments point to and appends to a `struct text`; nothing else has an effect.
 * The includer defines object_name(), which numbers object handles. The form:
 *
 *   pData=3:010203   three bytes; over 512 bytes their FNV-1a; `0:` a pointer and length 0
 *   pData=NULL       NULL and length 0; `NULL:4` NULL and length 4
 *   pData=?:4294967295  a length over MOST_BYTES, which nobody reads
 *   pSignature=<64>  room for 64 bytes; <NULL>, or <NULL:5> with another length than 0; <no length>
 *                    when the pointer to the length is NULL, <NULL, no length> when both are
 *   phKey=<>         where one value is written; <NULL>
 *   [0x3=2:6869, 0x40000211=[0x0=NULL]]   a template; NULL, NULL:2 as for bytes
 *   [0x3=<8>, 0x40000211=<[<8>, <NULL>]>] a template to be read, with the room of each attribute
 *   {0x250}          a mechanism without a parameter; {0x1082 2:0102} with one of bytes;
 *                    {0x1087 CK_GCM_PARAMS(pIv=... )} of a structure; {0x1087 CK_GCM_PARAMS?:40} when
 *                    the length is not that of the structure
 *
 * What stands in angle brackets is room; everything else is input.
 */
#include <pkcs11.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define MOST_BYTES (1UL << 28)
#define MOST_ATTRIBUTES 256UL

static unsigned long object_name(CK_OBJECT_HANDLE object);

/* ---- Text --------------------------------------------------------------------------------- */

struct text { char *bytes; size_t length, capacity; };

__attribute__((format(printf, 2, 3))) static void put(struct text *to, const char *format, ...)
{
    for (;;) {
        size_t left = to->capacity - to->length;
        va_list arguments;
        va_start(arguments, format);
        int wanted = vsnprintf(to->bytes ? to->bytes + to->length : NULL, left, format, arguments);
        va_end(arguments);
        if (wanted >= 0 && (size_t)wanted < left) {
            to->length += (size_t)wanted;
            return;
        }
        to->capacity = 2 * (to->capacity + (size_t)wanted) + 256;
        to->bytes = realloc(to->bytes, to->capacity);
        if (!to->bytes)
            abort();
    }
}

static uint64_t fnv(uint64_t hash, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3;
    return hash;
}
#define FNV_START 0xcbf29ce484222325

static void put_hex(struct text *to, const void *bytes, CK_ULONG count)
{
    put(to, "%lu:", count);
    if (count > 512)
        put(to, "fnv%016llx", (unsigned long long)fnv(FNV_START, bytes, count));
    else
        for (CK_ULONG i = 0; i < count; i++)
            put(to, "%02x", ((const unsigned char *)bytes)[i]);
}

static void put_bytes(struct text *to, const void *bytes, CK_ULONG count)
{
    if (!bytes && count == 0)
        put(to, "NULL");
    else if (!bytes)
        put(to, "NULL:%lu", count);
    else if (count > MOST_BYTES)
        put(to, "?:%lu", count);
    else
        put_hex(to, bytes, count);
}

static void put_room(struct text *to, const void *bytes, CK_ULONG count)
{
    if (!bytes && count == 0)
        put(to, "<NULL>");
    else if (!bytes)
        put(to, "<NULL:%lu>", count);
    else
        put(to, "<%lu>", count);
}

/* ---- Templates ---------------------------------------------------------------------------- */

/* CKF_ARRAY_ATTRIBUTE says so of the first three; the standard gives the others no such bit. */
static int is_template(CK_ATTRIBUTE_TYPE type)
{
    return type == CKA_WRAP_TEMPLATE || type == CKA_UNWRAP_TEMPLATE || type == CKA_DERIVE_TEMPLATE ||
           type == CKA_ENCAPSULATE_TEMPLATE || type == CKA_DECAPSULATE_TEMPLATE;
}

static int holds_attributes(const CK_ATTRIBUTE *attribute)
{
    return is_template(attribute->type) && attribute->pValue && attribute->ulValueLen % sizeof(CK_ATTRIBUTE) == 0 &&
           attribute->ulValueLen / sizeof(CK_ATTRIBUTE) <= MOST_ATTRIBUTES;
}

static void put_template(struct text *to, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    if (!template || count > MOST_ATTRIBUTES) {
        put_bytes(to, template, template ? ~0UL : count);
        return;
    }
    put(to, "[");
    for (CK_ULONG i = 0; i < count; i++) {
        const CK_ATTRIBUTE *attribute = &template[i];
        put(to, "%s0x%lx=", i ? ", " : "", attribute->type);
        if (holds_attributes(attribute))
            put_template(to, attribute->pValue, attribute->ulValueLen / sizeof(CK_ATTRIBUTE));
        else if (is_template(attribute->type) && attribute->pValue)
            put(to, "?:%lu", attribute->ulValueLen);
        else
            put_bytes(to, attribute->pValue, attribute->ulValueLen);
    }
    put(to, "]");
}

/* The types inside an array attribute mean nothing before the call. */
static void put_rooms(struct text *to, const CK_ATTRIBUTE *template, CK_ULONG count, int inner)
{
    if (!template || count > MOST_ATTRIBUTES) {
        put_bytes(to, template, template ? ~0UL : count);
        return;
    }
    put(to, "[");
    for (CK_ULONG i = 0; i < count; i++) {
        const CK_ATTRIBUTE *attribute = &template[i];
        put(to, "%s", i ? ", " : "");
        if (!inner)
            put(to, "0x%lx=", attribute->type);
        if (!inner && holds_attributes(attribute)) {
            put(to, "<");
            put_rooms(to, attribute->pValue, attribute->ulValueLen / sizeof(CK_ATTRIBUTE), 1);
            put(to, ">");
        } else {
            put_room(to, attribute->pValue, attribute->ulValueLen);
        }
    }
    put(to, "]");
}

/* ---- Mechanism parameters ------------------------------------------------------------------- */

enum shape {
    NUMBER,  /* a CK_ULONG */
    HANDLE,  /* an object handle */
    RAW,     /* bytes in the structure */
    BYTES,   /* a pointer to bytes; `other` is where their length is */
    BITS,    /* the same with a length in bits */
    AT,      /* a pointer to `size` bytes */
    TAG,     /* a pointer to bytes with a length in bits, written when encrypting, else read */
    MAC,     /* the same with a length in bytes */
    MAC16,   /* the same with 16 bytes */
    INNER,   /* a structure in the structure */
    TO,      /* a pointer to a structure */
    MECHANISM,
    PRF_DATA, /* a pointer to an array of CK_PRF_DATA_PARAM; `other` is where its count is */
    OTP,     /* the same of CK_OTP_PARAM */
    KEYS,    /* the same of CK_DERIVED_KEY: templates, and handles that are written */
    VERSION, /* a pointer to a CK_VERSION or a byte that is written; `size` bytes */
    OUTPUT,  /* a pointer to bytes that are written; `other` is where a pointer to their length is */
    MATERIAL, /* a pointer to CK_SSL3_KEY_MAT_OUT, which is written; `other`: the IV's length in bits */
    WTLS_MATERIAL, /* the same of CK_WTLS_KEY_MAT_OUT */
    SAFE_MATERIAL, /* a pointer to CK_SSL3_KEY_MAT_OUT whose IVs are ignored */
};

struct layout;
struct field { const char *name; enum shape shape; size_t offset, other, size; const struct layout *layout; };
struct layout { const char *name; size_t size; const struct field *fields; };

#define NUM(s, f) { #f, NUMBER, offsetof(s, f), 0, sizeof(((s *)0)->f), NULL }
#define KEY(s, f) { #f, HANDLE, offsetof(s, f), 0, sizeof(((s *)0)->f), NULL }
#define FIX(s, f) { #f, RAW, offsetof(s, f), 0, sizeof(((s *)0)->f), NULL }
#define PTR(s, f, l) { #f, BYTES, offsetof(s, f), offsetof(s, l), 0, NULL }
#define BIT(s, f, l) { #f, BITS, offsetof(s, f), offsetof(s, l), 0, NULL }
#define TEN(s, f, n) { #f, AT, offsetof(s, f), 0, n, NULL }
#define SUB(s, f, l) { #f, INNER, offsetof(s, f), 0, 0, &l }
#define REF(s, f, l) { #f, TO, offsetof(s, f), 0, 0, &l }
#define OTH(s, f, shape, l) { #f, shape, offsetof(s, f), offsetof(s, l), 0, NULL }
#define VER(s, f, n) { #f, VERSION, offsetof(s, f), 0, n, NULL }
#define LAYOUT(s, ...) \
    static const struct layout LAYOUT_##s = { #s, sizeof(s), (const struct field[]){ __VA_ARGS__, { 0 } } }

#define S CK_RSA_PKCS_OAEP_PARAMS
LAYOUT(CK_RSA_PKCS_OAEP_PARAMS, NUM(S, hashAlg), NUM(S, mgf), NUM(S, source), PTR(S, pSourceData, ulSourceDataLen));
#undef S
#define S CK_RSA_PKCS_PSS_PARAMS
LAYOUT(CK_RSA_PKCS_PSS_PARAMS, NUM(S, hashAlg), NUM(S, mgf), NUM(S, sLen));
#undef S
#define S CK_RSA_AES_KEY_WRAP_PARAMS
LAYOUT(CK_RSA_AES_KEY_WRAP_PARAMS, NUM(S, ulAESKeyBits), REF(S, pOAEPParams, LAYOUT_CK_RSA_PKCS_OAEP_PARAMS));
#undef S
#define S CK_GCM_PARAMS
LAYOUT(CK_GCM_PARAMS, PTR(S, pIv, ulIvLen), NUM(S, ulIvBits), PTR(S, pAAD, ulAADLen), NUM(S, ulTagBits));
#undef S
#define S CK_CCM_PARAMS
LAYOUT(CK_CCM_PARAMS, NUM(S, ulDataLen), PTR(S, pNonce, ulNonceLen), PTR(S, pAAD, ulAADLen), NUM(S, ulMACLen));
#undef S
#define S CK_GCM_MESSAGE_PARAMS
LAYOUT(CK_GCM_MESSAGE_PARAMS, PTR(S, pIv, ulIvLen), NUM(S, ulIvFixedBits), NUM(S, ivGenerator), OTH(S, pTag, TAG, ulTagBits),
       NUM(S, ulTagBits));
#undef S
#define S CK_CCM_MESSAGE_PARAMS
LAYOUT(CK_CCM_MESSAGE_PARAMS, NUM(S, ulDataLen), PTR(S, pNonce, ulNonceLen), NUM(S, ulNonceFixedBits),
       NUM(S, nonceGenerator), OTH(S, pMAC, MAC, ulMACLen));
#undef S
#define S CK_GCM_WRAP_PARAMS
LAYOUT(CK_GCM_WRAP_PARAMS, PTR(S, pIv, ulIvLen), NUM(S, ulIvFixedBits), NUM(S, ivGenerator), PTR(S, pAAD, ulAADLen),
       NUM(S, ulTagBits));
#undef S
#define S CK_CCM_WRAP_PARAMS
LAYOUT(CK_CCM_WRAP_PARAMS, NUM(S, ulDataLen), PTR(S, pNonce, ulNonceLen), NUM(S, ulNonceFixedBits),
       NUM(S, nonceGenerator), PTR(S, pAAD, ulAADLen), NUM(S, ulMACLen));
#undef S
#define S CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS
LAYOUT(CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS, PTR(S, pNonce, ulNonceLen), { "pTag", MAC16, offsetof(S, pTag), 0, 16, NULL });
#undef S
#define S CK_SALSA20_CHACHA20_POLY1305_PARAMS
LAYOUT(CK_SALSA20_CHACHA20_POLY1305_PARAMS, PTR(S, pNonce, ulNonceLen), PTR(S, pAAD, ulAADLen));
#undef S
#define S CK_CHACHA20_PARAMS
LAYOUT(CK_CHACHA20_PARAMS, BIT(S, pBlockCounter, blockCounterBits), BIT(S, pNonce, ulNonceBits));
#undef S
#define S CK_SALSA20_PARAMS
LAYOUT(CK_SALSA20_PARAMS, TEN(S, pBlockCounter, 8), BIT(S, pNonce, ulNonceBits));
#undef S
#define S CK_AES_CTR_PARAMS
LAYOUT(CK_AES_CTR_PARAMS, NUM(S, ulCounterBits), FIX(S, cb));
#undef S
#define S CK_AES_CBC_ENCRYPT_DATA_PARAMS
LAYOUT(CK_AES_CBC_ENCRYPT_DATA_PARAMS, FIX(S, iv), PTR(S, pData, length));
#undef S
#define S CK_DES_CBC_ENCRYPT_DATA_PARAMS
LAYOUT(CK_DES_CBC_ENCRYPT_DATA_PARAMS, FIX(S, iv), PTR(S, pData, length));
#undef S
#define S CK_KEY_DERIVATION_STRING_DATA
LAYOUT(CK_KEY_DERIVATION_STRING_DATA, PTR(S, pData, ulLen));
#undef S
#define S CK_ECDH1_DERIVE_PARAMS
LAYOUT(CK_ECDH1_DERIVE_PARAMS, NUM(S, kdf), PTR(S, pSharedData, ulSharedDataLen), PTR(S, pPublicData, ulPublicDataLen));
#undef S
#define S CK_ECMQV_DERIVE_PARAMS
LAYOUT(CK_ECMQV_DERIVE_PARAMS, NUM(S, kdf), PTR(S, pSharedData, ulSharedDataLen), PTR(S, pPublicData, ulPublicDataLen),
       NUM(S, ulPrivateDataLen), KEY(S, hPrivateData), PTR(S, pPublicData2, ulPublicDataLen2), KEY(S, publicKey));
#undef S
#define S CK_ECDH_AES_KEY_WRAP_PARAMS
LAYOUT(CK_ECDH_AES_KEY_WRAP_PARAMS, NUM(S, ulAESKeyBits), NUM(S, kdf), PTR(S, pSharedData, ulSharedDataLen));
#undef S
#define S CK_X9_42_DH1_DERIVE_PARAMS
LAYOUT(CK_X9_42_DH1_DERIVE_PARAMS, NUM(S, kdf), PTR(S, pOtherInfo, ulOtherInfoLen), PTR(S, pPublicData, ulPublicDataLen));
#undef S
#define S CK_X9_42_DH2_DERIVE_PARAMS
LAYOUT(CK_X9_42_DH2_DERIVE_PARAMS, NUM(S, kdf), PTR(S, pOtherInfo, ulOtherInfoLen), PTR(S, pPublicData, ulPublicDataLen),
       NUM(S, ulPrivateDataLen), KEY(S, hPrivateData), PTR(S, pPublicData2, ulPublicDataLen2));
#undef S
#define S CK_X9_42_MQV_DERIVE_PARAMS
LAYOUT(CK_X9_42_MQV_DERIVE_PARAMS, NUM(S, kdf), PTR(S, OtherInfo, ulOtherInfoLen), PTR(S, PublicData, ulPublicDataLen),
       NUM(S, ulPrivateDataLen), KEY(S, hPrivateData), PTR(S, PublicData2, ulPublicDataLen2), KEY(S, publicKey));
#undef S
#define S CK_KEA_DERIVE_PARAMS
LAYOUT(CK_KEA_DERIVE_PARAMS, FIX(S, isSender), PTR(S, RandomA, ulRandomLen), PTR(S, RandomB, ulRandomLen),
       PTR(S, PublicData, ulPublicDataLen));
#undef S
#define S CK_EDDSA_PARAMS
LAYOUT(CK_EDDSA_PARAMS, FIX(S, phFlag), PTR(S, pContextData, ulContextDataLen));
#undef S
#define S CK_SIGN_ADDITIONAL_CONTEXT
LAYOUT(CK_SIGN_ADDITIONAL_CONTEXT, NUM(S, hedgeVariant), PTR(S, pContext, ulContextLen));
#undef S
#define S CK_HASH_SIGN_ADDITIONAL_CONTEXT
LAYOUT(CK_HASH_SIGN_ADDITIONAL_CONTEXT, NUM(S, hedgeVariant), PTR(S, pContext, ulContextLen), NUM(S, hash));
#undef S
#define S CK_HKDF_PARAMS
LAYOUT(CK_HKDF_PARAMS, FIX(S, bExtract), FIX(S, bExpand), NUM(S, prfHashMechanism), NUM(S, ulSaltType),
       PTR(S, pSalt, ulSaltLen), KEY(S, hSaltKey), PTR(S, pInfo, ulInfoLen));
#undef S
#define S CK_SP800_108_KDF_PARAMS
LAYOUT(CK_SP800_108_KDF_PARAMS, NUM(S, prfType), OTH(S, pDataParams, PRF_DATA, ulNumberOfDataParams),
       OTH(S, pAdditionalDerivedKeys, KEYS, ulAdditionalDerivedKeys));
#undef S
#define S CK_SP800_108_FEEDBACK_KDF_PARAMS
LAYOUT(CK_SP800_108_FEEDBACK_KDF_PARAMS, NUM(S, prfType), OTH(S, pDataParams, PRF_DATA, ulNumberOfDataParams), PTR(S, pIV, ulIVLen),
       OTH(S, pAdditionalDerivedKeys, KEYS, ulAdditionalDerivedKeys));
#undef S
#define S CK_IKE_PRF_DERIVE_PARAMS
LAYOUT(CK_IKE_PRF_DERIVE_PARAMS, NUM(S, prfMechanism), FIX(S, bDataAsKey), FIX(S, bRekey), PTR(S, pNi, ulNiLen),
       PTR(S, pNr, ulNrLen), KEY(S, hNewKey));
#undef S
#define S CK_IKE1_PRF_DERIVE_PARAMS
LAYOUT(CK_IKE1_PRF_DERIVE_PARAMS, NUM(S, prfMechanism), FIX(S, bHasPrevKey), KEY(S, hKeygxy), KEY(S, hPrevKey),
       PTR(S, pCKYi, ulCKYiLen), PTR(S, pCKYr, ulCKYrLen), FIX(S, keyNumber));
#undef S
#define S CK_IKE1_EXTENDED_DERIVE_PARAMS
LAYOUT(CK_IKE1_EXTENDED_DERIVE_PARAMS, NUM(S, prfMechanism), FIX(S, bHasKeygxy), KEY(S, hKeygxy), PTR(S, pExtraData, ulExtraDataLen));
#undef S
#define S CK_IKE2_PRF_PLUS_DERIVE_PARAMS
LAYOUT(CK_IKE2_PRF_PLUS_DERIVE_PARAMS, NUM(S, prfMechanism), FIX(S, bHasSeedKey), KEY(S, hSeedKey), PTR(S, pSeedData, ulSeedDataLen));
#undef S
#define S CK_SSL3_RANDOM_DATA
LAYOUT(CK_SSL3_RANDOM_DATA, PTR(S, pClientRandom, ulClientRandomLen), PTR(S, pServerRandom, ulServerRandomLen));
#undef S
#define S CK_SSL3_MASTER_KEY_DERIVE_PARAMS
LAYOUT(CK_SSL3_MASTER_KEY_DERIVE_PARAMS, SUB(S, RandomInfo, LAYOUT_CK_SSL3_RANDOM_DATA), VER(S, pVersion, 2));
#undef S
#define S CK_TLS12_MASTER_KEY_DERIVE_PARAMS
LAYOUT(CK_TLS12_MASTER_KEY_DERIVE_PARAMS, SUB(S, RandomInfo, LAYOUT_CK_SSL3_RANDOM_DATA), VER(S, pVersion, 2), NUM(S, prfHashMechanism));
#undef S
#define S CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS
LAYOUT(CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS, NUM(S, prfHashMechanism), PTR(S, pSessionHash, ulSessionHashLen), VER(S, pVersion, 2));
#undef S
#define S CK_SSL3_KEY_MAT_PARAMS
LAYOUT(CK_SSL3_KEY_MAT_PARAMS, NUM(S, ulMacSizeInBits), NUM(S, ulKeySizeInBits), NUM(S, ulIVSizeInBits), FIX(S, bIsExport),
       SUB(S, RandomInfo, LAYOUT_CK_SSL3_RANDOM_DATA), OTH(S, pReturnedKeyMaterial, MATERIAL, ulIVSizeInBits));
#undef S
#define S CK_TLS12_KEY_MAT_PARAMS
LAYOUT(CK_TLS12_KEY_MAT_PARAMS, NUM(S, ulMacSizeInBits), NUM(S, ulKeySizeInBits), NUM(S, ulIVSizeInBits), FIX(S, bIsExport),
       SUB(S, RandomInfo, LAYOUT_CK_SSL3_RANDOM_DATA), OTH(S, pReturnedKeyMaterial, MATERIAL, ulIVSizeInBits),
       NUM(S, prfHashMechanism));
#undef S
/* Nothing is at the IVs. */
typedef CK_TLS12_KEY_MAT_PARAMS CK_TLS12_KEY_SAFE_PARAMS;
#define S CK_TLS12_KEY_SAFE_PARAMS
LAYOUT(CK_TLS12_KEY_SAFE_PARAMS, NUM(S, ulMacSizeInBits), NUM(S, ulKeySizeInBits), NUM(S, ulIVSizeInBits), FIX(S, bIsExport),
       SUB(S, RandomInfo, LAYOUT_CK_SSL3_RANDOM_DATA), OTH(S, pReturnedKeyMaterial, SAFE_MATERIAL, ulIVSizeInBits),
       NUM(S, prfHashMechanism));
#undef S
#define S CK_TLS_PRF_PARAMS
LAYOUT(CK_TLS_PRF_PARAMS, PTR(S, pSeed, ulSeedLen), PTR(S, pLabel, ulLabelLen), OTH(S, pOutput, OUTPUT, pulOutputLen));
#undef S
#define S CK_TLS_MAC_PARAMS
LAYOUT(CK_TLS_MAC_PARAMS, NUM(S, prfHashMechanism), NUM(S, ulMacLength), NUM(S, ulServerOrClient));
#undef S
#define S CK_TLS_KDF_PARAMS
LAYOUT(CK_TLS_KDF_PARAMS, NUM(S, prfMechanism), PTR(S, pLabel, ulLabelLength), SUB(S, RandomInfo, LAYOUT_CK_SSL3_RANDOM_DATA),
       PTR(S, pContextData, ulContextDataLength));
#undef S
#define S CK_WTLS_RANDOM_DATA
LAYOUT(CK_WTLS_RANDOM_DATA, PTR(S, pClientRandom, ulClientRandomLen), PTR(S, pServerRandom, ulServerRandomLen));
#undef S
#define S CK_WTLS_MASTER_KEY_DERIVE_PARAMS
LAYOUT(CK_WTLS_MASTER_KEY_DERIVE_PARAMS, NUM(S, DigestMechanism), SUB(S, RandomInfo, LAYOUT_CK_WTLS_RANDOM_DATA), VER(S, pVersion, 1));
#undef S
#define S CK_WTLS_KEY_MAT_PARAMS
LAYOUT(CK_WTLS_KEY_MAT_PARAMS, NUM(S, DigestMechanism), NUM(S, ulMacSizeInBits), NUM(S, ulKeySizeInBits), NUM(S, ulIVSizeInBits),
       NUM(S, ulSequenceNumber), FIX(S, bIsExport), SUB(S, RandomInfo, LAYOUT_CK_WTLS_RANDOM_DATA),
       OTH(S, pReturnedKeyMaterial, WTLS_MATERIAL, ulIVSizeInBits));
#undef S
#define S CK_WTLS_PRF_PARAMS
LAYOUT(CK_WTLS_PRF_PARAMS, NUM(S, DigestMechanism), PTR(S, pSeed, ulSeedLen), PTR(S, pLabel, ulLabelLen), OTH(S, pOutput, OUTPUT, pulOutputLen));
#undef S
/* pInitVector: 8 bytes that the token writes. */
#define S CK_PBE_PARAMS
LAYOUT(CK_PBE_PARAMS, VER(S, pInitVector, 8), PTR(S, pPassword, ulPasswordLen), PTR(S, pSalt, ulSaltLen), NUM(S, ulIteration));
#undef S
/* Nothing is at pInitVector. */
typedef CK_PBE_PARAMS CK_PBE_PARAMS_WITHOUT_IV;
#define S CK_PBE_PARAMS_WITHOUT_IV
LAYOUT(CK_PBE_PARAMS_WITHOUT_IV, PTR(S, pPassword, ulPasswordLen), PTR(S, pSalt, ulSaltLen), NUM(S, ulIteration));
#undef S
#define S CK_PKCS5_PBKD2_PARAMS2
LAYOUT(CK_PKCS5_PBKD2_PARAMS2, NUM(S, saltSource), PTR(S, pSaltSourceData, ulSaltSourceDataLen), NUM(S, iterations), NUM(S, prf),
       PTR(S, pPrfData, ulPrfDataLen), PTR(S, pPassword, ulPasswordLen));
#undef S
#define S CK_RC2_CBC_PARAMS
LAYOUT(CK_RC2_CBC_PARAMS, NUM(S, ulEffectiveBits), FIX(S, iv));
#undef S
#define S CK_RC2_MAC_GENERAL_PARAMS
LAYOUT(CK_RC2_MAC_GENERAL_PARAMS, NUM(S, ulEffectiveBits), NUM(S, ulMacLength));
#undef S
#define S CK_RC5_PARAMS
LAYOUT(CK_RC5_PARAMS, NUM(S, ulWordsize), NUM(S, ulRounds));
#undef S
#define S CK_RC5_CBC_PARAMS
LAYOUT(CK_RC5_CBC_PARAMS, NUM(S, ulWordsize), NUM(S, ulRounds), PTR(S, pIv, ulIvLen));
#undef S
#define S CK_RC5_MAC_GENERAL_PARAMS
LAYOUT(CK_RC5_MAC_GENERAL_PARAMS, NUM(S, ulWordsize), NUM(S, ulRounds), NUM(S, ulMacLength));
#undef S
#define S CK_DSA_PARAMETER_GEN_PARAM
LAYOUT(CK_DSA_PARAMETER_GEN_PARAM, NUM(S, hash), PTR(S, pSeed, ulSeedLen), NUM(S, ulIndex));
#undef S
#define S CK_GOSTR3410_DERIVE_PARAMS
LAYOUT(CK_GOSTR3410_DERIVE_PARAMS, NUM(S, kdf), PTR(S, pPublicData, ulPublicDataLen), PTR(S, pUKM, ulUKMLen));
#undef S
#define S CK_GOSTR3410_KEY_WRAP_PARAMS
LAYOUT(CK_GOSTR3410_KEY_WRAP_PARAMS, PTR(S, pWrapOID, ulWrapOIDLen), PTR(S, pUKM, ulUKMLen), KEY(S, hKey));
#undef S
#define S CK_KEY_WRAP_SET_OAEP_PARAMS
LAYOUT(CK_KEY_WRAP_SET_OAEP_PARAMS, FIX(S, bBC), PTR(S, pX, ulXLen));
#undef S
#define S CK_KIP_PARAMS
LAYOUT(CK_KIP_PARAMS, { "pMechanism", MECHANISM, offsetof(S, pMechanism), 0, 0, NULL }, KEY(S, hKey), PTR(S, pSeed, ulSeedLen));
#undef S
#define S CK_OTP_PARAMS
LAYOUT(CK_OTP_PARAMS, OTH(S, pParams, OTP, ulCount));
#undef S
#define S CK_SKIPJACK_PRIVATE_WRAP_PARAMS
LAYOUT(CK_SKIPJACK_PRIVATE_WRAP_PARAMS, PTR(S, pPassword, ulPasswordLen), PTR(S, pPublicData, ulPublicDataLen),
       PTR(S, pRandomA, ulRandomLen), PTR(S, pPrimeP, ulPAndGLen), PTR(S, pBaseG, ulPAndGLen), PTR(S, pSubprimeQ, ulQLen));
#undef S
#define S CK_SKIPJACK_RELAYX_PARAMS
LAYOUT(CK_SKIPJACK_RELAYX_PARAMS, PTR(S, pOldWrappedX, ulOldWrappedXLen), PTR(S, pOldPassword, ulOldPasswordLen),
       PTR(S, pOldPublicData, ulOldPublicDataLen), PTR(S, pOldRandomA, ulOldRandomLen), PTR(S, pNewPassword, ulNewPasswordLen),
       PTR(S, pNewPublicData, ulNewPublicDataLen), PTR(S, pNewRandomA, ulNewRandomLen));
#undef S
#define S CK_XEDDSA_PARAMS
LAYOUT(CK_XEDDSA_PARAMS, NUM(S, hash));
#undef S

#define IS(name) &LAYOUT_##name
/* In order of the structure's kind; a mechanism in no row has a parameter of bytes. */
static const struct { CK_MECHANISM_TYPE first, last; const struct layout *layout; } MECHANISMS[] = {
    { CKM_RSA_PKCS_OAEP, CKM_RSA_PKCS_OAEP, IS(CK_RSA_PKCS_OAEP_PARAMS) },
    { CKM_RSA_PKCS_PSS, CKM_SHA1_RSA_PKCS_PSS, IS(CK_RSA_PKCS_PSS_PARAMS) },
    { CKM_SHA256_RSA_PKCS_PSS, CKM_SHA512_RSA_PKCS_PSS, IS(CK_RSA_PKCS_PSS_PARAMS) },
    { CKM_SHA224_RSA_PKCS_PSS, CKM_SHA224_RSA_PKCS_PSS, IS(CK_RSA_PKCS_PSS_PARAMS) },
    { CKM_SHA3_256_RSA_PKCS_PSS, CKM_SHA3_512_RSA_PKCS_PSS, IS(CK_RSA_PKCS_PSS_PARAMS) },
    { CKM_SHA3_224_RSA_PKCS_PSS, CKM_SHA3_224_RSA_PKCS_PSS, IS(CK_RSA_PKCS_PSS_PARAMS) },
    { CKM_RSA_AES_KEY_WRAP, CKM_RSA_AES_KEY_WRAP, IS(CK_RSA_AES_KEY_WRAP_PARAMS) },
    { CKM_AES_GCM, CKM_AES_GCM, IS(CK_GCM_PARAMS) },
    { CKM_AES_CCM, CKM_AES_CCM, IS(CK_CCM_PARAMS) },
    { CKM_CHACHA20_POLY1305, CKM_SALSA20_POLY1305, IS(CK_SALSA20_CHACHA20_POLY1305_PARAMS) },
    { CKM_CHACHA20, CKM_CHACHA20, IS(CK_CHACHA20_PARAMS) },
    { CKM_SALSA20, CKM_SALSA20, IS(CK_SALSA20_PARAMS) },
    { CKM_AES_CTR, CKM_AES_CTR, IS(CK_AES_CTR_PARAMS) },
    { CKM_CAMELLIA_CTR, CKM_CAMELLIA_CTR, IS(CK_AES_CTR_PARAMS) },
    { CKM_AES_CBC_ENCRYPT_DATA, CKM_AES_CBC_ENCRYPT_DATA, IS(CK_AES_CBC_ENCRYPT_DATA_PARAMS) },
    { CKM_CAMELLIA_CBC_ENCRYPT_DATA, CKM_CAMELLIA_CBC_ENCRYPT_DATA, IS(CK_AES_CBC_ENCRYPT_DATA_PARAMS) },
    { CKM_ARIA_CBC_ENCRYPT_DATA, CKM_ARIA_CBC_ENCRYPT_DATA, IS(CK_AES_CBC_ENCRYPT_DATA_PARAMS) },
    { CKM_SEED_CBC_ENCRYPT_DATA, CKM_SEED_CBC_ENCRYPT_DATA, IS(CK_AES_CBC_ENCRYPT_DATA_PARAMS) },
    { CKM_DES_CBC_ENCRYPT_DATA, CKM_DES_CBC_ENCRYPT_DATA, IS(CK_DES_CBC_ENCRYPT_DATA_PARAMS) },
    { CKM_DES3_CBC_ENCRYPT_DATA, CKM_DES3_CBC_ENCRYPT_DATA, IS(CK_DES_CBC_ENCRYPT_DATA_PARAMS) },
    { CKM_DES_ECB_ENCRYPT_DATA, CKM_DES_ECB_ENCRYPT_DATA, IS(CK_KEY_DERIVATION_STRING_DATA) },
    { CKM_DES3_ECB_ENCRYPT_DATA, CKM_DES3_ECB_ENCRYPT_DATA, IS(CK_KEY_DERIVATION_STRING_DATA) },
    { CKM_AES_ECB_ENCRYPT_DATA, CKM_AES_ECB_ENCRYPT_DATA, IS(CK_KEY_DERIVATION_STRING_DATA) },
    { CKM_CAMELLIA_ECB_ENCRYPT_DATA, CKM_CAMELLIA_ECB_ENCRYPT_DATA, IS(CK_KEY_DERIVATION_STRING_DATA) },
    { CKM_ARIA_ECB_ENCRYPT_DATA, CKM_ARIA_ECB_ENCRYPT_DATA, IS(CK_KEY_DERIVATION_STRING_DATA) },
    { CKM_SEED_ECB_ENCRYPT_DATA, CKM_SEED_ECB_ENCRYPT_DATA, IS(CK_KEY_DERIVATION_STRING_DATA) },
    { CKM_CONCATENATE_BASE_AND_DATA, CKM_XOR_BASE_AND_DATA, IS(CK_KEY_DERIVATION_STRING_DATA) },
    { CKM_ECDH1_DERIVE, CKM_ECDH1_COFACTOR_DERIVE, IS(CK_ECDH1_DERIVE_PARAMS) },
    { CKM_ECMQV_DERIVE, CKM_ECMQV_DERIVE, IS(CK_ECMQV_DERIVE_PARAMS) },
    { CKM_ECDH_AES_KEY_WRAP, CKM_ECDH_AES_KEY_WRAP, IS(CK_ECDH_AES_KEY_WRAP_PARAMS) },
    { CKM_ECDH_X_AES_KEY_WRAP, CKM_ECDH_COF_AES_KEY_WRAP, IS(CK_ECDH_AES_KEY_WRAP_PARAMS) },
    { CKM_X9_42_DH_DERIVE, CKM_X9_42_DH_DERIVE, IS(CK_X9_42_DH1_DERIVE_PARAMS) },
    { CKM_X9_42_DH_HYBRID_DERIVE, CKM_X9_42_DH_HYBRID_DERIVE, IS(CK_X9_42_DH2_DERIVE_PARAMS) },
    { CKM_X9_42_MQV_DERIVE, CKM_X9_42_MQV_DERIVE, IS(CK_X9_42_MQV_DERIVE_PARAMS) },
    { CKM_KEA_KEY_DERIVE, CKM_KEA_DERIVE, IS(CK_KEA_DERIVE_PARAMS) },
    { CKM_EDDSA, CKM_EDDSA, IS(CK_EDDSA_PARAMS) },
    { CKM_XEDDSA, CKM_XEDDSA, IS(CK_XEDDSA_PARAMS) },
    { CKM_ML_DSA, CKM_ML_DSA, IS(CK_SIGN_ADDITIONAL_CONTEXT) },
    { CKM_SLH_DSA, CKM_SLH_DSA, IS(CK_SIGN_ADDITIONAL_CONTEXT) },
    { CKM_HASH_ML_DSA_SHA224, CKM_HASH_ML_DSA_SHAKE256, IS(CK_SIGN_ADDITIONAL_CONTEXT) },
    { CKM_HASH_SLH_DSA_SHA224, CKM_HASH_SLH_DSA_SHAKE256, IS(CK_SIGN_ADDITIONAL_CONTEXT) },
    { CKM_HASH_ML_DSA, CKM_HASH_ML_DSA, IS(CK_HASH_SIGN_ADDITIONAL_CONTEXT) },
    { CKM_HASH_SLH_DSA, CKM_HASH_SLH_DSA, IS(CK_HASH_SIGN_ADDITIONAL_CONTEXT) },
    { CKM_HKDF_DERIVE, CKM_HKDF_DATA, IS(CK_HKDF_PARAMS) },
    { CKM_SP800_108_COUNTER_KDF, CKM_SP800_108_COUNTER_KDF, IS(CK_SP800_108_KDF_PARAMS) },
    { CKM_SP800_108_DOUBLE_PIPELINE_KDF, CKM_SP800_108_DOUBLE_PIPELINE_KDF, IS(CK_SP800_108_KDF_PARAMS) },
    { CKM_SP800_108_FEEDBACK_KDF, CKM_SP800_108_FEEDBACK_KDF, IS(CK_SP800_108_FEEDBACK_KDF_PARAMS) },
    { CKM_IKE2_PRF_PLUS_DERIVE, CKM_IKE2_PRF_PLUS_DERIVE, IS(CK_IKE2_PRF_PLUS_DERIVE_PARAMS) },
    { CKM_IKE_PRF_DERIVE, CKM_IKE_PRF_DERIVE, IS(CK_IKE_PRF_DERIVE_PARAMS) },
    { CKM_IKE1_PRF_DERIVE, CKM_IKE1_PRF_DERIVE, IS(CK_IKE1_PRF_DERIVE_PARAMS) },
    { CKM_IKE1_EXTENDED_DERIVE, CKM_IKE1_EXTENDED_DERIVE, IS(CK_IKE1_EXTENDED_DERIVE_PARAMS) },
    { CKM_SSL3_MASTER_KEY_DERIVE, CKM_SSL3_MASTER_KEY_DERIVE, IS(CK_SSL3_MASTER_KEY_DERIVE_PARAMS) },
    { CKM_SSL3_MASTER_KEY_DERIVE_DH, CKM_SSL3_MASTER_KEY_DERIVE_DH, IS(CK_SSL3_MASTER_KEY_DERIVE_PARAMS) },
    { CKM_TLS_MASTER_KEY_DERIVE, CKM_TLS_MASTER_KEY_DERIVE, IS(CK_SSL3_MASTER_KEY_DERIVE_PARAMS) },
    { CKM_TLS_MASTER_KEY_DERIVE_DH, CKM_TLS_MASTER_KEY_DERIVE_DH, IS(CK_SSL3_MASTER_KEY_DERIVE_PARAMS) },
    { CKM_SSL3_KEY_AND_MAC_DERIVE, CKM_SSL3_KEY_AND_MAC_DERIVE, IS(CK_SSL3_KEY_MAT_PARAMS) },
    { CKM_TLS_KEY_AND_MAC_DERIVE, CKM_TLS_KEY_AND_MAC_DERIVE, IS(CK_SSL3_KEY_MAT_PARAMS) },
    { CKM_TLS12_MASTER_KEY_DERIVE, CKM_TLS12_MASTER_KEY_DERIVE, IS(CK_TLS12_MASTER_KEY_DERIVE_PARAMS) },
    { CKM_TLS12_MASTER_KEY_DERIVE_DH, CKM_TLS12_MASTER_KEY_DERIVE_DH, IS(CK_TLS12_MASTER_KEY_DERIVE_PARAMS) },
    { CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE, CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH, IS(CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS) },
    { CKM_TLS12_KEY_AND_MAC_DERIVE, CKM_TLS12_KEY_AND_MAC_DERIVE, IS(CK_TLS12_KEY_MAT_PARAMS) },
    { CKM_TLS12_KEY_SAFE_DERIVE, CKM_TLS12_KEY_SAFE_DERIVE, IS(CK_TLS12_KEY_SAFE_PARAMS) },
    { CKM_TLS_PRF, CKM_TLS_PRF, IS(CK_TLS_PRF_PARAMS) },
    { CKM_TLS12_MAC, CKM_TLS12_MAC, IS(CK_TLS_MAC_PARAMS) },
    { CKM_TLS_MAC, CKM_TLS_MAC, IS(CK_TLS_MAC_PARAMS) },
    { CKM_TLS12_KDF, CKM_TLS12_KDF, IS(CK_TLS_KDF_PARAMS) },
    { CKM_TLS_KDF, CKM_TLS_KDF, IS(CK_TLS_KDF_PARAMS) },
    { CKM_WTLS_MASTER_KEY_DERIVE, CKM_WTLS_MASTER_KEY_DERIVE_DH_ECC, IS(CK_WTLS_MASTER_KEY_DERIVE_PARAMS) },
    { CKM_WTLS_PRF, CKM_WTLS_PRF, IS(CK_WTLS_PRF_PARAMS) },
    { CKM_WTLS_SERVER_KEY_AND_MAC_DERIVE, CKM_WTLS_CLIENT_KEY_AND_MAC_DERIVE, IS(CK_WTLS_KEY_MAT_PARAMS) },
    { CKM_PBE_SHA1_RC4_128, CKM_PBE_SHA1_RC4_40, IS(CK_PBE_PARAMS_WITHOUT_IV) },
    { CKM_PBA_SHA1_WITH_SHA1_HMAC, CKM_PBA_SHA1_WITH_SHA1_HMAC, IS(CK_PBE_PARAMS_WITHOUT_IV) },
    { CKM_PBE_MD2_DES_CBC, CKM_PBE_SHA1_RC2_40_CBC, IS(CK_PBE_PARAMS) },
    { CKM_PKCS5_PBKD2, CKM_PKCS5_PBKD2, IS(CK_PKCS5_PBKD2_PARAMS2) },
    { CKM_RC2_CBC, CKM_RC2_CBC, IS(CK_RC2_CBC_PARAMS) },
    { CKM_RC2_CBC_PAD, CKM_RC2_CBC_PAD, IS(CK_RC2_CBC_PARAMS) },
    { CKM_RC2_MAC_GENERAL, CKM_RC2_MAC_GENERAL, IS(CK_RC2_MAC_GENERAL_PARAMS) },
    { CKM_RC5_ECB, CKM_RC5_ECB, IS(CK_RC5_PARAMS) },
    { CKM_RC5_MAC, CKM_RC5_MAC, IS(CK_RC5_PARAMS) },
    { CKM_RC5_CBC, CKM_RC5_CBC, IS(CK_RC5_CBC_PARAMS) },
    { CKM_RC5_CBC_PAD, CKM_RC5_CBC_PAD, IS(CK_RC5_CBC_PARAMS) },
    { CKM_RC5_MAC_GENERAL, CKM_RC5_MAC_GENERAL, IS(CK_RC5_MAC_GENERAL_PARAMS) },
    { CKM_DSA_PROBABILISTIC_PARAMETER_GEN, CKM_DSA_FIPS_G_GEN, IS(CK_DSA_PARAMETER_GEN_PARAM) },
    { CKM_GOSTR3410_DERIVE, CKM_GOSTR3410_DERIVE, IS(CK_GOSTR3410_DERIVE_PARAMS) },
    { CKM_GOSTR3410_KEY_WRAP, CKM_GOSTR3410_KEY_WRAP, IS(CK_GOSTR3410_KEY_WRAP_PARAMS) },
    { CKM_KEY_WRAP_SET_OAEP, CKM_KEY_WRAP_SET_OAEP, IS(CK_KEY_WRAP_SET_OAEP_PARAMS) },
    { CKM_KIP_DERIVE, CKM_KIP_MAC, IS(CK_KIP_PARAMS) },
    { CKM_SECURID, CKM_SECURID, IS(CK_OTP_PARAMS) },
    { CKM_HOTP, CKM_HOTP, IS(CK_OTP_PARAMS) },
    { CKM_ACTI, CKM_ACTI, IS(CK_OTP_PARAMS) },
    { CKM_SKIPJACK_PRIVATE_WRAP, CKM_SKIPJACK_PRIVATE_WRAP, IS(CK_SKIPJACK_PRIVATE_WRAP_PARAMS) },
    { CKM_SKIPJACK_RELAYX, CKM_SKIPJACK_RELAYX, IS(CK_SKIPJACK_RELAYX_PARAMS) },
};

/* What a parameter is for, which decides its structure and which of its pointers are written. */
enum use {
    PLAIN = 0,
    MESSAGE = 1,    /* of a message function */
    WRAPPING = 2,   /* of C_WrapKey, C_WrapKeyAuthenticated and their opposites */
    ENCRYPTING = 4, /* tags are written */
    AFTER = 8,      /* the call has returned: what was written is shown instead of its room */
};

static const struct layout *layout_of(CK_MECHANISM_TYPE type, CK_ULONG length, int use)
{
    if (use & MESSAGE && type == CKM_AES_GCM)
        return IS(CK_GCM_MESSAGE_PARAMS);
    if (use & MESSAGE && type == CKM_AES_CCM)
        return IS(CK_CCM_MESSAGE_PARAMS);
    if (use & MESSAGE && (type == CKM_CHACHA20_POLY1305 || type == CKM_SALSA20_POLY1305))
        return IS(CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS);
    if (use & WRAPPING && type == CKM_AES_GCM && length == sizeof(CK_GCM_WRAP_PARAMS))
        return IS(CK_GCM_WRAP_PARAMS);
    if (use & WRAPPING && type == CKM_AES_CCM && length == sizeof(CK_CCM_WRAP_PARAMS))
        return IS(CK_CCM_WRAP_PARAMS);
    for (size_t i = 0; i < COUNT(MECHANISMS); i++)
        if (type >= MECHANISMS[i].first && type <= MECHANISMS[i].last)
            return MECHANISMS[i].layout;
    return NULL;
}

static void put_mechanism(struct text *to, const CK_MECHANISM *mechanism, int use);

static CK_ULONG number_at(const void *base, size_t offset)
{
    CK_ULONG number;
    memcpy(&number, (const char *)base + offset, sizeof number);
    return number;
}
static void *pointer_at(const void *base, size_t offset)
{
    void *pointer;
    memcpy(&pointer, (const char *)base + offset, sizeof pointer);
    return pointer;
}

static void put_written(struct text *to, const void *bytes, CK_ULONG count, int use)
{
    if (use & AFTER && bytes)
        put_hex(to, bytes, count);
    else
        put_room(to, bytes, bytes ? count : 0);
}
static void put_handle(struct text *to, const CK_OBJECT_HANDLE *handle, int use)
{
    if (!handle)
        put(to, "<NULL>");
    else if (use & AFTER)
        put(to, "%lu", object_name(*handle));
    else
        put(to, "<>");
}

/* Structures inside data parameters are shown by field: their padding means nothing. */
static void put_data(struct text *to, const CK_PRF_DATA_PARAM *data)
{
    const CK_SP800_108_COUNTER_FORMAT *counter = data->pValue;
    const CK_SP800_108_DKM_LENGTH_FORMAT *length = data->pValue;
    if ((data->type == CK_SP800_108_ITERATION_VARIABLE || data->type == CK_SP800_108_COUNTER) && counter &&
        data->ulValueLen == sizeof *counter)
        put(to, "%lu=(%u, %lu)", data->type, counter->bLittleEndian, counter->ulWidthInBits);
    else if (data->type == CK_SP800_108_DKM_LENGTH && length && data->ulValueLen == sizeof *length)
        put(to, "%lu=(%lu, %u, %lu)", data->type, length->dkmLengthMethod, length->bLittleEndian, length->ulWidthInBits);
    else if (data->type == CK_SP800_108_KEY_HANDLE && data->pValue && data->ulValueLen == sizeof(CK_OBJECT_HANDLE))
        put(to, "%lu=key %lu", data->type, object_name(*(CK_OBJECT_HANDLE *)data->pValue));
    else
        put(to, "%lu=", data->type), put_bytes(to, data->pValue, data->ulValueLen);
}

static void put_list(struct text *to, enum shape shape, const void *list, CK_ULONG count, int use)
{
    if (!list || count > MOST_ATTRIBUTES) {
        put_bytes(to, list, list ? ~0UL : count);
        return;
    }
    put(to, "[");
    for (CK_ULONG i = 0; i < count; i++) {
        put(to, "%s", i ? ", " : "");
        if (shape == PRF_DATA) {
            put_data(to, (const CK_PRF_DATA_PARAM *)list + i);
        } else if (shape == OTP) {
            const CK_OTP_PARAM *one = (const CK_OTP_PARAM *)list + i;
            put(to, "%lu=", one->type), put_bytes(to, one->pValue, one->ulValueLen);
        } else {
            const CK_DERIVED_KEY *one = (const CK_DERIVED_KEY *)list + i;
            put_template(to, one->pTemplate, one->ulAttributeCount);
            put(to, " phKey="), put_handle(to, one->phKey, use);
        }
    }
    put(to, "]");
}

static void put_structure(struct text *to, const struct layout *layout, const void *base, int use);

static void put_field(struct text *to, const struct field *field, const void *base, int use)
{
    const char *here = (const char *)base + field->offset;
    void *pointer = field->shape >= BYTES && field->shape != INNER ? pointer_at(base, field->offset) : NULL;
    CK_ULONG other = number_at(base, field->shape >= BYTES ? field->other : 0);
    switch (field->shape) {
    case NUMBER: put(to, "0x%lx", number_at(base, field->offset)); break;
    case HANDLE: put(to, "%lu", object_name(number_at(base, field->offset))); break;
    case RAW: put_hex(to, here, field->size); break;
    case BYTES: put_bytes(to, pointer, other); break;
    case BITS: put_bytes(to, pointer, (other + 7) / 8); break;
    case AT: put_bytes(to, pointer, pointer ? field->size : 0); break;
    case TAG: other = other / 8 + (other % 8 != 0); /* fall through */
    case MAC:
        if (use & ENCRYPTING)
            put_written(to, pointer, other, use);
        else
            put_bytes(to, pointer, other);
        break;
    case MAC16:
        if (use & ENCRYPTING)
            put_written(to, pointer, 16, use);
        else
            put_bytes(to, pointer, pointer ? 16 : 0);
        break;
    case INNER: put_structure(to, field->layout, here, use); break;
    case TO:
        if (pointer)
            put_structure(to, field->layout, pointer, use);
        else
            put(to, "NULL");
        break;
    case MECHANISM: put_mechanism(to, pointer, use); break;
    case PRF_DATA: case OTP: case KEYS: put_list(to, field->shape, pointer, other, use); break;
    case VERSION: put_written(to, pointer, field->size, use); break;
    case OUTPUT: {
        CK_ULONG *length = pointer_at(base, field->other);
        if (!length)
            put(to, "<no length>");
        else
            put_written(to, pointer, *length, use);
        break;
    }
    case MATERIAL: case SAFE_MATERIAL: {
        CK_SSL3_KEY_MAT_OUT *out = pointer;
        if (!out) {
            put(to, "NULL");
            break;
        }
        put(to, "(");
        put_handle(to, &out->hClientMacSecret, use), put(to, ", "), put_handle(to, &out->hServerMacSecret, use);
        put(to, ", "), put_handle(to, &out->hClientKey, use), put(to, ", "), put_handle(to, &out->hServerKey, use);
        if (field->shape == MATERIAL) {
            put(to, ", "), put_written(to, out->pIVClient, (other + 7) / 8, use);
            put(to, ", "), put_written(to, out->pIVServer, (other + 7) / 8, use);
        }
        put(to, ")");
        break;
    }
    case WTLS_MATERIAL: {
        CK_WTLS_KEY_MAT_OUT *out = pointer;
        if (!out) {
            put(to, "NULL");
            break;
        }
        put(to, "("), put_handle(to, &out->hMacSecret, use), put(to, ", "), put_handle(to, &out->hKey, use);
        put(to, ", "), put_written(to, out->pIV, (other + 7) / 8, use), put(to, ")");
        break;
    }
    }
}

static void put_structure(struct text *to, const struct layout *layout, const void *base, int use)
{
    put(to, "%s(", layout->name);
    for (const struct field *field = layout->fields; field->name; field++) {
        put(to, "%s%s=", field == layout->fields ? "" : " ", field->name);
        put_field(to, field, base, use);
    }
    put(to, ")");
}

static void put_parameter(struct text *to, CK_MECHANISM_TYPE type, const void *parameter, CK_ULONG length, int use)
{
    const struct layout *layout = layout_of(type, length, use);
    if (layout && parameter && length == layout->size)
        put_structure(to, layout, parameter, use);
    else if (layout && parameter && length != 0)
        put(to, "%s?:%lu", layout->name, length);
    else if (type == CKM_CONCATENATE_BASE_AND_KEY && parameter && length == sizeof(CK_OBJECT_HANDLE))
        put(to, "key %lu", object_name(number_at(parameter, 0)));
    else
        put_bytes(to, parameter, length);
}

static void put_mechanism(struct text *to, const CK_MECHANISM *mechanism, int use)
{
    if (!mechanism) {
        put(to, "NULL");
        return;
    }
    put(to, "{0x%lx", mechanism->mechanism);
    if (mechanism->pParameter || mechanism->ulParameterLen) {
        put(to, " ");
        put_parameter(to, mechanism->mechanism, mechanism->pParameter, mechanism->ulParameterLen, use);
    }
    put(to, "}");
}
