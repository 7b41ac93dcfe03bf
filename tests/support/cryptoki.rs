//! Names PKCS#11's constants for the tests, and builds arguments in a client's layout.

#![allow(missing_docs, reason = "the standard's names")]

use xdr::version3::{Attribute, Mechanism, Template};
use xdr::{Architecture, AttributeType, MechanismType};

pub mod cka {
    pub const CLASS: u64 = 0x000;
    pub const TOKEN: u64 = 0x001;
    pub const PRIVATE: u64 = 0x002;
    pub const LABEL: u64 = 0x003;
    pub const APPLICATION: u64 = 0x010;
    pub const VALUE: u64 = 0x011;
    pub const TRUSTED: u64 = 0x086;
    pub const KEY_TYPE: u64 = 0x100;
    pub const ID: u64 = 0x102;
    pub const SENSITIVE: u64 = 0x103;
    pub const ENCRYPT: u64 = 0x104;
    pub const DECRYPT: u64 = 0x105;
    pub const WRAP: u64 = 0x106;
    pub const UNWRAP: u64 = 0x107;
    pub const SIGN: u64 = 0x108;
    pub const SIGN_RECOVER: u64 = 0x109;
    pub const VERIFY: u64 = 0x10a;
    pub const VERIFY_RECOVER: u64 = 0x10b;
    pub const DERIVE: u64 = 0x10c;
    pub const MODULUS: u64 = 0x120;
    pub const MODULUS_BITS: u64 = 0x121;
    pub const PUBLIC_EXPONENT: u64 = 0x122;
    pub const PRIVATE_EXPONENT: u64 = 0x123;
    pub const PRIME_1: u64 = 0x124;
    pub const PRIME_2: u64 = 0x125;
    pub const EXPONENT_1: u64 = 0x126;
    pub const EXPONENT_2: u64 = 0x127;
    pub const COEFFICIENT: u64 = 0x128;
    pub const PRIME: u64 = 0x130;
    pub const BASE: u64 = 0x132;
    pub const VALUE_LEN: u64 = 0x161;
    pub const EXTRACTABLE: u64 = 0x162;
    pub const LOCAL: u64 = 0x163;
    pub const NEVER_EXTRACTABLE: u64 = 0x164;
    pub const ALWAYS_SENSITIVE: u64 = 0x165;
    pub const MODIFIABLE: u64 = 0x170;
    pub const EC_PARAMS: u64 = 0x180;
    pub const EC_POINT: u64 = 0x181;
    pub const WRAP_WITH_TRUSTED: u64 = 0x210;
    pub const WRAP_TEMPLATE: u64 = 0x4000_0211;
    pub const UNWRAP_TEMPLATE: u64 = 0x4000_0212;
}

pub mod cko {
    pub const DATA: u64 = 0;
    pub const CERTIFICATE: u64 = 1;
    pub const PUBLIC_KEY: u64 = 2;
    pub const PRIVATE_KEY: u64 = 3;
    pub const SECRET_KEY: u64 = 4;
}

pub mod ckk {
    pub const RSA: u64 = 0x00;
    pub const DH: u64 = 0x02;
    pub const EC: u64 = 0x03;
    pub const GENERIC_SECRET: u64 = 0x10;
    pub const DES2: u64 = 0x14;
    pub const DES3: u64 = 0x15;
    pub const AES: u64 = 0x1f;
}

pub mod ckm {
    pub const RSA_PKCS_KEY_PAIR_GEN: u64 = 0x0;
    pub const RSA_PKCS: u64 = 0x1;
    pub const RSA_X_509: u64 = 0x3;
    pub const SHA1_RSA_PKCS: u64 = 0x6;
    pub const RSA_PKCS_OAEP: u64 = 0x9;
    pub const RSA_PKCS_PSS: u64 = 0xd;
    pub const DH_PKCS_KEY_PAIR_GEN: u64 = 0x20;
    pub const DH_PKCS_DERIVE: u64 = 0x21;
    pub const SHA256_RSA_PKCS: u64 = 0x40;
    pub const SHA224_RSA_PKCS: u64 = 0x46;
    pub const DES3_KEY_GEN: u64 = 0x131;
    pub const DES3_ECB: u64 = 0x132;
    pub const DES3_CBC: u64 = 0x133;
    pub const DES3_CBC_PAD: u64 = 0x136;
    pub const SHA_1: u64 = 0x220;
    pub const SHA_1_HMAC: u64 = 0x221;
    pub const SHA256: u64 = 0x250;
    pub const SHA256_HMAC: u64 = 0x251;
    pub const GENERIC_SECRET_KEY_GEN: u64 = 0x350;
    pub const CONCATENATE_BASE_AND_KEY: u64 = 0x360;
    pub const CONCATENATE_BASE_AND_DATA: u64 = 0x362;
    pub const XOR_BASE_AND_DATA: u64 = 0x364;
    pub const EXTRACT_KEY_FROM_KEY: u64 = 0x365;
    pub const EC_KEY_PAIR_GEN: u64 = 0x1040;
    pub const ECDSA: u64 = 0x1041;
    pub const ECDH1_DERIVE: u64 = 0x1050;
    pub const AES_KEY_GEN: u64 = 0x1080;
    pub const AES_ECB: u64 = 0x1081;
    pub const AES_CBC: u64 = 0x1082;
    pub const AES_CBC_PAD: u64 = 0x1085;
    pub const AES_CTR: u64 = 0x1086;
    pub const AES_GCM: u64 = 0x1087;
    pub const AES_CMAC: u64 = 0x108a;
    pub const AES_ECB_ENCRYPT_DATA: u64 = 0x1104;
    pub const AES_CBC_ENCRYPT_DATA: u64 = 0x1105;
    pub const AES_KEY_WRAP: u64 = 0x2109;
    pub const AES_KEY_WRAP_PAD: u64 = 0x210a;
}

