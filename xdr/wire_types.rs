//! Includes the structures generated from `pkcs11_rpc_v4.x`, and adds what the generator leaves out: reading and
//! writing through `codec`, and wiping of values.

#![allow(missing_docs)] // each field is named and explained in pkcs11_rpc_v4.x

use crate::codec::{DecodeError, Decoder, Encoder, Wire};
use crate::data::Data;
use crate::handles::{Handle, Look, in_result};
use crate::integers::{
    Architecture, CkRv, Flags, MechanismType, ObjectHandle, SessionHandle, SlotId, State, Ulong,
};
use crate::mechanism::{Mechanism, Written};
use crate::templates::{Answers, Query, Template};

#[allow(clippy::all, clippy::pedantic, unused)]
#[rustfmt::skip]
mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/types.rs"));
}

pub use generated::{
    Info, LABEL_SIZE, MechanismListResult, ObjectListResult, SERIAL_SIZE, SlotInfo, SlotListResult,
    TokenInfo, Version,
};

/// Upper bound on the levels of templates in templates, and of structures in mechanism parameters.
pub const DEEPEST_NESTING: u32 = 4;
const _: () = assert!(generated::DEEPEST_NESTING == DEEPEST_NESTING as i64);

/// A feature of [`Hello`]: takes part in notifications.
pub const FEATURE_NOTIFY: u64 = generated::FEATURE_NOTIFY as u64;

/// A feature of [`Hello`]: between two operations, the client can lose the connection and reconnect.
pub const FEATURE_RECOVER: u64 = generated::FEATURE_RECOVER as u64;

/// The answer of a daemon that is about to close the connection: nothing was executed.
pub const RV_LEAVING: CkRv = CkRv(generated::RV_LEAVING as u64);

/// An interface of [`LoadResult`]: the functions of PKCS#11 2.40.
pub const INTERFACE_2_40: u64 = generated::INTERFACE_2_40 as u64;
/// The functions of 3.0 as well.
pub const INTERFACE_3_0: u64 = generated::INTERFACE_3_0 as u64;
/// The functions of 3.2 as well.
pub const INTERFACE_3_2: u64 = generated::INTERFACE_3_2 as u64;

/// A handle that a module may have left as it was.
pub type ObjectPointer = Option<ObjectHandle>;
/// A template, or NULL.
pub type TemplatePointer = Option<Template>;
/// A question for attributes, or NULL.
pub type QueryPointer = Option<Query>;
/// A mechanism, or NULL.
pub type MechanismPointer = Option<Mechanism>;
/// The parameter of one message, with the mechanism of the messages.
pub type MessageParameter = Mechanism;

/// What each side announces about itself in C_SetupArch.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Hello {
    /// How it lays out numbers, or a code that says why the call failed. Only in version 3, where it is the only
    /// member.
    pub architecture: Option<Architecture>,
    /// The longest record that it accepts, in bytes.
    pub longest_record: Ulong,
    /// How many calls it makes or serves at a time.
    pub parallel_calls: Ulong,
    /// What it can do: `FEATURE_*` of `pkcs11_rpc_v4.x`.
    pub features: Flags,
}

impl<'a> Wire<'a> for Hello {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Ok(Hello {
            architecture: None,
            longest_record: Ulong::read(input)?,
            parallel_calls: Ulong::read(input)?,
            features: Flags::read(input)?,
        })
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        self.longest_record.write(output);
        self.parallel_calls.write(output);
        self.features.write(output);
    }
}

/// Defines structures whose members all have types with a name.
macro_rules! define_structures {
    ($($name:ident { $($member:ident: $type:ident),* })*) => {$(
        #[derive(Clone, Default, Eq, PartialEq)]
        pub struct $name { $(pub $member: $type),* }

        impl<'a> Wire<'a> for $name {
            fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
                Ok($name { $($member: <$type as Wire>::read(input)?),* })
            }

            fn write<'b>(&'b self, output: &mut Encoder<'b>) {
                $(Wire::write(&self.$member, output);)*
            }
        }
    )*};
}
pub(crate) use define_structures;

include!(concat!(env!("OUT_DIR"), "/structures.rs"));

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
    Info MechanismListResult ObjectListResult SlotInfo SlotListResult TokenInfo
}

/// A long value is sent without a copy.
impl<'a> Wire<'a> for Data {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        input.data()
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        output.opaque(self);
    }
}

/// XDR's optional data: a boolean, and the value if there is one.
impl<'a, T: Wire<'a>> Wire<'a> for Option<T> {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        match input.word()? {
            0 => Ok(None),
            1 => T::read(input).map(Some),
            _ => Err(DecodeError::Kind),
        }
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        output.word(u32::from(self.is_some()));
        if let Some(value) = self {
            value.write(output);
        }
    }
}

impl<'a> Wire<'a> for bool {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        match input.word()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Kind),
        }
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        output.word(u32::from(*self));
    }
}

