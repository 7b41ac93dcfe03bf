//! Converts each type of version 3 to its type of version 4, and the other way round.
//!
//! What version 3 does not send is marked in version 4: `Input::NullOrEmpty` is an input that may be NULL or empty,
//! `Room::Unbounded` is room of unknown size.
//! Where version 3 cannot express a value of version 4, there is no conversion. Oddities of the original that its
//! clients rely on, such as the zeros for a length that was asked for, are produced here and nowhere else.

use std::borrow::Cow;

use super::wire_types::{
    Attribute, DataResult, KeyPairResult, Mechanism, ObjectResult, Template, TemplateResult,
};
use crate::attribute_types::{is_boolean, is_nested, is_number};
use crate::buffers::{Input, Room};
use crate::integers::{
    Architecture, Count, Flags, MechanismType, ObjectHandle, SessionHandle, SlotId, Ulong, UserType,
};
use crate::templates::{Answer, Answers, Found, Query, Value, Wanted, WantedRoom};
use crate::wire_types::{
    AttributesResult, Hello, HelloResult, INTERFACE_2_40, KeyResult, LoadResult,
    MechanismOutputResult, MechanismPointer, MechanismResult, ObjectListResult, OutputResult,
    QueryPointer, TemplatePointer,
};
use crate::word_size::Abi;
use crate::{Call, CkRv, LONGEST_BYTES, wire_types};

/// A value of version 3 that can be converted to version 4.
pub(super) trait Current<T> {
    fn current(self) -> T;
}

/// A value of version 4 that can be converted to version 3. The error is what the client answers if version 3 cannot
/// express it.
pub(super) trait Former<T> {
    fn former(&self) -> Result<T, CkRv>;
}

/// A result of version 4 that can be converted to version 3.
pub(super) trait FormerResult<T> {
    fn former(self) -> T;
}

pub(super) fn former_result<T>(result: impl FormerResult<T>) -> T {
    result.former()
}

/// An argument that version 3 does not have.
pub(super) trait Added {
    fn added() -> Self;
}

impl Added for Room {
    fn added() -> Room {
        Room::Unbounded
    }
}

impl Added for Flags {
    fn added() -> Flags {
        Flags::default()
    }
}

impl Added for bool {
    fn added() -> bool {
        false
    }
}

/// Implements the conversions for types that are the same in both versions.
macro_rules! same {
    ($($type:ty)*) => {$(
        impl Current<$type> for $type {
            fn current(self) -> $type {
                self
            }
        }

        impl Former<$type> for $type {
            fn former(&self) -> Result<$type, CkRv> {
                Ok(self.clone())
            }
        }

        impl FormerResult<$type> for $type {
            fn former(self) -> $type {
                self
            }
        }
    )*};
}

same! {
    CkRv Flags MechanismType ObjectHandle SessionHandle SlotId Ulong UserType
    wire_types::BoxedInfo wire_types::MechanismInfoResult wire_types::MechanismListResult
    wire_types::SessionInfoResult wire_types::SessionResult wire_types::SizeResult wire_types::BoxedSlotInfo wire_types::SlotListResult
    wire_types::SlotResult wire_types::BoxedTokenInfo
}

impl Current<ObjectListResult> for ObjectListResult {
    fn current(self) -> ObjectListResult {
        self
    }
}

/// The count is the number of objects.
impl FormerResult<ObjectListResult> for ObjectListResult {
    fn former(self) -> ObjectListResult {
        ObjectListResult {
            count: Ulong(self.objects.len() as u64),
            ..self
        }
    }
}

