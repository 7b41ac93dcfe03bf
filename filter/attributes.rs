//! Represents the attributes that rules are about, whether of an object or of a client's template.
//!
//! `object_reader` reads those of an object from the module; those of a template come from the call. Both become
//! [`Attributes`]: the class, and the values that occur for each boolean. `patches` decides which combinations are
//! refused, and how.

use std::ffi::c_ulong;

use cryptoki_sys::*;
use xdr::word_size::{narrow, wide};
use xdr::{AttributeType, CkRv, Template};

/// CKA_CLASS.
pub const CLASS: AttributeType = AttributeType(wide(CKA_CLASS));

/// Whether the module takes both types for the same attribute. A host of 4-byte words sees the lower half only.
pub fn is_same(one: AttributeType, other: AttributeType) -> bool {
    narrow(one.0) == narrow(other.0)
}

macro_rules! booleans {
    ($($name:ident = $number:ident,)*) => {
        /// A boolean attribute that rules are about.
        #[allow(missing_docs)] // the standard's names
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Boolean { $($name),* }

        impl Boolean {
            /// Every boolean that rules are about.
            pub const ALL: &'static [Boolean] = &[$(Boolean::$name),*];

            /// The attribute's type.
            pub const fn attribute_type(self) -> AttributeType {
                match self { $(Boolean::$name => AttributeType(wide($number))),* }
            }

            /// The standard's name, such as `CKA_WRAP`.
            pub const fn name(self) -> &'static str {
                match self { $(Boolean::$name => stringify!($number)),* }
            }
        }
    };
}

booleans! {
    Sensitive = CKA_SENSITIVE,
    Extractable = CKA_EXTRACTABLE,
    AlwaysSensitive = CKA_ALWAYS_SENSITIVE,
    NeverExtractable = CKA_NEVER_EXTRACTABLE,
    Encrypt = CKA_ENCRYPT,
    Decrypt = CKA_DECRYPT,
    Wrap = CKA_WRAP,
    Unwrap = CKA_UNWRAP,
    Private = CKA_PRIVATE,
    Derive = CKA_DERIVE,
    Sign = CKA_SIGN,
    Verify = CKA_VERIFY,
    SignRecover = CKA_SIGN_RECOVER,
    VerifyRecover = CKA_VERIFY_RECOVER,
    Local = CKA_LOCAL,
}

impl Boolean {
    /// The boolean of this type, if rules are about it.
    pub fn of(attribute_type: AttributeType) -> Option<Boolean> {
        let mut all = Boolean::ALL.iter().copied();
        all.find(|boolean| is_same(boolean.attribute_type(), attribute_type))
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A boolean and its value: an entry of a rule's table.
pub type Setting = (Boolean, bool);

/// The booleans that occur, with their values. A boolean that does not occur is neither true nor false. In two
/// templates together, a boolean may be both.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Booleans {
    yes: u32,
    no: u32,
}

impl Booleans {
    /// Whether this attribute occurs with this value.
    pub fn has(self, (boolean, value): Setting) -> bool {
        let values = if value { self.yes } else { self.no };
        values & boolean.bit() != 0
    }

    /// Whether this attribute occurs.
    pub fn mentions(self, boolean: Boolean) -> bool {
        (self.yes | self.no) & boolean.bit() != 0
    }

    /// Returns the settings that occur in either, for the two templates of a key pair.
    pub fn together_with(self, other: Booleans) -> Booleans {
        Booleans {
            yes: self.yes | other.yes,
            no: self.no | other.no,
        }
    }

    /// Returns what an object has after `new` was set on it.
    pub fn overridden_by(self, new: Booleans) -> Booleans {
        let kept = !(new.yes | new.no);
        Booleans {
            yes: self.yes & kept | new.yes,
            no: self.no & kept | new.no,
        }
    }

    fn set(&mut self, boolean: Boolean, value: bool) {
        let values = if value { &mut self.yes } else { &mut self.no };
        *values |= boolean.bit();
    }
}

impl FromIterator<Setting> for Booleans {
    fn from_iter<I: IntoIterator<Item = Setting>>(settings: I) -> Booleans {
        let mut booleans = Booleans::default();
        for (boolean, value) in settings {
            booleans.set(boolean, value);
        }
        booleans
    }
}

/// The value of CKA_CLASS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Class(pub u64);

impl Class {
    /// CKO_PUBLIC_KEY.
    pub const PUBLIC_KEY: Class = Class(wide(CKO_PUBLIC_KEY));
    /// CKO_PRIVATE_KEY.
    pub const PRIVATE_KEY: Class = Class(wide(CKO_PRIVATE_KEY));
    /// CKO_SECRET_KEY.
    pub const SECRET_KEY: Class = Class(wide(CKO_SECRET_KEY));

    /// Whether this is a class of keys. Every class that the standard does not define, such as a vendor's, counts as
    /// one. The original knows only the three above.
    pub fn is_key(self) -> bool {
        const NO_KEYS: [CK_OBJECT_CLASS; 8] = [
            CKO_DATA,
            CKO_CERTIFICATE,
            CKO_HW_FEATURE,
            CKO_DOMAIN_PARAMETERS,
            CKO_MECHANISM,
            CKO_PROFILE,
            CKO_VALIDATION,
            CKO_TRUST,
        ];
        !NO_KEYS.iter().any(|class| wide(*class) == self.0)
    }

    fn from_value(value: &[u8]) -> Option<Class> {
        let value = value.try_into().ok()?;
        Some(Class(wide(c_ulong::from_ne_bytes(value))))
    }
}

/// The attributes that rules look at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// CKA_CLASS.
    pub class: Option<Class>,
    /// The booleans.
    pub booleans: Booleans,
}

impl Attributes {
    /// Reads a client's template.
    ///
    /// Every template is in canonical form before a rule sees it. One that is not is refused here, so
    /// that no rule judges another value than the module takes.
    pub fn of_template(template: &Template) -> Result<Attributes, CkRv> {
        let mut found = Attributes::default();
        for attribute in &template.0 {
            if is_same(attribute.attribute_type, CLASS) {
                // An empty class counts as missing.
                if attribute.bytes().is_empty() {
                    continue;
                }
                let class = Class::from_value(attribute.bytes());
                let class = class.ok_or(CkRv::ATTRIBUTE_VALUE_INVALID)?;
                if found.class.replace(class).is_some() {
                    return Err(CkRv::TEMPLATE_INCONSISTENT);
                }
            } else if let Some(boolean) = Boolean::of(attribute.attribute_type) {
                let [value] = *attribute.bytes() else {
                    return Err(CkRv::ATTRIBUTE_VALUE_INVALID);
                };
                if found.booleans.mentions(boolean) {
                    return Err(CkRv::TEMPLATE_INCONSISTENT);
                }
                found.booleans.set(boolean, value != 0);
            }
        }
        Ok(found)
    }

    /// Adds the value of an object's attribute. A boolean is true if any of its bytes is not zero.
    pub(crate) fn add(&mut self, attribute_type: AttributeType, value: &[u8]) -> Result<(), CkRv> {
        match Boolean::of(attribute_type) {
            Some(boolean) => self
                .booleans
                .set(boolean, value.iter().any(|byte| *byte != 0)),
            None => self.class = Some(Class::from_value(value).ok_or(CkRv::GENERAL_ERROR)?),
        }
        Ok(())
    }
}