/// The result in a reply: a CK_RV and what comes with it.
pub(crate) trait CallResult {
    /// How many single values the C function writes: handles, numbers, structures.
    const PLACES: usize = 0;

    /// The CK_RV of the reply.
    fn rv(&self) -> CkRv;
    /// A reply with this CK_RV and nothing else: numbers 0, byte strings and arrays empty.
    fn only(rv: CkRv) -> Self;
    /// Wipes the bytes that it carries, if it carries any.
    fn wipe(&mut self) {}
    /// Takes the bytes it carries.
    fn take_data(&mut self) -> Data {
        Data::new()
    }
    /// Passes each of its handles and slots to `look`.
    fn results(&mut self, look: &mut Look<'_>) -> Result<(), CkRv> {
        let _ = look;
        Ok(())
    }
    /// What the module wrote into a mechanism's parameter.
    fn written_mut(&mut self) -> Option<&mut Written> {
        None
    }
}

impl CallResult for CkRv {
    fn rv(&self) -> CkRv {
        *self
    }

    fn only(rv: CkRv) -> Self {
        rv
    }
}

macro_rules! call_results {
    ($(
        $name:ident $([$places:literal])? $(($data:ident))? $(writes $written:ident)?
        $(shows |$result:ident, $look:ident| $shown:expr)?;
    )*) => {$(
        impl $crate::wire_types::CallResult for $name {
            $(const PLACES: usize = $places;)?

            fn rv(&self) -> CkRv {
                self.rv
            }

            fn only(rv: CkRv) -> Self {
                $name { rv, ..Default::default() }
            }

            $(fn wipe(&mut self) {
                self.$data.wipe();
            }

            fn take_data(&mut self) -> Data {
                std::mem::take(&mut self.$data)
            })?

            $(fn results(&mut self, $look: &mut $crate::handles::Look<'_>) -> Result<(), CkRv> {
                let $result = self;
                $shown
            })?

            $(fn written_mut(&mut self) -> Option<&mut Written> {
                Some(&mut self.$written)
            })?
        }
    )*};
}
pub(crate) use call_results;

/// Large results are boxed: replies are moved often, and most results are smaller.
impl<T: CallResult> CallResult for Box<T> {
    const PLACES: usize = T::PLACES;

    fn rv(&self) -> CkRv {
        (**self).rv()
    }

    fn only(rv: CkRv) -> Self {
        Box::new(T::only(rv))
    }

    fn wipe(&mut self) {
        (**self).wipe();
    }

    fn take_data(&mut self) -> Data {
        (**self).take_data()
    }

    fn results(&mut self, look: &mut Look<'_>) -> Result<(), CkRv> {
        (**self).results(look)
    }

    fn written_mut(&mut self) -> Option<&mut Written> {
        (**self).written_mut()
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Box<T> {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        T::read(input).map(Box::new)
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        (**self).write(output);
    }
}

/// C_GetInfo's result in a reply.
pub(crate) type BoxedInfo = Box<InfoResult>;
/// C_GetSlotInfo's result in a reply.
pub(crate) type BoxedSlotInfo = Box<SlotInfoResult>;
/// C_GetTokenInfo's result in a reply.
pub(crate) type BoxedTokenInfo = Box<TokenInfoResult>;

call_results! {
    AsyncResult[1](data) shows |it, look| {
        in_result(Some(&mut it.object), look)?;
        in_result(Some(&mut it.additional_object), look)
    };
    AttributesResult;
    EncapsulateResult[1](data) writes written shows |it, look| in_result(it.object.as_mut(), look);
    FlagsResult[1];
    HelloResult;
    InfoResult[1];
    KeyPairResult[2] writes written shows |it, look| {
        in_result(it.public_key.as_mut(), look)?;
        in_result(it.private_key.as_mut(), look)
    };
    KeyResult[1] writes written shows |it, look| in_result(it.object.as_mut(), look);
    LoadResult;
    MechanismInfoResult[1];
    MechanismListResult;
    MechanismOutputResult(data) writes written;
    MechanismResult writes written;
    ObjectListResult shows |it, look| {
        let mut objects = it.objects.iter_mut();
        objects.try_for_each(|object| in_result(Some(object), look))
    };
    ObjectResult[1] shows |it, look| in_result(it.object.as_mut(), look);
    OutputResult(data);
    SessionInfoResult[1] shows |it, look| look(Handle::Slot(&mut it.info.slot_id));
    SessionResult[1] shows |it, look| look(Handle::Session(&mut it.session));
    SizeResult[1];
    SlotInfoResult[1];
    SlotListResult shows |it, look| {
        it.slots.iter_mut().try_for_each(|slot| look(Handle::Slot(slot)))
    };
    SlotResult[1] shows |it, look| look(Handle::Slot(&mut it.slot_id));
    TokenInfoResult[1];
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
