//! Compares the table with the C header, and reads vendors' tables.

use cryptoki_sys::*;

use super::support::{FakeMemory, Random, decoded, encoded, layout};
#[allow(unused_imports)]
use crate::codec::{DecodeError, Decoder, Encoder, Wire as _};
use crate::mechanism::memory::CK_MECHANISM as MECHANISM;
use crate::mechanism::notation::{Field, Kind, Layout};
use crate::mechanism::parameters::VendorTable;
use crate::mechanism::templates::CK_ATTRIBUTE as ATTRIBUTE;
use crate::mechanism::*;

/// The shape of a C type, as the table describes it.
#[derive(Debug, Eq, PartialEq)]
enum Shape {
    Word,
    Pointer,
    Bytes(usize),
}

trait CType {
    const SHAPE: Shape;
}
impl CType for CK_ULONG {
    const SHAPE: Shape = Shape::Word;
}
impl<T> CType for *mut T {
    const SHAPE: Shape = Shape::Pointer;
}
impl CType for u8 {
    const SHAPE: Shape = Shape::Bytes(1);
}
impl<const SIZE: usize> CType for [u8; SIZE] {
    const SHAPE: Shape = Shape::Bytes(SIZE);
}

fn shape<S, T: CType>(_: fn(S) -> T) -> Shape {
    T::SHAPE
}

fn shape_of(field: &Field) -> Shape {
    match field.kind {
        Kind::Number | Kind::Mechanism | Kind::Key | Kind::Length => Shape::Word,
        Kind::Flag | Kind::Byte => Shape::Bytes(1),
        Kind::Bytes(size) => Shape::Bytes(size),
        Kind::Pointer(_) => Shape::Pointer,
    }
}

macro_rules! same_as_c {
    ($($type:ident { $($field:ident $(. $inner:ident)?)* })*) => {{
        let mut compared = Vec::new();
        $(
            let name = stringify!($type);
            let of_name: &'static Layout = match name {
                "CK_MECHANISM" => &MECHANISM,
                "CK_ATTRIBUTE" => &ATTRIBUTE,
                _ => layout(name),
            };
            let fields: Vec<_> = of_name
                .places(Abi::HOST)
                .map(|(field, place)| (field.name, shape_of(field), place.start))
                .collect();
            let c_fields = [$((
                concat!(stringify!($field) $(, ".", stringify!($inner))?).trim_end_matches('_'),
                shape(|all: $type| all.$field$(.$inner)?),
                std::mem::offset_of!($type, $field$(.$inner)?),
            )),*];
            assert_eq!(fields, c_fields, "{name}");
            assert_eq!(of_name.size(Abi::HOST), size_of::<$type>(), "{name}");
            compared.push(name);
        )*
        compared
    }};
}