/// Adjusts a call whose empty templates, empty PINs or zero-terminated labels have a special meaning in version 3.
pub(super) fn adjusted_from_former(mut call: Call<'_>) -> Call<'_> {
    if let Call::C_GenerateKey(_, _, template) = &mut call {
        null_if_empty(template);
    } else if let Call::C_GenerateKeyPair(_, _, public, private) = &mut call {
        null_if_empty(public);
        null_if_empty(private);
    } else if let Call::C_SetAttributeValue(_, _, Some(template)) = &mut call {
        for attribute in &mut template.0 {
            if attribute.bytes().is_empty() && attribute.nested().is_none() {
                attribute.value = Value::Null { length: 0 };
            }
        }
    } else if let Call::C_Login(_, _, pin) | Call::C_InitPIN(_, pin) = &mut call {
        unclear_if_empty(pin);
    } else if let Call::C_InitToken(_, pin, label) = &mut call {
        unclear_if_empty(pin);
        end_at_zero(label);
    } else if let Call::C_SetPIN(_, old, new) = &mut call {
        unclear_if_empty(old);
        unclear_if_empty(new);
    }
    call
}

/// Adjusts a call for version 3, which has no length beside a PIN that is NULL.
pub(super) fn adjusted_for_former<'c, 'a>(call: &'c Call<'a>) -> Cow<'c, Call<'a>> {
    let mut adapted = Cow::Borrowed(call);
    let has_length = |pin: &Input<'_>| matches!(pin, Input::Null { length } if *length != 0);
    if let Call::C_InitPIN(_, pin) | Call::C_InitToken(_, pin, _) = call {
        if has_length(pin) {
            if let Call::C_InitPIN(_, pin) | Call::C_InitToken(_, pin, _) = adapted.to_mut() {
                *pin = Input::NULL;
            }
        }
    } else if let Call::C_SetPIN(_, old, new) = call {
        if has_length(old) || has_length(new) {
            if let Call::C_SetPIN(_, old, new) = adapted.to_mut() {
                for pin in [old, new] {
                    if has_length(pin) {
                        *pin = Input::NULL;
                    }
                }
            }
        }
    }
    adapted
}

/// Marks an empty PIN as one that may be NULL.
fn unclear_if_empty(pin: &mut Input<'_>) {
    if pin.bytes().is_empty() {
        *pin = Input::NullOrEmpty;
    }
}

/// Cuts a token's label at its first zero byte: the original takes it for a C string.
fn end_at_zero(label: &mut Input<'_>) {
    if let Input::Bytes(bytes) = label {
        let end = bytes.iter().position(|byte| *byte == 0);
        *bytes = end.and_then(|end| bytes.get(..end)).unwrap_or(bytes);
    }
}

/// Makes an empty template NULL, as the original does for C_GenerateKey and C_GenerateKeyPair, and for no other
/// function.
fn null_if_empty(template: &mut TemplatePointer) {
    if template
        .as_ref()
        .is_some_and(|template| template.0.is_empty())
    {
        *template = None;
    }
}

impl Current<Hello> for Architecture {
    fn current(self) -> Hello {
        Hello {
            architecture: Some(self),
            ..Default::default()
        }
    }
}

impl Former<Architecture> for Hello {
    fn former(&self) -> Result<Architecture, CkRv> {
        Ok(self.architecture.unwrap_or(Architecture::host()))
    }
}

impl Current<HelloResult> for Architecture {
    fn current(self) -> HelloResult {
        HelloResult {
            rv: CkRv::OK,
            hello: self.current(),
        }
    }
}

/// The answer is the architecture, or a code that is no architecture.
impl FormerResult<Architecture> for HelloResult {
    fn former(self) -> Architecture {
        let code = self.hello.architecture;
        code.unwrap_or(Architecture(self.rv.0))
    }
}

/// Version 3 has only the functions of 2.40.
impl Current<LoadResult> for CkRv {
    fn current(self) -> LoadResult {
        let interfaces = if self.is_ok() { INTERFACE_2_40 } else { 0 };
        LoadResult {
            rv: self,
            interfaces: Flags(interfaces),
        }
    }
}

impl FormerResult<CkRv> for LoadResult {
    fn former(self) -> CkRv {
        self.rv
    }
}

impl<'a> Current<&'a [u8]> for &'a [u8] {
    fn current(self) -> &'a [u8] {
        self
    }
}

impl<'a> Former<&'a [u8]> for &'a [u8] {
    fn former(&self) -> Result<&'a [u8], CkRv> {
        Ok(self)
    }
}

impl<'a> Current<Input<'a>> for &'a [u8] {
    fn current(self) -> Input<'a> {
        Input::Bytes(self)
    }
}

