//! The attributes that rules are about, of an object and of a client's template, in one shape.
//!
//! An object's are read from the module in one call; a template's come from the call. Both become
//! [`Attributes`]: the class, and for each boolean which values occur. Nothing is kept from one
//! client's call to the next. Which combinations are refused, and how, is said in `patches`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_ulong;

use cryptoki_sys::*;
use xdr::word_size::{narrow, wide};
use xdr::{
    Attribute, AttributeType, Call, CkRv, Cryptoki, ObjectHandle, Reply, SessionHandle, Template,
    Ulong,
};

/// CKA_CLASS.
pub const CLASS: AttributeType = AttributeType(wide(CKA_CLASS));

/// Whether a module takes the two for the same attribute: a host of 4-byte words has the lower half.
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
            /// Every one of them.
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

/// A boolean and what it is: an entry of a rule's table.
pub type Setting = (Boolean, bool);

/// Which booleans occur, and with which values. Absent is neither true nor false, and two templates
/// taken together may be both.
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

    /// All that occurs in either: the two templates of a key pair.
    pub fn together_with(self, other: Booleans) -> Booleans {
        Booleans {
            yes: self.yes | other.yes,
            no: self.no | other.no,
        }
    }

    /// What an object has after `new` was set on it.
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

    /// Whether this is a class of keys. One that the standard does not say is none, such as a
    /// vendor's, is taken for one; the original knows the three above only.
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

/// What rules look at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// CKA_CLASS.
    pub class: Option<Class>,
    /// The booleans.
    pub booleans: Booleans,
}

