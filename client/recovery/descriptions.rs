//! Describes objects and tokens by their properties, so that they are recognised when their handles are gone.
//!
//! An object is described by public attributes: its name, its type, and the value of a public key or certificate. The
//! value of a private or secret key is never asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use xdr::{Attribute, AttributeType, Template, TokenInfo, Ulong, Wanted};

use super::counterparts::Counterpart;

/// Attributes (CKA_*) by which objects are found and compared.
pub(super) mod attribute {
    pub const CLASS: u64 = 0x0;
    pub const TOKEN: u64 = 0x1;
    pub const PRIVATE: u64 = 0x2;
    pub const LABEL: u64 = 0x3;
    pub const UNIQUE_ID: u64 = 0x4;
    pub const APPLICATION: u64 = 0x10;
    pub const VALUE: u64 = 0x11;
    pub const OBJECT_ID: u64 = 0x12;
    pub const ISSUER: u64 = 0x81;
    pub const SERIAL_NUMBER: u64 = 0x82;
    pub const CHECK_VALUE: u64 = 0x90;
    pub const KEY_TYPE: u64 = 0x100;
    pub const SUBJECT: u64 = 0x101;
    pub const ID: u64 = 0x102;
    pub const MODULUS: u64 = 0x120;
    pub const PUBLIC_EXPONENT: u64 = 0x122;
    pub const PUBLIC_KEY_INFO: u64 = 0x129;
    pub const PRIME: u64 = 0x130;
    pub const SUBPRIME: u64 = 0x131;
    pub const BASE: u64 = 0x132;
    pub const EC_PARAMS: u64 = 0x180;
    pub const EC_POINT: u64 = 0x181;
    pub const PARAMETER_SET: u64 = 0x61d;
}
use attribute::*;

/// Classes of objects (CKO_*).
pub(super) mod class {
    pub const DATA: u64 = 0;
    pub const CERTIFICATE: u64 = 1;
    pub const PUBLIC_KEY: u64 = 2;
    pub const PRIVATE_KEY: u64 = 3;
    pub const SECRET_KEY: u64 = 4;
}
use class::*;

/// Attributes of objects of any class.
const COMMON: &[u64] = &[CLASS, TOKEN, PRIVATE, LABEL, ID, KEY_TYPE, UNIQUE_ID];

/// Returns the further attributes of objects of this class.
fn special(class: u64) -> &'static [u64] {
    match class {
        DATA => &[APPLICATION, OBJECT_ID],
        CERTIFICATE => &[VALUE, ISSUER, SERIAL_NUMBER, SUBJECT],
        PUBLIC_KEY => &[
            MODULUS,
            PUBLIC_EXPONENT,
            EC_PARAMS,
            EC_POINT,
            PRIME,
            SUBPRIME,
            BASE,
            PARAMETER_SET,
            VALUE,
        ],
        PRIVATE_KEY => &[
            MODULUS,
            PUBLIC_EXPONENT,
            EC_PARAMS,
            PRIME,
            SUBPRIME,
            BASE,
            PARAMETER_SET,
            PUBLIC_KEY_INFO,
        ],
        SECRET_KEY => &[CHECK_VALUE],
        _ => &[],
    }
}

/// The longest value that is read, in bytes; longer ones are ignored.
const ROOM: usize = 4096;

/// The values of attributes, by the attributes' types.
pub(super) type Values = BTreeMap<u64, Vec<u8>>;

/// The attributes by which an object is recognised.
#[derive(Clone)]
pub(super) struct Description {
    /// The token on which the object is, if that is known.
    token: Option<Arc<Token>>,
    /// The CKA_UNIQUE_ID, which is meaningful on that token only.
    unique_id: Option<Vec<u8>>,
    values: Values,
    /// The counterpart of a private key that does not show its public value itself. The outer `None`: not looked for
    /// yet.
    pub counterpart: Option<Option<Counterpart>>,
}

/// Reads the describing attributes of one object. Leaves out those that the object does not have or that may not be
/// read.
pub(super) fn describe<E>(
    token: Option<Arc<Token>>,
    mut ask: impl FnMut(Vec<Wanted>) -> Result<Values, E>,
) -> Result<Description, E> {
    let mut wanted = |types: &[u64]| {
        let wanted = types
            .iter()
            .map(|it| Wanted::value(AttributeType(*it), ROOM));
        ask(wanted.collect())
    };
    let mut values = wanted(COMMON)?;
    let class = values.get(&CLASS).and_then(|it| number(it));
    let special = class.map_or(&[][..], special);
    if !special.is_empty() {
        values.append(&mut wanted(special)?);
    }
    values.retain(|_, value| !value.is_empty());
    let unique_id = values.remove(&UNIQUE_ID);
    Ok(Description {
        token,
        unique_id,
        values,
        counterpart: None,
    })
}

/// Reads a CK_ULONG in this host's representation.
fn number(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        8 => Some(u64::from_ne_bytes(bytes.try_into().ok()?)),
        4 => Some(u32::from_ne_bytes(bytes.try_into().ok()?).into()),
        _ => None,
    }
}

/// Makes a CK_ULONG of this length in bytes.
fn bytes(number: u64, length: usize) -> Vec<u8> {
    match u32::try_from(number) {
        Ok(number) if length == 4 => number.to_ne_bytes().to_vec(),
        _ => number.to_ne_bytes().to_vec(),
    }
}