impl<'a> Former<&'a [u8]> for Input<'a> {
    fn former(&self) -> Result<&'a [u8], CkRv> {
        match self {
            Input::Null { length } if *length != 0 => Err(CkRv::ARGUMENTS_BAD),
            Input::Null { .. } | Input::NullOrEmpty | Input::Bytes(_) => Ok(self.bytes()),
        }
    }
}

impl Current<Room> for Count {
    fn current(self) -> Room {
        match self.0 {
            0 => Room::QUESTION,
            room => Room::Buffer(room),
        }
    }
}

/// A request for the number of elements, without a buffer, is sent as room for 0 elements.
impl Former<Count> for Room {
    fn former(&self) -> Result<Count, CkRv> {
        match self {
            Room::Null { .. } => Ok(Count(0)),
            Room::Buffer(room) => Ok(Count(*room)),
            Room::Unbounded | Room::NoLength => Err(CkRv::ARGUMENTS_BAD),
        }
    }
}

impl Current<Room> for Ulong {
    fn current(self) -> Room {
        Room::Buffer(self.0)
    }
}

impl Former<Ulong> for Room {
    fn former(&self) -> Result<Ulong, CkRv> {
        match self {
            Room::Buffer(room) => Ok(Ulong(*room)),
            Room::Null { .. } | Room::Unbounded | Room::NoLength => Err(CkRv::ARGUMENTS_BAD),
        }
    }
}

impl Current<MechanismPointer> for Mechanism {
    fn current(self) -> MechanismPointer {
        Some(self.0)
    }
}

impl Former<Mechanism> for MechanismPointer {
    fn former(&self) -> Result<Mechanism, CkRv> {
        self.clone().map(Mechanism).ok_or(CkRv::ARGUMENTS_BAD)
    }
}

impl Current<TemplatePointer> for Template {
    fn current(self) -> TemplatePointer {
        let attributes = self.0.into_iter().map(|mut attribute| {
            let mut value = std::mem::take(&mut attribute.value);
            let is_told = attribute.value_len != Ulong(0);
            if value.is_empty() && is_told && is_nested(attribute.attribute_type) {
                // This is not an empty template, but one whose bytes are missing. It is refused like one that has them.
                value.push(0);
            }
            crate::Attribute::new(attribute.attribute_type, value)
        });
        Some(crate::Template(attributes.collect()))
    }
}

impl Former<Template> for TemplatePointer {
    fn former(&self) -> Result<Template, CkRv> {
        let Some(template) = self else {
            return Ok(Template::default());
        };
        let attributes = template.0.iter().map(|attribute| {
            let kind = attribute.attribute_type;
            match &attribute.value {
                Value::Template(template) if !template.0.is_empty() => {
                    Err(CkRv::ATTRIBUTE_TYPE_INVALID)
                }
                // A number without bytes is as wrong as one that is NULL: the module answers. Other values
                // would pass for empty ones.
                Value::Null { length } if *length != 0 && !is_number(kind) && !is_boolean(kind) => {
                    Err(match is_nested(kind) {
                        true => CkRv::ATTRIBUTE_TYPE_INVALID,
                        false => CkRv::ATTRIBUTE_VALUE_INVALID,
                    })
                }
                Value::Template(_) | Value::Bytes(_) | Value::Null { .. } => {
                    Ok(Attribute::new(kind, attribute.bytes().to_vec()))
                }
            }
        });
        attributes.collect::<Result<_, _>>().map(Template)
    }
}

/// An empty value asks for the length. Any other value is the buffer with its content.
impl Current<QueryPointer> for Template {
    fn current(self) -> QueryPointer {
        let wanted = self.0.into_iter().map(|mut attribute| {
            let content = std::mem::take(&mut attribute.value);
            let room = match content.len() {
                0 => WantedRoom::Null { length: 0 },
                room => WantedRoom::Buffer {
                    room: room as u64,
                    content: Some(content),
                },
            };
            Wanted {
                attribute_type: attribute.attribute_type,
                room,
            }
        });
        Some(Query(wanted.collect()))
    }
}

