//! Converts the templates inside of mechanism parameters: CK_DERIVED_KEY has one.

use super::assembly::Builder;
use super::memory::{Reader, plain};
use super::notation::{Kind, Layout, List, Target};
use crate::attribute_types::is_nested;
use crate::integers::{AttributeType, CkRv};
use crate::templates::{Attribute, Template, Value};
use crate::word_size::{Abi, narrow, wide};

/// One attribute in C.
pub(super) static CK_ATTRIBUTE: Layout = Layout {
    name: "CK_ATTRIBUTE",
    fields: List(&[
        plain("type", Kind::Number),
        plain("pValue", Kind::Pointer(Target::Unknown)),
        plain("ulValueLen", Kind::Length),
    ]),
};

/// Reads an array of `count` CK_ATTRIBUTE.
pub(super) fn from_memory(
    reader: &mut Reader<'_>,
    address: usize,
    count: u64,
) -> Result<Template, CkRv> {
    let size = CK_ATTRIBUTE.size(Abi::HOST);
    let length = count.checked_mul(size as u64).ok_or(CkRv::DATA_LEN_RANGE)?;
    let bytes = reader.read(address, length)?;
    let mut attributes = Vec::new();
    for bytes in bytes.chunks(size) {
        let mut places = CK_ATTRIBUTE.places(Abi::HOST);
        let mut next = || {
            let place = places.next().map(|(_, place)| place);
            Abi::HOST.read(place.and_then(|place| bytes.get(place)).unwrap_or_default())
        };
        let (kind, address, length) = (next(), next(), next());
        let kind = AttributeType(wide(narrow(kind)));
        if is_nested(kind) {
            return Err(CkRv::ATTRIBUTE_TYPE_INVALID);
        }
        let address = usize::try_from(address).map_err(|_| CkRv::ARGUMENTS_BAD)?;
        let value = match address {
            0 => Value::Null { length },
            _ => Value::Bytes(reader.read(address, length)?.to_vec()),
        };
        attributes.push(Attribute {
            attribute_type: kind,
            value,
        });
    }
    Ok(Template(attributes))
}

/// Builds an array of CK_ATTRIBUTE. The result is its block.
pub(super) fn assemble(builder: &mut Builder, template: &Template) -> Result<usize, CkRv> {
    let size = CK_ATTRIBUTE.size(Abi::HOST);
    let array = builder.block(template.0.len() * size);
    for (index, attribute) in template.0.iter().enumerate() {
        if is_nested(attribute.attribute_type) {
            return Err(CkRv::ATTRIBUTE_TYPE_INVALID);
        }
        let mut offsets = CK_ATTRIBUTE
            .places(Abi::HOST)
            .map(|(_, place)| index * size + place.start);
        let mut next = || offsets.next().ok_or(CkRv::GENERAL_ERROR);
        let (kind, pointer, length) = (next()?, next()?, next()?);
        builder.put_number(array, kind, attribute.attribute_type.0)?;
        let size = match &attribute.value {
            Value::Null { length } => *length,
            Value::Bytes(bytes) => {
                let value = builder.block_of(bytes);
                builder.put_pointer(array, pointer, value);
                bytes.len() as u64
            }
            Value::Template(_) => return Err(CkRv::ATTRIBUTE_TYPE_INVALID),
        };
        builder.put_number(array, length, size)?;
    }
    Ok(array)
}

/// How much memory a template takes in C, in bytes.
pub(super) fn weight(template: &Template) -> u64 {
    let values = template.0.iter().map(|attribute| attribute.bytes().len());
    (template.0.len() * CK_ATTRIBUTE.size(Abi::HOST) + values.sum::<usize>()) as u64
}