impl Description {
    /// Returns whether the object is on the token. Without CKA_TOKEN it counts as a session object, which ends with its
    /// session.
    pub fn is_of_token(&self) -> bool {
        self.values.get(&TOKEN).is_some_and(|value| **value == [1])
    }

    /// Returns whether nothing is known of the object.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.unique_id.is_none()
    }

    /// Returns whether the object is visible only to a logged-in user.
    pub fn is_private(&self) -> bool {
        self.values.get(&PRIVATE).is_none_or(|value| **value != [0])
    }

    /// Returns whether the unique id is meaningful on the present token.
    pub fn counts_by_id(&self, present: Option<&Token>) -> bool {
        self.unique_id.is_some() && self.token.as_deref() == present
    }

    /// Returns the template of a search on the present token. `None` if nothing distinguishes the object from others.
    pub fn search(&self, present: Option<&Token>) -> Option<Template> {
        let types: &[u64] = match self.counts_by_id(present) {
            true => &[],
            false => &[CLASS, LABEL, ID, KEY_TYPE],
        };
        let is_public = |it: &u64| special(self.class()).contains(it);
        let tells = |it: &u64| *it == LABEL || *it == ID || is_public(it);
        if !types.is_empty() && !self.values.keys().any(tells) {
            return None;
        }
        let unique = match types.is_empty() {
            true => self.unique_id.as_ref().map(|id| (&UNIQUE_ID, id)),
            false => None,
        };
        let others = types.iter().filter_map(|it| self.values.get_key_value(it));
        let attributes = others
            .chain(unique)
            .chain(self.values.get_key_value(&TOKEN));
        let attributes =
            attributes.map(|(it, value)| Attribute::new(AttributeType(*it), value.clone()));
        Some(Template(attributes.collect()))
    }

    /// Returns whether this is a private key without a public value of its own, whose counterpart was not looked for
    /// yet.
    pub fn wants_counterpart(&self) -> bool {
        let tells = |it: &u64| [MODULUS, PUBLIC_KEY_INFO].contains(it);
        self.counterpart.is_none()
            && self.class() == PRIVATE_KEY
            && self.values.contains_key(&ID)
            && !self.values.keys().any(tells)
    }

    /// Returns the template of a search for objects of a class that belong to this private key.
    pub fn counterparts(&self, class: u64) -> Template {
        let types: &[u64] = match class {
            PUBLIC_KEY => &[TOKEN, ID, KEY_TYPE],
            _ => &[TOKEN, ID],
        };
        let values = types.iter().filter_map(|it| self.values.get_key_value(it));
        let of_class = self.values.get(&CLASS).map(|own| {
            let value = bytes(class, own.len());
            Attribute::new(AttributeType(CLASS), value)
        });
        let others = values.map(|(it, value)| Attribute::new(AttributeType(*it), value.clone()));
        Template(of_class.into_iter().chain(others).collect())
    }

    fn class(&self) -> u64 {
        let class = self.values.get(&CLASS).and_then(|it| number(it));
        class.unwrap_or(Ulong::UNAVAILABLE.0)
    }

    /// Returns whether both have the same values and the same token. The counterpart of a private key is not compared.
    pub fn says_the_same(&self, other: &Description) -> bool {
        self.token == other.token
            && self.unique_id == other.unique_id
            && self.values == other.values
    }

    /// Returns whether an object that was found is this one.
    pub fn is(&self, other: &Description, present: Option<&Token>) -> bool {
        if !self.counts_by_id(present) {
            return self.values == other.values;
        }
        // The other attributes may have been changed, but not the class and the key type (PKCS#11 v3.0, section 4.4.1).
        let is_same = |it| self.values.get(it) == other.values.get(it);
        self.unique_id == other.unique_id && [CLASS, KEY_TYPE].iter().all(is_same)
    }
}

/// The properties by which a token is recognised: its label, its manufacturer, and its serial number.
#[derive(Debug)]
pub(super) struct Token {
    label: Vec<u8>,
    manufacturer: Vec<u8>,
    model: Vec<u8>,
    serial_number: Vec<u8>,
    /// Whether the user's next wrong PIN locks the token, or one has locked it. In that case no PIN is tried that may
    /// have been changed. Not compared when tokens are recognised.
    pub is_at_last_try: bool,
    /// Whether a wrong PIN of the user was tried since the last right one, or may have been. Not compared either.
    pub had_wrong_pin: bool,
}

/// CKF_USER_PIN_FINAL_TRY and CKF_USER_PIN_LOCKED.
const LAST_TRY: u64 = 0x20000 | 0x40000;

/// CKF_USER_PIN_COUNT_LOW.
const WRONG_PIN: u64 = 0x10000;

impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        self.label == other.label
            && self.manufacturer == other.manufacturer
            && self.model == other.model
            && self.serial_number == other.serial_number
    }
}

impl Token {
    /// Returns the token of this answer.
    pub fn of(info: &TokenInfo) -> Token {
        Token {
            label: info.label.clone(),
            manufacturer: info.manufacturer_id.clone(),
            model: info.model.clone(),
            serial_number: info.serial_number.clone(),
            is_at_last_try: info.flags.0 & LAST_TRY != 0,
            had_wrong_pin: info.flags.0 & (WRONG_PIN | LAST_TRY) != 0,
        }
    }

    /// Returns whether both have the same label.
    pub fn has_label_of(&self, other: &Token) -> bool {
        self.label == other.label
    }

    /// Returns the label in the form in which it is logged.
    pub fn name(&self) -> String {
        let label = String::from_utf8_lossy(&self.label);
        format!("{:?}", label.trim_end())
    }
}