#[test]
fn lays_out_structures_as_the_c_compiler_does() {
    // The standard has one structure for mechanisms that use a pointer and for such that ignore it.
    use cryptoki_sys::{
        CK_PBE_PARAMS as CK_PBE_PARAMS_WITHOUT_IV, CK_SSL3_KEY_MAT_OUT as CK_TLS12_KEY_SAFE_OUT,
        CK_TLS12_KEY_MAT_PARAMS as CK_TLS12_KEY_SAFE_PARAMS,
    };
    let compared = same_as_c! {
    CK_RSA_PKCS_PSS_PARAMS { hashAlg mgf sLen }
    CK_RSA_PKCS_OAEP_PARAMS { hashAlg mgf source pSourceData ulSourceDataLen }
    CK_RSA_AES_KEY_WRAP_PARAMS { ulAESKeyBits pOAEPParams }
    CK_KEY_WRAP_SET_OAEP_PARAMS { bBC pX ulXLen }
    CK_DSA_PARAMETER_GEN_PARAM { hash pSeed ulSeedLen ulIndex }
    CK_ECDH1_DERIVE_PARAMS { kdf ulSharedDataLen pSharedData ulPublicDataLen pPublicData }
    CK_X9_42_DH1_DERIVE_PARAMS { kdf ulOtherInfoLen pOtherInfo ulPublicDataLen pPublicData }
    CK_X9_42_DH2_DERIVE_PARAMS { kdf ulOtherInfoLen pOtherInfo ulPublicDataLen pPublicData ulPrivateDataLen hPrivateData ulPublicDataLen2 pPublicData2 }
    CK_X9_42_MQV_DERIVE_PARAMS { kdf ulOtherInfoLen OtherInfo ulPublicDataLen PublicData ulPrivateDataLen hPrivateData ulPublicDataLen2 PublicData2 publicKey }
    CK_ECMQV_DERIVE_PARAMS { kdf ulSharedDataLen pSharedData ulPublicDataLen pPublicData ulPrivateDataLen hPrivateData ulPublicDataLen2 pPublicData2 publicKey }
    CK_ECDH_AES_KEY_WRAP_PARAMS { ulAESKeyBits kdf ulSharedDataLen pSharedData }
    CK_EDDSA_PARAMS { phFlag ulContextDataLen pContextData }
    CK_XEDDSA_PARAMS { hash }
    CK_X3DH_INITIATE_PARAMS { kdf pPeer_identity pPeer_prekey pPrekey_signature pOnetime_key pOwn_identity pOwn_ephemeral }
    CK_X3DH_RESPOND_PARAMS { kdf pIdentity_id pPrekey_id pOnetime_id pInitiator_identity pInitiator_ephemeral }
    CK_X2RATCHET_INITIALIZE_PARAMS { sk peer_public_prekey peer_public_identity own_public_identity bEncryptedHeader eCurve aeadMechanism kdfMechanism }
    CK_X2RATCHET_RESPOND_PARAMS { sk own_prekey initiator_identity own_public_identity bEncryptedHeader eCurve aeadMechanism kdfMechanism }
    CK_SIGN_ADDITIONAL_CONTEXT { hedgeVariant pContext ulContextLen }
    CK_HASH_SIGN_ADDITIONAL_CONTEXT { hedgeVariant pContext ulContextLen hash }
    CK_RC2_CBC_PARAMS { ulEffectiveBits iv }
    CK_RC2_MAC_GENERAL_PARAMS { ulEffectiveBits ulMacLength }
    CK_RC5_PARAMS { ulWordsize ulRounds }
    CK_RC5_CBC_PARAMS { ulWordsize ulRounds pIv ulIvLen }
    CK_RC5_MAC_GENERAL_PARAMS { ulWordsize ulRounds ulMacLength }
    CK_AES_CTR_PARAMS { ulCounterBits cb }
    CK_CAMELLIA_CTR_PARAMS { ulCounterBits cb }
    CK_GCM_PARAMS { pIv ulIvLen ulIvBits pAAD ulAADLen ulTagBits }
    CK_CCM_PARAMS { ulDataLen pNonce ulNonceLen pAAD ulAADLen ulMACLen }
    CK_CHACHA20_PARAMS { pBlockCounter blockCounterBits pNonce ulNonceBits }
    CK_SALSA20_PARAMS { pBlockCounter pNonce ulNonceBits }
    CK_SALSA20_CHACHA20_POLY1305_PARAMS { pNonce ulNonceLen pAAD ulAADLen }
    CK_SKIPJACK_PRIVATE_WRAP_PARAMS { ulPasswordLen pPassword ulPublicDataLen pPublicData ulPAndGLen ulQLen ulRandomLen pRandomA pPrimeP pBaseG pSubprimeQ }
    CK_SKIPJACK_RELAYX_PARAMS { ulOldWrappedXLen pOldWrappedX ulOldPasswordLen pOldPassword ulOldPublicDataLen pOldPublicData ulOldRandomLen pOldRandomA ulNewPasswordLen pNewPassword ulNewPublicDataLen pNewPublicData ulNewRandomLen pNewRandomA }
    CK_KEA_DERIVE_PARAMS { isSender ulRandomLen RandomA RandomB ulPublicDataLen PublicData }
    CK_GOSTR3410_KEY_WRAP_PARAMS { pWrapOID ulWrapOIDLen pUKM ulUKMLen hKey }
    CK_GOSTR3410_DERIVE_PARAMS { kdf pPublicData ulPublicDataLen pUKM ulUKMLen }
    CK_KEY_DERIVATION_STRING_DATA { pData ulLen }
    CK_DES_CBC_ENCRYPT_DATA_PARAMS { iv pData length }
    CK_AES_CBC_ENCRYPT_DATA_PARAMS { iv pData length }
    CK_CAMELLIA_CBC_ENCRYPT_DATA_PARAMS { iv pData length }
    CK_ARIA_CBC_ENCRYPT_DATA_PARAMS { iv pData length }
    CK_SEED_CBC_ENCRYPT_DATA_PARAMS { iv pData length }
    CK_HKDF_PARAMS { bExtract bExpand prfHashMechanism ulSaltType pSalt ulSaltLen hSaltKey pInfo ulInfoLen }
    CK_SP800_108_KDF_PARAMS { prfType ulNumberOfDataParams pDataParams ulAdditionalDerivedKeys pAdditionalDerivedKeys }
    CK_SP800_108_FEEDBACK_KDF_PARAMS { prfType ulNumberOfDataParams pDataParams ulIVLen pIV ulAdditionalDerivedKeys pAdditionalDerivedKeys }
    CK_IKE2_PRF_PLUS_DERIVE_PARAMS { prfMechanism bHasSeedKey hSeedKey pSeedData ulSeedDataLen }
    CK_IKE_PRF_DERIVE_PARAMS { prfMechanism bDataAsKey bRekey pNi ulNiLen pNr ulNrLen hNewKey }
    CK_IKE1_PRF_DERIVE_PARAMS { prfMechanism bHasPrevKey hKeygxy hPrevKey pCKYi ulCKYiLen pCKYr ulCKYrLen keyNumber }
    CK_IKE1_EXTENDED_DERIVE_PARAMS { prfMechanism bHasKeygxy hKeygxy pExtraData ulExtraDataLen }
    CK_PBE_PARAMS { pInitVector pPassword ulPasswordLen pSalt ulSaltLen ulIteration }
    CK_PBE_PARAMS_WITHOUT_IV { pInitVector pPassword ulPasswordLen pSalt ulSaltLen ulIteration }
    CK_PKCS5_PBKD2_PARAMS { saltSource pSaltSourceData ulSaltSourceDataLen iterations prf pPrfData ulPrfDataLen pPassword ulPasswordLen }
    CK_OTP_PARAMS { pParams ulCount }
    CK_KIP_PARAMS { pMechanism hKey pSeed ulSeedLen }
    CK_CMS_SIG_PARAMS { certificateHandle pSigningMechanism pDigestMechanism pContentType pRequestedAttributes ulRequestedAttributesLen pRequiredAttributes ulRequiredAttributesLen }
    CK_SSL3_MASTER_KEY_DERIVE_PARAMS { RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pVersion }
    CK_SSL3_KEY_MAT_PARAMS { ulMacSizeInBits ulKeySizeInBits ulIVSizeInBits bIsExport RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pReturnedKeyMaterial }
    CK_TLS12_MASTER_KEY_DERIVE_PARAMS { RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pVersion prfHashMechanism }
    CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS { prfHashMechanism pSessionHash ulSessionHashLen pVersion }
    CK_TLS12_KEY_MAT_PARAMS { ulMacSizeInBits ulKeySizeInBits ulIVSizeInBits bIsExport RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pReturnedKeyMaterial prfHashMechanism }
    CK_TLS12_KEY_SAFE_PARAMS { ulMacSizeInBits ulKeySizeInBits ulIVSizeInBits bIsExport RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pReturnedKeyMaterial prfHashMechanism }
    CK_TLS12_KEY_SAFE_OUT { hClientMacSecret hServerMacSecret hClientKey hServerKey pIVClient pIVServer }
    CK_TLS_MAC_PARAMS { prfHashMechanism ulMacLength ulServerOrClient }
    CK_TLS_KDF_PARAMS { prfMechanism pLabel ulLabelLength RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pContextData ulContextDataLength }
    CK_TLS_PRF_PARAMS { pSeed ulSeedLen pLabel ulLabelLen pOutput pulOutputLen }
    CK_WTLS_MASTER_KEY_DERIVE_PARAMS { DigestMechanism RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pVersion }
    CK_WTLS_KEY_MAT_PARAMS { DigestMechanism ulMacSizeInBits ulKeySizeInBits ulIVSizeInBits ulSequenceNumber bIsExport RandomInfo.pClientRandom RandomInfo.ulClientRandomLen RandomInfo.pServerRandom RandomInfo.ulServerRandomLen pReturnedKeyMaterial }
    CK_WTLS_PRF_PARAMS { DigestMechanism pSeed ulSeedLen pLabel ulLabelLen pOutput pulOutputLen }
    CK_GCM_WRAP_PARAMS { pIv ulIvLen ulIvFixedBits ivGenerator pAAD ulAADLen ulTagBits }
    CK_GCM_MESSAGE_PARAMS { pIv ulIvLen ulIvFixedBits ivGenerator pTag ulTagBits }
    CK_CCM_WRAP_PARAMS { ulDataLen pNonce ulNonceLen ulNonceFixedBits nonceGenerator pAAD ulAADLen ulMACLen }
    CK_CCM_MESSAGE_PARAMS { ulDataLen pNonce ulNonceLen ulNonceFixedBits nonceGenerator pMAC ulMACLen }
    CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS { pNonce ulNonceLen pTag }
    CK_SP800_108_COUNTER_FORMAT { bLittleEndian ulWidthInBits }
    CK_SP800_108_DKM_LENGTH_FORMAT { dkmLengthMethod bLittleEndian ulWidthInBits }
    CK_PRF_DATA_PARAM { type_ pValue ulValueLen }
    CK_DERIVED_KEY { pTemplate ulAttributeCount phKey }
    CK_PKCS5_PBKD2_PARAMS2 { saltSource pSaltSourceData ulSaltSourceDataLen iterations prf pPrfData ulPrfDataLen pPassword ulPasswordLen }
    CK_OTP_PARAM { type_ pValue ulValueLen }
    CK_SSL3_KEY_MAT_OUT { hClientMacSecret hServerMacSecret hClientKey hServerKey pIVClient pIVServer }
    CK_WTLS_KEY_MAT_OUT { hMacSecret hKey pIV }
    CK_MECHANISM { mechanism pParameter ulParameterLen }
    CK_ATTRIBUTE { type_ pValue ulValueLen }    };
    // The standard gives a CK_ULONG another name for these, and the last one is older than the header.
    let numbers = [
        "CK_RC2_PARAMS",
        "CK_MAC_GENERAL_PARAMS",
        "CK_OBJECT_HANDLE",
        "CK_EXTRACT_PARAMS",
        "CK_GCM_PARAMS_V220",
    ];
    for layout in parameters::structures() {
        let known = compared.contains(&layout.name) || numbers.contains(&layout.name);
        assert!(known, "{} is not compared with C", layout.name);
    }
    for name in &numbers[..4] {
        assert_eq!(layout(name).size(Abi::HOST), size_of::<CK_ULONG>());
    }
}

