//! Lists the type of each attribute's value: number, boolean, array of attributes, or bytes.
//!
//! The table covers PKCS#11 v2.20 to v3.2. Version 4 of the protocol encodes values by it; the filter and version 3
//! look up single attributes. Nothing here refuses an attribute.

use cryptoki_sys::*;

use crate::integers::AttributeType;
use crate::word_size::narrow;

/// What kind of values an attribute has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Bytes, or something that is not known.
    Bytes,
    /// A CK_BBOOL.
    Boolean,
    /// A CK_ULONG, or a type that is one.
    Number,
    /// An array of CK_ULONG.
    Numbers,
    /// An array of CK_ATTRIBUTE, which holds addresses.
    Template,
}

/// NSS's vendor attributes. Their types happen to have the bit that marks an array attribute, but
/// their values hold no addresses (the trust of a certificate, its URL).
const NSS_ATTRIBUTES: std::ops::RangeInclusive<CK_ATTRIBUTE_TYPE> = 0xce53_4350..=0xce53_6400;

/// Returns what kind of values attributes of this type have.
pub fn kind(attribute_type: AttributeType) -> Kind {
    let number = narrow(attribute_type.0);
    if is_boolean(attribute_type) {
        return Kind::Boolean;
    }
    if is_number(attribute_type) {
        return Kind::Number;
    }
    match number {
        CKA_CERTIFICATE_CATEGORY
        | CKA_NAME_HASH_ALGORITHM
        | CKA_PRIME_BITS
        | CKA_SUBPRIME_BITS
        | CKA_VALUE_BITS
        | CKA_OTP_FORMAT
        | CKA_OTP_LENGTH
        | CKA_OTP_TIME_INTERVAL
        | CKA_OTP_CHALLENGE_REQUIREMENT
        | CKA_OTP_TIME_REQUIREMENT
        | CKA_OTP_COUNTER_REQUIREMENT
        | CKA_OTP_PIN_REQUIREMENT
        | CKA_HW_FEATURE_TYPE
        | CKA_PROFILE_ID
        | CKA_X2RATCHET_BAGSIZE
        | CKA_X2RATCHET_NR
        | CKA_X2RATCHET_NS
        | CKA_X2RATCHET_PNS
        | CKA_HSS_LEVELS
        | CKA_HSS_LMS_TYPE
        | CKA_HSS_LMOTS_TYPE
        | CKA_HSS_KEYS_REMAINING
        | CKA_PARAMETER_SET
        | CKA_OBJECT_VALIDATION_FLAGS
        | CKA_VALIDATION_TYPE
        | CKA_VALIDATION_LEVEL
        | CKA_VALIDATION_FLAG
        | CKA_VALIDATION_AUTHORITY_TYPE
        | CKA_TRUST_SERVER_AUTH
        | CKA_TRUST_CLIENT_AUTH
        | CKA_TRUST_CODE_SIGNING
        | CKA_TRUST_EMAIL_PROTECTION
        | CKA_TRUST_IPSEC_IKE
        | CKA_TRUST_TIME_STAMPING
        | CKA_TRUST_OCSP_SIGNING => Kind::Number,
        CKA_ALLOWED_MECHANISMS | CKA_HSS_LMS_TYPES | CKA_HSS_LMOTS_TYPES => Kind::Numbers,
        // Array attributes without the bit that marks them.
        CKA_ENCAPSULATE_TEMPLATE | CKA_DECAPSULATE_TEMPLATE => Kind::Template,
        number if NSS_ATTRIBUTES.contains(&number) => Kind::Bytes,
        number if number & CKF_ARRAY_ATTRIBUTE != 0 => Kind::Template,
        _ => Kind::Bytes,
    }
}

/// Whether values of this type are arrays of CK_ATTRIBUTE, which hold addresses. The bytes of such a value never
/// leave the client and never reach a module.
pub fn is_nested(attribute_type: AttributeType) -> bool {
    kind(attribute_type) == Kind::Template
}

/// Whether values of this type are CK_BBOOLs: in PKCS#11 v2.20 to v3.2.
pub fn is_boolean(attribute_type: AttributeType) -> bool {
    matches!(
        narrow(attribute_type.0),
        CKA_TOKEN
            | CKA_PRIVATE
            | CKA_TRUSTED
            | CKA_SENSITIVE
            | CKA_ENCRYPT
            | CKA_DECRYPT
            | CKA_WRAP
            | CKA_UNWRAP
            | CKA_SIGN
            | CKA_SIGN_RECOVER
            | CKA_VERIFY
            | CKA_VERIFY_RECOVER
            | CKA_DERIVE
            | CKA_EXTRACTABLE
            | CKA_LOCAL
            | CKA_NEVER_EXTRACTABLE
            | CKA_ALWAYS_SENSITIVE
            | CKA_MODIFIABLE
            | CKA_COPYABLE
            | CKA_DESTROYABLE
            | CKA_SECONDARY_AUTH
            | CKA_ALWAYS_AUTHENTICATE
            | CKA_WRAP_WITH_TRUSTED
            | CKA_OTP_USER_FRIENDLY_MODE
            | CKA_RESET_ON_INIT
            | CKA_HAS_RESET
            | CKA_ENCAPSULATE
            | CKA_DECAPSULATE
    )
}

/// Whether values of this type are CK_ULONGs that version 3 converts between architectures.
pub fn is_number(attribute_type: AttributeType) -> bool {
    matches!(
        narrow(attribute_type.0),
        CKA_CLASS
            | CKA_CERTIFICATE_TYPE
            | CKA_JAVA_MIDP_SECURITY_DOMAIN
            | CKA_KEY_TYPE
            | CKA_MODULUS_BITS
            | CKA_VALUE_LEN
            | CKA_KEY_GEN_MECHANISM
            | CKA_AUTH_PIN_FLAGS
            | CKA_PIXEL_X
            | CKA_PIXEL_Y
            | CKA_RESOLUTION
            | CKA_CHAR_ROWS
            | CKA_CHAR_COLUMNS
            | CKA_COLOR
            | CKA_BITS_PER_PIXEL
            | CKA_MECHANISM_TYPE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word_size::wide;

    #[test]
    fn array_attributes_are_arrays_of_attributes_or_of_numbers() {
        let of = |number| kind(AttributeType(wide(number)));
        for template in [
            CKA_WRAP_TEMPLATE,
            CKA_UNWRAP_TEMPLATE,
            CKA_DERIVE_TEMPLATE,
            CKA_ENCAPSULATE_TEMPLATE,
            CKA_DECAPSULATE_TEMPLATE,
            CKA_VENDOR_DEFINED | CKF_ARRAY_ATTRIBUTE | 1,
        ] {
            assert_eq!(of(template), Kind::Template, "{template:#x}");
        }
        assert_eq!(of(CKA_ALLOWED_MECHANISMS), Kind::Numbers);
        assert_eq!(of(0xce53_4351), Kind::Bytes);
        assert_eq!(of(CKA_LABEL), Kind::Bytes);
        assert_eq!(of(CKA_CLASS), Kind::Number);
        assert_eq!(of(CKA_TOKEN), Kind::Boolean);
    }
}
