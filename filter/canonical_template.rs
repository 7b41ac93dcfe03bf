//! Converts templates to a canonical form, so that rules and modules interpret them identically.
//!
//! A rule that looks for TRUE must recognise every value that the module takes for TRUE, and must not miss a second
//! attribute of the same type. So before any check, the templates of values for objects that are made or changed are
//! converted, with the templates inside them. A boolean becomes one byte of 0 or 1, a number must have the length of
//! this host's CK_ULONG, and no type may occur twice.
//!
//! The templates of C_FindObjectsInit and C_GetAttributeValue stay as they are. The first selects objects that are all
//! checked afterwards; how its values match is left to the module. The second has types and room, but no values.

use std::collections::BTreeSet;

use xdr::attribute_types::{is_boolean, is_number};
use xdr::word_size::{Abi, narrow};
use xdr::{Attribute, Call, CkRv, Template, Value};

/// Converts the templates of a call to canonical form. The error is the CK_RV for a template that cannot be converted.
pub(crate) fn canonical(mut call: Call<'_>) -> Result<Call<'_>, CkRv> {
    let mut templates = call.values_mut().into_iter().flatten();
    templates.try_for_each(one)?;
    Ok(call)
}

/// Converts one template. How deep templates nest is bounded where they are decoded.
fn one(template: &mut Template) -> Result<(), CkRv> {
    let mut types = BTreeSet::new();
    for attribute in &mut template.0 {
        if !types.insert(narrow(attribute.attribute_type.0)) {
            return Err(CkRv::TEMPLATE_INCONSISTENT);
        }
        value(attribute)?;
    }
    Ok(())
}

fn value(attribute: &mut Attribute) -> Result<(), CkRv> {
    let is_boolean = is_boolean(attribute.attribute_type);
    let is_number = is_number(attribute.attribute_type);
    match &mut attribute.value {
        Value::Template(template) => one(template),
        Value::Bytes(bytes) if is_boolean => {
            let [byte] = bytes.as_mut_slice() else {
                return Err(CkRv::ATTRIBUTE_VALUE_INVALID);
            };
            *byte = u8::from(*byte != 0);
            Ok(())
        }
        // An empty number counts as missing: whatever needs the number will say so.
        Value::Bytes(bytes) if is_number && ![0, Abi::HOST.word].contains(&bytes.len()) => {
            Err(CkRv::ATTRIBUTE_VALUE_INVALID)
        }
        Value::Null { length } if is_boolean || is_number && *length != 0 => {
            Err(CkRv::ATTRIBUTE_VALUE_INVALID)
        }
        Value::Bytes(_) | Value::Null { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xdr::{Attribute, AttributeType, SessionHandle};

    const CLASS: u64 = 0;
    const LABEL: u64 = 3;
    const WRAP: u64 = 0x106;

    fn created(attributes: &[(u64, &[u8])]) -> Result<Vec<Vec<u8>>, CkRv> {
        let make =
            |(kind, value): &(u64, &[u8])| Attribute::new(AttributeType(*kind), value.to_vec());
        let template = Template(attributes.iter().map(make).collect());
        match canonical(Call::C_CreateObject(SessionHandle(1), Some(template)))? {
            Call::C_CreateObject(_, Some(template)) => Ok(template
                .0
                .iter()
                .map(|attribute| attribute.bytes().to_vec())
                .collect()),
            _ => panic!("another call"),
        }
    }

    #[test]
    fn makes_booleans_one_byte_of_0_or_1() {
        for byte in 0..=255 {
            assert_eq!(
                created(&[(WRAP, &[byte])]),
                Ok(vec![vec![u8::from(byte != 0)]])
            );
        }
        for length in [0, 2, 4, 8] {
            let refused = created(&[(WRAP, &vec![1; length])]);
            assert_eq!(refused, Err(CkRv::ATTRIBUTE_VALUE_INVALID));
        }
        assert_eq!(created(&[(LABEL, &[2, 0])]), Ok(vec![vec![2, 0]]));
    }

    #[test]
    fn wants_numbers_of_this_hosts_length() {
        assert!(created(&[(CLASS, &[4, 0, 0, 0, 0, 0, 0, 0][..size_of::<usize>()])]).is_ok());
        assert!(created(&[(CLASS, &[])]).is_ok());
        assert_eq!(
            created(&[(CLASS, &[4])]),
            Err(CkRv::ATTRIBUTE_VALUE_INVALID)
        );
    }

    #[test]
    fn refuses_a_type_given_twice() {
        let twice = [(WRAP, [0].as_slice()), (LABEL, b"x"), (WRAP, &[0])];
        assert_eq!(created(&twice), Err(CkRv::TEMPLATE_INCONSISTENT));
    }
}