/// Otherwise bytes could be read as the wrong structure.
#[test]
fn structures_of_one_mechanism_and_use_differ_in_size() {
    for (name, usage, layout) in super::support::all_takers() {
        let number = super::support::number_of(name);
        for other in parameters::layouts(number, usage) {
            let differ = Abi::candidates(Architecture::host())
                .iter()
                .all(|abi| other.size(*abi) != layout.size(*abi));
            let pbkdf2 = name == "CKM_PKCS5_PBKD2"; // told apart by the value of the last field
            assert!(other == layout || differ || pbkdf2, "{name}");
        }
    }
}

/// The example of the documentation.
fn example() -> &'static str {
    let text = include_str!("../../../docs/mechanisms.md");
    let (_, rest) = text.split_once("```toml\n").expect("an example");
    rest.split_once("```").expect("its end").0
}

#[test]
fn takes_a_vendors_structures_and_uses_them_in_every_conversion() {
    let table = VendorTable::parse("mechanisms.toml", example()).unwrap();
    assert_eq!(
        table.mechanisms(),
        [0x8001_0001, 0x8001_0002, 0x8001_0003, 0x8001_0004]
    );
    let refused = |number| {
        let mechanism =
            Mechanism::laid_out(MechanismType(number), vec![0; 48], Architecture::LITTLE_64);
        mechanism.assemble(Use::Operation, false).is_err()
    };
    assert!(refused(0x8001_0001));
    parameters::install(table);
    assert!(!refused(0x8001_0001));
    assert!(refused(0x8001_0005));

    let mut random = Random(8);
    for (number, name) in [
        (0x8001_0001, "CK_ACME_SEAL_PARAMS"),
        (0x8001_0002, "CK_ACME_SEAL_PARAMS"),
        (0x8001_0003, "CK_ACME_SHARE_PARAMS"),
        (0x8001_0004, "CK_GCM_PARAMS"),
    ] {
        let mechanism_type = MechanismType(number);
        for usage in [Use::Operation, Use::Message, Use::Wrap] {
            let layouts = parameters::layouts(mechanism_type, usage);
            assert_eq!(layouts.iter().map(|of| of.name).collect::<Vec<_>>(), [name]);
            let sent = Mechanism {
                mechanism_type,
                parameter: Parameter::Structure(random.structure(layouts[0])),
            };
            assert!(decoded(&encoded(&sent).unwrap()) == Ok(sent.clone()));
            let assembly = sent.assemble(usage, false).unwrap();
            let mut memory = FakeMemory::default();
            let address = memory.add_assembly(&assembly);
            let length = usize::try_from(assembly.length()).unwrap();
            let read = Mechanism::from_memory(mechanism_type, address, length, usage, &memory);
            assert!(read.unwrap().0 == sent, "{name}");
        }
    }

    // A pointer in bytes of version 3 is refused like one of the standard.
    let laid_out = |bytes: Vec<u8>| {
        let number = MechanismType(0x8001_0003);
        Mechanism::laid_out(number, bytes, Architecture::LITTLE_64)
    };
    assert!(
        laid_out(vec![0; 40])
            .assemble(Use::Operation, false)
            .is_ok()
    );
    let mut pointer = vec![0; 40];
    pointer[16] = 1;
    assert!(laid_out(pointer).assemble(Use::Operation, true).is_err());
    assert!(
        laid_out(vec![0; 41])
            .assemble(Use::Operation, true)
            .is_err()
    );

    // The next table replaces this one.
    parameters::install(VendorTable::default());
    assert!(refused(0x8001_0001));
}