impl Attributes {
    /// Those of a client's template.
    ///
    /// The filter has made every template sound before a rule sees it; what is still unsound here
    /// is refused, so that no rule judges another value than the module takes.
    pub fn of_template(template: &Template) -> Result<Attributes, CkRv> {
        let mut found = Attributes::default();
        for attribute in &template.0 {
            if is_same(attribute.attribute_type, CLASS) {
                // An empty one counts as missing.
                if attribute.value.is_empty() {
                    continue;
                }
                let class = Class::from_value(&attribute.value);
                let class = class.ok_or(CkRv::ATTRIBUTE_VALUE_INVALID)?;
                if found.class.replace(class).is_some() {
                    return Err(CkRv::TEMPLATE_INCONSISTENT);
                }
            } else if let Some(boolean) = Boolean::of(attribute.attribute_type) {
                let [value] = attribute.value[..] else {
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

    /// Those of an object, in one call of the module.
    ///
    /// What an object does not have is absent. A module that stops at the first such attribute, or
    /// has another size for a value than the standard, is asked again for what it left open.
    pub fn read(
        backend: &dyn Cryptoki,
        session: SessionHandle,
        object: ObjectHandle,
    ) -> Result<Attributes, CkRv> {
        let ask = |template| ask(backend, session, object, template);
        let types =
            || std::iter::once(CLASS).chain(Boolean::ALL.iter().map(|b| b.attribute_type()));
        let (rv, answers) = ask(Template(types().map(question).collect()))?;
        if !matches!(
            rv,
            CkRv::OK | CkRv::ATTRIBUTE_TYPE_INVALID | CkRv::BUFFER_TOO_SMALL
        ) {
            return Err(rv);
        }
        let mut found = Attributes::default();
        // Every object has a class: without it, this module says nothing of any attribute.
        let all_open = answers.0.first().is_none_or(|class| class.value.is_empty());
        for answer in &answers.0 {
            match answered(rv, answer) {
                Answer::Value(value) if !all_open => found.take(answer.attribute_type, value)?,
                Answer::Absent if !all_open => {}
                _ => {
                    if let Some(answer) = ask_alone(&ask, answer.attribute_type)? {
                        found.take(answer.attribute_type, &answer.value)?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Adds what an object has; of a boolean, any byte that is not zero makes it true.
    fn take(&mut self, attribute_type: AttributeType, value: &[u8]) -> Result<(), CkRv> {
        match Boolean::of(attribute_type) {
            Some(boolean) => self
                .booleans
                .set(boolean, value.iter().any(|byte| *byte != 0)),
            None => self.class = Some(Class::from_value(value).ok_or(CkRv::GENERAL_ERROR)?),
        }
        Ok(())
    }
}

/// Fills the room of a question, to tell what a module wrote from what it left alone.
const UNWRITTEN: u8 = 0xa5;

/// A question with room for the value that the standard has for this type.
fn question(attribute_type: AttributeType) -> Attribute {
    let room = if attribute_type == CLASS {
        size_of::<c_ulong>()
    } else {
        1
    };
    Attribute::new(attribute_type, vec![UNWRITTEN; room])
}

/// C_GetAttributeValue, held to answering what it was asked.
fn ask(
    backend: &dyn Cryptoki,
    session: SessionHandle,
    object: ObjectHandle,
    template: Template,
) -> Result<(CkRv, Template), CkRv> {
    let asked: Vec<_> = template
        .0
        .iter()
        .map(|asked| asked.attribute_type)
        .collect();
    let reply = backend.call(Call::C_GetAttributeValue(session, object, template));
    let Reply::C_GetAttributeValue(result) = reply else {
        return Err(CkRv::GENERAL_ERROR);
    };
    let answers = result.template.0.iter().map(|answer| answer.attribute_type);
    let is_complete = answers.eq(asked);
    match result.rv {
        CkRv::OK | CkRv::ATTRIBUTE_TYPE_INVALID | CkRv::BUFFER_TOO_SMALL if !is_complete => {
            Err(CkRv::GENERAL_ERROR)
        }
        rv => Ok((rv, result.template)),
    }
}

/// What a module said of one attribute of several.
enum Answer<'a> {
    Value(&'a [u8]),
    Absent,
    Open,
}

fn answered(rv: CkRv, answer: &Attribute) -> Answer<'_> {
    let is_unavailable = answer.value_len == Ulong::UNAVAILABLE || answer.value.is_empty();
    match rv {
        CkRv::ATTRIBUTE_TYPE_INVALID if is_unavailable => Answer::Absent,
        _ if is_unavailable || answer.value.iter().all(|byte| *byte == UNWRITTEN) => Answer::Open,
        _ => Answer::Value(&answer.value),
    }
}

/// The value of one attribute that rules seldom look at; `None` if the object does not have it, or if
/// it needs more than `room` bytes.
pub fn value(
    backend: &dyn Cryptoki,
    session: SessionHandle,
    object: ObjectHandle,
    attribute_type: AttributeType,
    room: usize,
) -> Result<Option<Vec<u8>>, CkRv> {
    let question = Template(vec![Attribute::new(attribute_type, vec![0; room])]);
    let (rv, mut answers) = ask(backend, session, object, question)?;
    match rv {
        CkRv::OK => Ok(answers
            .0
            .pop()
            .map(|mut answer| std::mem::take(&mut answer.value))),
        CkRv::ATTRIBUTE_TYPE_INVALID | CkRv::BUFFER_TOO_SMALL => Ok(None),
        rv => Err(rv),
    }
}

/// The longest boolean or class of a module that has its own idea of them.
const LONGEST: usize = 64;

/// One attribute by itself; `None` if the object does not have it.
fn ask_alone(
    ask: &impl Fn(Template) -> Result<(CkRv, Template), CkRv>,
    attribute_type: AttributeType,
) -> Result<Option<Attribute>, CkRv> {
    let alone = |question: Attribute| {
        let (rv, mut answers) = ask(Template(vec![question]))?;
        match (rv, answers.0.pop()) {
            (CkRv::OK, Some(answer)) => Ok(Some(answer).filter(|a| !a.value.is_empty())),
            (CkRv::ATTRIBUTE_TYPE_INVALID, _) => Ok(None),
            (CkRv::OK, None) => Err(CkRv::GENERAL_ERROR),
            (rv, _) => Err(rv),
        }
    };
    match alone(question(attribute_type)) {
        Err(CkRv::BUFFER_TOO_SMALL) => {}
        answer => return answer,
    }
    // The question for the length.
    match alone(Attribute::new(attribute_type, Vec::new()))? {
        Some(answer) if answer.value.len() > LONGEST => Err(CkRv::GENERAL_ERROR),
        Some(answer) => alone(answer),
        None => Ok(None),
    }
}

/// What one call of a client has read of its objects, shared by the actions on that call. It is
/// made for the call and dropped with it.
#[derive(Default)]
pub struct CallCache(RefCell<VecDeque<Read>>);

struct Read {
    session: SessionHandle,
    object: ObjectHandle,
    attributes: Result<Attributes, CkRv>,
}

impl CallCache {
    /// No call names more objects; of those that C_FindObjects goes through, the last stay.
    const LIMIT: usize = 2;

    /// What was read of the object, or `read` now.
    pub fn get_or_read(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        read: impl FnOnce() -> Result<Attributes, CkRv>,
    ) -> Result<Attributes, CkRv> {
        let is_it = |known: &&Read| known.session == session && known.object == object;
        if let Some(known) = self.0.borrow().iter().find(is_it) {
            return known.attributes;
        }
        let attributes = read();
        let mut known = self.0.borrow_mut();
        if known.len() == CallCache::LIMIT {
            known.pop_front();
        }
        known.push_back(Read {
            session,
            object,
            attributes,
        });
        attributes
    }
}
