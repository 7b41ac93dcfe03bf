//! Converts templates inside mechanism parameters, such as those in CK_DERIVED_KEY. A template may contain another;
//! each counts as one level of nesting of the parameter.

use super::assembly::Builder;
use super::memory::{Reader, plain};
use super::notation::{DEEPEST, Kind, Layout, List, Target};
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

/// Reads an array of `count` CK_ATTRIBUTE, which lies at this depth of the parameter.
pub(super) fn from_memory(
    reader: &mut Reader<'_>,
    address: usize,
    count: u64,
    depth: usize,
) -> Result<Template, CkRv> {
    if depth > DEEPEST {
        return Err(CkRv::MECHANISM_PARAM_INVALID);
    }
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
        let (address, length) = (
            usize::try_from(address).map_err(|_| CkRv::ARGUMENTS_BAD)?,
            wide(narrow(length)),
        );
        let value = if address == 0 || length == u64::MAX {
            // Without an address, or with CK_UNAVAILABLE_INFORMATION as its length, there is no value.
            Value::Null { length }
        } else if !is_nested(kind) {
            Value::Bytes(reader.read(address, length)?.to_vec())
        } else if length % size as u64 != 0 {
            return Err(CkRv::ATTRIBUTE_VALUE_INVALID);
        } else {
            let count = length / size as u64;
            Value::Template(from_memory(reader, address, count, depth + 1)?)
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
        let mut offsets = CK_ATTRIBUTE
            .places(Abi::HOST)
            .map(|(_, place)| index * size + place.start);
        let mut next = || offsets.next().ok_or(CkRv::GENERAL_ERROR);
        let (kind, pointer, length) = (next()?, next()?, next()?);
        builder.put_number(array, kind, attribute.attribute_type.0)?;
        let (value, bytes) = match &attribute.value {
            Value::Null { length } => (None, *length),
            // A module would take the bytes for addresses.
            Value::Bytes(_) if is_nested(attribute.attribute_type) => {
                return Err(CkRv::ATTRIBUTE_TYPE_INVALID);
            }
            Value::Bytes(bytes) => (Some(builder.block_of(bytes)), bytes.len() as u64),
            Value::Template(inner) => {
                let bytes = inner.0.len() * size;
                (Some(assemble(builder, inner)?), bytes as u64)
            }
        };
        if let Some(value) = value {
            builder.put_pointer(array, pointer, value);
        }
        builder.put_number(array, length, bytes)?;
    }
    Ok(array)
}

/// How much memory a template takes in C, in bytes.
pub(super) fn weight(template: &Template) -> u64 {
    let values = template.0.iter().map(|attribute| match attribute.nested() {
        Some(inner) => weight(inner),
        None => attribute.bytes().len() as u64,
    });
    (template.0.len() * CK_ATTRIBUTE.size(Abi::HOST)) as u64 + values.sum::<u64>()
}