/// The error that a table is refused with.
fn refusal(text: &str) -> String {
    let refused = VendorTable::parse("mechanisms.toml", text);
    refused.expect_err("an error in it").to_string()
}

#[test]
fn refuses_a_table_with_an_error_and_names_the_line() {
    let structure = |fields: &str| format!("[[structure]]\nname = \"CK_A\"\nfields = [{fields}]\n");
    for (text, expected) in [
        (
            "name = \"CK_A\"",
            "1: expected [[structure]] before the first key",
        ),
        (
            "[structure]",
            "1: expected [[structure]], found [structure]",
        ),
        (
            "\n[[structure]]\nname\n",
            "3: expected [[structure]] or KEY = VALUE",
        ),
        ("[[structure]]\n", "1: the structure has no name"),
        ("[[structure]]\nname = \"CK_A\"\n", "2: CK_A has no fields"),
        (
            "[[structure]]\nname = \"CK A\"\n",
            "2: expected the name of a C structure",
        ),
        (
            "[[structure]]\nname = 7\n",
            "2: expected the name of a C structure",
        ),
        (
            "[[structure]]\nname = \"CK_A\"\nfields = \"a: number\"",
            "3: expected an array for fields",
        ),
        (
            "[[structure]]\nname = \"CK_A\"\nname = \"CK_B\"",
            "3: name is given twice",
        ),
        (
            "[[structure]]\nname = \"CK_A\"\nsize = 3",
            "3: unknown key size",
        ),
        (
            "[[structure]]\nname = \"CK_A",
            "2: the string has no closing quote",
        ),
        (
            "[[structure]]\nname = \"CK_A\" x",
            "2: expected the end of the line, found x",
        ),
        (
            "[[structure]]\nname = \"CK\\A\"",
            "2: a backslash in a string has no meaning here",
        ),
        ("[[structure]]\nname =", "2: expected a value for name"),
        (
            "[[structure]]\nname = CK_A",
            "2: expected a string or a number, found CK_A",
        ),
        (
            "[[structure]]\nfields = [\n\"a: number\"",
            "3: the array of line 2 has no ]",
        ),
        (
            "[[structure]]\nfields = [\n\"a: number\"\n\"b: number\"\n]",
            "4: expected a comma or ]",
        ),
        (
            "[[structure]]\nfields = [,]",
            "2: expected a value before the comma",
        ),
        (
            "[[structure]]\nname = \"CK_GCM_PARAMS\"\nfields = [\"a: number\"]",
            "3: CK_GCM_PARAMS is in the standard: its fields cannot be given again",
        ),
        (
            "[[structure]]\nname = \"CK_GCM_PARAMS\"\nmechanisms = [0x1087]",
            "3: 0x1087 is a mechanism of the standard",
        ),
        (
            "[[structure]]\nname = \"CK_GCM_PARAMS\"\nmechanisms = [\n    \"CKM_AES_GCM\"]",
            "4: expected the number of a vendor's mechanism, found CKM_AES_GCM",
        ),
        (
            "[[structure]]\nname = \"CK_GCM_PARAMS\"\nmechanisms = [\"AES\"]",
            "3: expected a mechanism, as CKM_NAME or as a number, found AES",
        ),
        (
            "[[structure]]\nname = \"CK_SSL3_KEY_MAT_OUT\"\nmechanisms = [0x80000001]",
            "3: CK_SSL3_KEY_MAT_OUT needs the field ulIVSizeInBits of a structure around it",
        ),
    ] {
        assert_eq!(
            refusal(text),
            format!("mechanisms.toml:{expected}"),
            "{text}"
        );
    }
    for (fields, expected) in [
        ("", "a structure has 1 to 64 fields"),
        ("7", "expected a field, as \"NAME: KIND\""),
        ("\"a\"", "expected \"NAME: KIND\", found a"),
        ("\"1a: number\"", "expected the name of a field, found 1a"),
        ("\"a: number\", \"a: number\"", "the field a is given twice"),
        ("\"a: word\"", "a: unknown kind word"),
        ("\"a: bytes[0]\"", "a: expected a number from 1 to 4096"),
        ("\"a: bytes[5000]\"", "a: expected a number from 1 to 4096"),
        ("\"a: bytes(5000)\"", "a: expected a number from 1 to 4096"),
        ("\"a: bytes(b)\"", "a: the structure has no field b"),
        (
            "\"a: bytes(b)\", \"b: flag\"",
            "a: its length is not of the kind length or number",
        ),
        (
            "\"a: bytes(*b)\", \"b: length\"",
            "a: its length is not of the kind length*",
        ),
        ("\"a: CK_B*\"", "a: CK_B is not declared above"),
        ("\"a: CK_A*\"", "a: CK_A is not declared above"),
        (
            "\"a: CK_OTP_PARAM*(b)\", \"b: byte\"",
            "a: its count is not of the kind length or number",
        ),
        (
            "\"a: CK_OTP_PARAM* out\"",
            "a: the module cannot write what this points to",
        ),
        (
            "\"a: text* inout\"",
            "a: the module cannot write what this points to",
        ),
        (
            "\"a: key* out\"",
            "a: only bytes can be out; a number is inout",
        ),
        (
            "\"a: flag out\"",
            "a: the module writes numbers and keys only, beside what pointers refer to",
        ),
        (
            "\"a: CK_SSL3_KEY_MAT_OUT*\"",
            "a: CK_SSL3_KEY_MAT_OUT needs a number ulIVSizeInBits here",
        ),
        (
            "\"t: key\", \"a: bytes(l) by t: 1 number\", \"l: length\"",
            "a: what tells its kind is not a number",
        ),
        (
            "\"t: number\", \"a: bytes(l) by t: 1 number\", \"l: number\"",
            "a: its length is not of the kind length",
        ),
        (
            "\"t: number\", \"a: bytes(l) by t: 1 CK_GCM_PARAMS\", \"l: length\"",
            "a: a structure that depends on a field consists of numbers only",
        ),
        (
            "\"t: number\", \"a: bytes(l) by t: 1 key, 1 key\", \"l: length\"",
            "a: the value 1 is given twice",
        ),
    ] {
        let text = structure(fields);
        assert_eq!(
            refusal(&text),
            format!("mechanisms.toml:3: {expected}"),
            "{text}"
        );
    }
    let many: Vec<String> = (0..65)
        .map(|index| format!("\"a{index}: number\""))
        .collect();
    let text = structure(&many.join(", "));
    assert_eq!(
        refusal(&text),
        "mechanisms.toml:3: a structure has 1 to 64 fields"
    );
    let same = "mechanisms = [0x80000001]\n";
    let text = structure("\"a: number\"") + same;
    let text = text + "[[structure]]\nname = \"CK_B\"\nfields = [\"b: text*\"]\n" + same;
    assert_eq!(
        refusal(&text),
        "mechanisms.toml:8: CK_B has the size of CK_A, so nothing tells them apart"
    );
    let twice = structure("\"a: number\"").repeat(2);
    assert_eq!(refusal(&twice), "mechanisms.toml:5: CK_A is declared twice");
}

#[test]
fn refuses_structures_that_nest_too_deep() {
    let chain = |length: usize| {
        let mut text = "[[structure]]\nname = \"CK_1\"\nfields = [\"a: number\"]\n".to_owned();
        for level in 2..=length {
            let below = level - 1;
            text +=
                &format!("[[structure]]\nname = \"CK_{level}\"\nfields = [\"a: CK_{below}*\"]\n");
        }
        text
    };
    assert!(VendorTable::parse("mechanisms.toml", &chain(4)).is_ok());
    assert_eq!(
        refusal(&chain(5)),
        "mechanisms.toml:14: CK_5 nests more than 4 deep"
    );
}

/// No table makes the parser panic: every prefix and every change of one byte of the example.
#[test]
fn survives_every_table() {
    let text = example();
    for position in 0..text.len() {
        let _ = VendorTable::parse("", text.get(..position).unwrap_or_default());
        for change in [
            "\"", "]", "[", ",", "(", ")", ":", "*", "^", " ", "#", "=", "\n", "0", "é",
        ] {
            if let (Some(before), Some(after)) = (text.get(..position), text.get(position + 1..)) {
                let _ = VendorTable::parse("", &[before, change, after].concat());
            }
        }
    }
}