impl Former<Template> for QueryPointer {
    fn former(&self) -> Result<Template, CkRv> {
        let query = self.as_ref().ok_or(CkRv::ARGUMENTS_BAD)?;
        let attributes = query.0.iter().map(|wanted| {
            let content = match &wanted.room {
                WantedRoom::Null { .. } => Vec::new(),
                WantedRoom::Buffer { room, content } => match content {
                    Some(content) => content.clone(),
                    None => {
                        let room = usize::try_from(*room).map_err(|_| CkRv::HOST_MEMORY)?;
                        let mut zeros = Vec::new();
                        zeros
                            .try_reserve_exact(room)
                            .map_err(|_| CkRv::HOST_MEMORY)?;
                        zeros.resize(room, 0);
                        zeros
                    }
                },
                WantedRoom::Template(_) => return Err(CkRv::ATTRIBUTE_TYPE_INVALID),
            };
            Ok(Attribute::new(wanted.attribute_type, content))
        });
        attributes.collect::<Result<_, _>>().map(Template)
    }
}

/// How many zeros one reply has at most, in bytes.
const MOST_ZEROS: u64 = 64 << 10;

/// Size of a CK_ATTRIBUTE on this host, in bytes. The sizes of arrays of attributes are multiples of it.
const ATTRIBUTE_SIZE: u64 = Abi::HOST.attribute_size() as u64;

/// An attribute that is not available has a length of all ones, so that our client can tell it from an empty value. The
/// original sends 0. Its clients accept both, because they look at the CK_RV too.
///
/// A length is answered with that many zeros, as in the original, or with none if they are too many: the length is sent
/// beside them. An attribute that the module left untouched has no zeros. But the length of a number is a word, even if
/// the call failed. Of an array of attributes, version 3 can tell only the size.
impl FormerResult<TemplateResult> for AttributesResult {
    fn former(self) -> TemplateResult {
        let mut rv = self.rv;
        let mut zeros = MOST_ZEROS;
        let attributes = self.answers.0.into_iter().map(|mut answer| {
            let unavailable = || (Vec::new(), Ulong::UNAVAILABLE);
            let mut asked = |length| {
                let length = match length {
                    0 if is_number(answer.attribute_type) => Abi::HOST.word as u64,
                    length => length,
                };
                match usize::try_from(length) {
                    Ok(size) if length <= zeros => {
                        zeros -= length;
                        (vec![0; size], Ulong(length))
                    }
                    _ if length <= LONGEST_BYTES => (Vec::new(), Ulong(length)),
                    _ => unavailable(),
                }
            };
            let (value, value_len) = match &mut answer.found {
                Found::Bytes(bytes) => {
                    let bytes = std::mem::take(bytes);
                    let length = bytes.len() as u64;
                    (bytes, Ulong(length))
                }
                // Lets the filter return a question unchanged.
                Found::Length(0) if !answers_values(self.rv) => (Vec::new(), Ulong(0)),
                Found::Length(length) => asked(*length),
                Found::TemplateLength(count) => asked(count.saturating_mul(ATTRIBUTE_SIZE)),
                Found::Untouched => asked(0),
                Found::Unavailable => unavailable(),
                Found::Template(_) => {
                    if rv.is_ok() {
                        rv = CkRv::ATTRIBUTE_TYPE_INVALID;
                    }
                    unavailable()
                }
            };
            Attribute {
                attribute_type: answer.attribute_type,
                value,
                value_len,
            }
        });
        let template = Template(attributes.collect());
        TemplateResult { rv, template }
    }
}

/// The CK_RVs with which C_GetAttributeValue still answers the other attributes.
fn answers_values(rv: CkRv) -> bool {
    [
        CkRv::OK,
        CkRv::ATTRIBUTE_SENSITIVE,
        CkRv::ATTRIBUTE_TYPE_INVALID,
        CkRv::BUFFER_TOO_SMALL,
    ]
    .contains(&rv)
}

