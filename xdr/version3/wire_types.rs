//! Includes the structures that only version 3 has, generated from `pkcs11_rpc.x`, and adds what the generator leaves
//! out.

#![allow(missing_docs)] // each field is named and explained in pkcs11_rpc.x

use std::borrow::Cow;
use std::ops::Deref;

use zeroize::Zeroize;

use super::attributes;
use crate::codec::{DecodeError, Decoder, Encoder, Wire};
use crate::data::Data;
use crate::integers::{Architecture, AttributeType, CkRv, MechanismType, ObjectHandle, Ulong};
use crate::mechanism::LONGEST_PARAMETER;
use crate::wire_types::{CallResult, call_results, define_structures};

#[allow(clippy::all, clippy::pedantic, unused)]
#[rustfmt::skip]
mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/types3.rs"));
}

pub use generated::Attribute;

include!(concat!(env!("OUT_DIR"), "/structures3.rs"));

call_results! { DataResult(data); KeyPairResult; ObjectResult; TemplateResult; }

/// C_SetupArch answers an architecture where others answer a CK_RV.
impl CallResult for Architecture {
    fn rv(&self) -> CkRv {
        CkRv(self.0)
    }

    fn only(rv: CkRv) -> Self {
        Architecture(rv.0)
    }
}

/// A mechanism, whose parameter travels as the bytes of the client's C structure.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Mechanism(pub crate::Mechanism);

impl Mechanism {
    /// See [`crate::Mechanism::bare`].
    pub fn bare(mechanism_type: MechanismType) -> Mechanism {
        Mechanism(crate::Mechanism::bare(mechanism_type))
    }

    /// See [`crate::Mechanism::unread`].
    pub fn unread(mechanism_type: MechanismType, parameter: Vec<u8>) -> Mechanism {
        Mechanism(crate::Mechanism::unread(mechanism_type, parameter))
    }

    /// See [`crate::Mechanism::laid_out`].
    pub fn laid_out(
        mechanism_type: MechanismType,
        parameter: Vec<u8>,
        client: Architecture,
    ) -> Mechanism {
        Mechanism(crate::Mechanism::laid_out(
            mechanism_type,
            parameter,
            client,
        ))
    }
}

impl Deref for Mechanism {
    type Target = crate::Mechanism;

    fn deref(&self) -> &crate::Mechanism {
        &self.0
    }
}

/// The client writes its own layout. The daemon reads the layout of the client that it serves.
impl<'a> Wire<'a> for Mechanism {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let mechanism_type = MechanismType::read(input)?;
        let parameter = input.opaque()?;
        if parameter.len() > LONGEST_PARAMETER {
            return Err(DecodeError::TooLong);
        }
        Ok(Mechanism::laid_out(
            mechanism_type,
            parameter.to_vec(),
            input.client(),
        ))
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        output.hyper(self.mechanism_type().0);
        match self.parameter().to_bytes() {
            Some(Cow::Borrowed(bytes)) => output.opaque(bytes),
            Some(Cow::Owned(bytes)) => output.opaque_copy(&bytes),
            None => output.fail(),
        }
    }
}

impl Attribute {
    /// An attribute with this value; `value_len` says its length.
    pub fn new(attribute_type: AttributeType, value: Vec<u8>) -> Attribute {
        let value_len = Ulong(value.len() as u64);
        Attribute {
            attribute_type,
            value,
            value_len,
        }
    }
}

/// A value may be key material.
impl Drop for Attribute {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// Attributes with their values.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Template(pub Vec<Attribute>);

/// Numbers in the values are converted from and to the client's layout.
impl<'a> Wire<'a> for Template {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let bound = usize::try_from(crate::MOST_ELEMENTS).ok();
        let template = input.unpack_array(bound).map(Template)?;
        Ok(attributes::to_host(template, input.client()))
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        match output.client() {
            client if attributes::differs(client) => {
                output.pack_array(&attributes::to_client(self.clone(), client).0);
            }
            _ => output.pack_array(&self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_over_the_limit_is_refused() {
        for (length, result) in [
            (LONGEST_PARAMETER, Ok(())),
            (LONGEST_PARAMETER + 4, Err(DecodeError::TooLong)),
        ] {
            let mut buffer = Vec::new();
            let mut output = Encoder::new(&mut buffer, Architecture::host());
            let parameter = vec![0; length];
            output.hyper(0x8000_0001);
            output.opaque(&parameter);
            let record = output.finish().unwrap().to_vec();
            let payload = &record[crate::record::MARK_SIZE..];
            let mut input = Decoder::new(payload, Architecture::host());
            assert_eq!(Mechanism::read(&mut input).map(drop), result);
        }
    }
}