pub const TRUE: &[u8] = &[1];
pub const FALSE: &[u8] = &[0];

/// A template whose value lengths are those of the values.
pub fn template<V: AsRef<[u8]>>(attributes: &[(u64, V)]) -> Template {
    let make =
        |(kind, value): &(u64, V)| Attribute::new(AttributeType(*kind), value.as_ref().to_vec());
    Template(attributes.iter().map(make).collect())
}

/// A mechanism and its parameter.
pub fn mechanism(kind: u64, parameter: &[u8]) -> Mechanism {
    Mechanism::unread(MechanismType(kind), parameter.to_vec())
}

/// A CK_ULONG of a client of this architecture.
pub fn word(architecture: Architecture, number: u64) -> Vec<u8> {
    match architecture {
        Architecture::LITTLE_64 => number.to_le_bytes().to_vec(),
        Architecture::LITTLE_32 => (number as u32).to_le_bytes().to_vec(),
        Architecture::BIG_64 => number.to_be_bytes().to_vec(),
        _ => (number as u32).to_be_bytes().to_vec(),
    }
}

/// A CK_ULONG of a client that is as this machine.
pub fn long(number: u64) -> Vec<u8> {
    word(Architecture::LITTLE_64, number)
}

/// CK_RSA_PKCS_OAEP_PARAMS of such a client: SHA-1, MGF1 with SHA-1, no label.
pub fn oaep_of(architecture: Architecture) -> Mechanism {
    let words = [ckm::SHA_1, 1, 1, 0, 0];
    let parameter: Vec<u8> = words
        .into_iter()
        .flat_map(|it| word(architecture, it))
        .collect();
    mechanism(ckm::RSA_PKCS_OAEP, &parameter)
}

/// The same of a client that is as this machine.
pub fn oaep() -> Mechanism {
    oaep_of(Architecture::LITTLE_64)
}

/// The prime and the generator of the second Oakley group, of 1024 bits (RFC 2409, 6.2).
pub fn dh_group() -> (Vec<u8>, Vec<u8>) {
    let prime = unhex(
        "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd\
         ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed\
         ee386bfb5a899fa5ae9f24117c4b1fe649286651ece65381ffffffffffffffff",
    );
    (prime, vec![2])
}

/// The parts of the RSA key of 1024 bits that the vectors of the wrapping format were made with:
/// modulus, public exponent, private exponent, primes, exponents, coefficient.
pub fn rsa_parts() -> [(u64, Vec<u8>); 8] {
    [
        (
            cka::MODULUS,
            "b9da28327090777d6d8430e459601d11053704d0aac2d2d8defccd3a380984299d8d87db22788ab2ed16f2fa3adc7f1a\
             7b6f5fbd31e1351d3b4967958f5cacfd0e4c1edca7fdb91febbc84d690d1a6dbf9d07b06142c79e52e2a899c49a5662e\
             9132dce72263a678bdc8f0fe59d55b116468cc8eb5de3772294362ceba1050d7",
        ),
        (cka::PUBLIC_EXPONENT, "010001"),
        (
            cka::PRIVATE_EXPONENT,
            "08c2889c8003bf2e114866c98c90e42dd63216af032d75a4b535f332684bc287f79e21262a04c67cd281ff67ddf860a1\
             4dea1cf81ceec18324353c85a72136220ea52e771c2aa82f5b713edd87b1450073b7275b504ea8537a8c487f5646a3ac\
             41e280ebc341c85aabaf053ac6515d51dd80a11a28e2919198408d4f586ca1e9",
        ),
        (
            cka::PRIME_1,
            "f47f967e1664e9eb8831e7cafa5e1c5c58777158efef1b1c42b9baa40e925d893fafa8086ded685335a261330f912b29\
             8a85b07b0bd36e380b33212a41cd2fa5",
        ),
        (
            cka::PRIME_2,
            "c2984ffd8d8e2c1b2496efb0a0be916675b49bbee793ebfdf84e542e48aaf286db6f94d1194674ce6d685f14abf6cfea\
             eea5d0ada581ac74b98639329f3715cb",
        ),
        (
            cka::EXPONENT_1,
            "24e678ad10ee2c0bbb23650b525c0fc5b4285ab804863ebe3627d7ce58d0a84345945a34e37a582b6ec5d20ba5c6d00f\
             d5f3355e6cbb7d400218b661ad4aad6d",
        ),
        (
            cka::EXPONENT_2,
            "0ea7fa1e56b3068f64ca19736c27ee3b9151f10907d81446249581b19ab7855cb2da4c93131c435fe8cd9b9baaf803e0\
             e5e887370ce81f5d0b3c18c2bf4b1ed1",
        ),
        (
            cka::COEFFICIENT,
            "2a6f137a219dbf40f0ec9dd319338612e1d50d2c6edf0d8e2f670cef42b7cb9c84a6324fad52da1326bb0fecbcb3a52f\
             78b1adfb00614b4ab13f51b44dffda46",
        ),
    ]
    .map(|(kind, text)| (kind, unhex(text)))
}

/// Bytes out of hexadecimal text.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}