/// Converts an answer of a daemon of version 3 as it is. The client decides what a length of 0 means beside an error.
impl Current<AttributesResult> for TemplateResult {
    fn current(self) -> AttributesResult {
        let answers = self.template.0.into_iter().map(|mut attribute| {
            let value = std::mem::take(&mut attribute.value);
            let found = match attribute.value_len {
                Ulong::UNAVAILABLE if value.is_empty() => Found::Unavailable,
                // Bytes of a nested template would be addresses.
                Ulong(told) if is_nested(attribute.attribute_type) => match told % ATTRIBUTE_SIZE {
                    0 => Found::TemplateLength(told / ATTRIBUTE_SIZE),
                    _ => Found::Unavailable,
                },
                Ulong(0) if value.is_empty() => Found::Bytes(value),
                // Some daemons leave out the zeros for a length.
                Ulong(told) if value.is_empty() && told != 0 => Found::Length(told),
                _ => Found::Bytes(value),
            };
            Answer {
                attribute_type: attribute.attribute_type,
                found,
            }
        });
        AttributesResult {
            rv: self.rv,
            answers: Answers(answers.collect()),
        }
    }
}

impl Current<MechanismResult> for CkRv {
    fn current(self) -> MechanismResult {
        MechanismResult {
            rv: self,
            ..Default::default()
        }
    }
}

impl FormerResult<CkRv> for MechanismResult {
    fn former(self) -> CkRv {
        self.rv
    }
}

impl Current<OutputResult> for DataResult {
    fn current(self) -> OutputResult {
        OutputResult {
            rv: self.rv,
            length: Ulong(self.data.len() as u64),
            data: self.data,
        }
    }
}

impl FormerResult<DataResult> for OutputResult {
    fn former(self) -> DataResult {
        DataResult {
            rv: self.rv,
            data: self.data,
        }
    }
}

impl Current<MechanismOutputResult> for DataResult {
    fn current(self) -> MechanismOutputResult {
        MechanismOutputResult {
            rv: self.rv,
            length: Ulong(self.data.len() as u64),
            data: self.data,
            ..Default::default()
        }
    }
}

impl FormerResult<DataResult> for MechanismOutputResult {
    fn former(self) -> DataResult {
        DataResult {
            rv: self.rv,
            data: self.data,
        }
    }
}

/// Returns a handle for version 3: 0 if a failed call left it untouched.
fn handle(rv: CkRv, object: Option<ObjectHandle>) -> ObjectHandle {
    object.filter(|_| rv.is_ok()).unwrap_or_default()
}

fn pointer(rv: CkRv, object: ObjectHandle) -> Option<ObjectHandle> {
    rv.is_ok().then_some(object)
}

impl Current<wire_types::ObjectResult> for ObjectResult {
    fn current(self) -> wire_types::ObjectResult {
        wire_types::ObjectResult {
            rv: self.rv,
            object: pointer(self.rv, self.object),
        }
    }
}

impl FormerResult<ObjectResult> for wire_types::ObjectResult {
    fn former(self) -> ObjectResult {
        ObjectResult {
            rv: self.rv,
            object: handle(self.rv, self.object),
        }
    }
}

impl Current<KeyResult> for ObjectResult {
    fn current(self) -> KeyResult {
        KeyResult {
            rv: self.rv,
            object: pointer(self.rv, self.object),
            ..Default::default()
        }
    }
}

impl FormerResult<ObjectResult> for KeyResult {
    fn former(self) -> ObjectResult {
        ObjectResult {
            rv: self.rv,
            object: handle(self.rv, self.object),
        }
    }
}

impl Current<wire_types::KeyPairResult> for KeyPairResult {
    fn current(self) -> wire_types::KeyPairResult {
        wire_types::KeyPairResult {
            rv: self.rv,
            public_key: pointer(self.rv, self.public_key),
            private_key: pointer(self.rv, self.private_key),
            ..Default::default()
        }
    }
}

impl FormerResult<KeyPairResult> for wire_types::KeyPairResult {
    fn former(self) -> KeyPairResult {
        KeyPairResult {
            rv: self.rv,
            public_key: handle(self.rv, self.public_key),
            private_key: handle(self.rv, self.private_key),
        }
    }
}
