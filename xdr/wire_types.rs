//! Includes the structures that xdrgen generates from `pkcs11_rpc.x`, and adds what they lack:
//! reading and writing through `codec`, and wiping of values.

#![allow(missing_docs)] // each field is named and explained in pkcs11_rpc.x

use zeroize::Zeroize;

use crate::attribute_types;
use crate::codec::{DecodeError, Decoder, Encoder, Wire, wipe};
use crate::integers::{
    AttributeType, CkRv, Flags, MechanismType, ObjectHandle, SessionHandle, SlotId, State, Ulong,
};

#[allow(clippy::all, clippy::pedantic, unused)]
#[rustfmt::skip]
mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/types.rs"));
}

pub use generated::{
    Attribute, DataResult, Info, InfoResult, KeyPairResult, LABEL_SIZE, MechanismInfo,
    MechanismInfoResult, MechanismListResult, ObjectListResult, ObjectResult, SERIAL_SIZE,
    SessionInfo, SessionInfoResult, SessionResult, SizeResult, SlotInfo, SlotInfoResult,
    SlotListResult, SlotResult, Template, TemplateResult, TokenInfo, TokenInfoResult, Version,
};

macro_rules! through_xdrgen {
    ($($name:ident)*) => {$(
        impl<'a> Wire<'a> for $name {
            fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
                input.unpack()
            }

            fn write<'b>(&'b self, output: &mut Encoder<'b>) {
                output.pack(self);
            }
        }
    )*};
}

through_xdrgen! {
    InfoResult KeyPairResult MechanismInfoResult MechanismListResult ObjectListResult ObjectResult
    SessionInfoResult SessionResult SizeResult SlotInfoResult SlotListResult SlotResult
    TokenInfoResult
}

/// Written by hand: a long `data` is sent without a copy.
impl<'a> Wire<'a> for DataResult {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let rv = CkRv::read(input)?;
        let data = input.opaque_copy()?;
        Ok(DataResult { rv, data })
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        self.rv.write(output);
        output.opaque(&self.data);
    }
}

/// Written by hand: numbers in the values are converted from and to the client's layout.
impl<'a> Wire<'a> for Template {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let template = input.unpack()?;
        Ok(attribute_types::to_host(template, input.client()))
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        match output.client() {
            client if attribute_types::differs(client) => {
                output.pack(&attribute_types::to_client(self.clone(), client));
            }
            _ => output.pack(self),
        }
    }
}

impl<'a> Wire<'a> for TemplateResult {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Ok(TemplateResult {
            rv: CkRv::read(input)?,
            template: Template::read(input)?,
        })
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        self.rv.write(output);
        self.template.write(output);
    }
}

/// What a reply carries beside its CK_RV.
pub(crate) trait CallResult {
    /// The CK_RV of the reply.
    fn rv(&self) -> CkRv;
    /// A reply with this CK_RV and nothing else: numbers 0, byte strings and arrays empty.
    fn only(rv: CkRv) -> Self;
    /// Wipes the bytes it carries, if it is of bytes.
    fn wipe(&mut self) {}
}

impl CallResult for CkRv {
    fn rv(&self) -> CkRv {
        *self
    }

    fn only(rv: CkRv) -> Self {
        rv
    }
}

/// C_SetupArch answers an architecture where others answer a CK_RV.
impl CallResult for crate::integers::Architecture {
    fn rv(&self) -> CkRv {
        CkRv(self.0)
    }

    fn only(rv: CkRv) -> Self {
        crate::integers::Architecture(rv.0)
    }
}

macro_rules! call_results {
    ($($name:ident)*) => {$(
        impl CallResult for $name {
            fn rv(&self) -> CkRv {
                self.rv
            }

            fn only(rv: CkRv) -> Self {
                $name { rv, ..Default::default() }
            }
        }
    )*};
}

impl CallResult for DataResult {
    fn rv(&self) -> CkRv {
        self.rv
    }

    fn only(rv: CkRv) -> Self {
        DataResult {
            rv,
            data: Vec::new(),
        }
    }

    fn wipe(&mut self) {
        wipe(&mut self.data);
    }
}

call_results! {
    InfoResult KeyPairResult MechanismInfoResult MechanismListResult ObjectListResult
    ObjectResult SessionInfoResult SessionResult SizeResult SlotInfoResult SlotListResult SlotResult
    TemplateResult TokenInfoResult
}

/// Version 0.0: each number travels as a byte string of exactly one byte.
impl Default for Version {
    fn default() -> Self {
        Version::new(0, 0)
    }
}

impl Version {
    /// A CK_VERSION.
    pub fn new(major: u8, minor: u8) -> Version {
        Version {
            major: vec![major],
            minor: vec![minor],
        }
    }

    /// The major number; 0 when the peer sent none.
    pub fn major(&self) -> u8 {
        self.major.first().copied().unwrap_or(0)
    }

    /// The minor number; 0 when the peer sent none.
    pub fn minor(&self) -> u8 {
        self.minor.first().copied().unwrap_or(0)
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
