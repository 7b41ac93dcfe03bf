//! Represents each PKCS#11 call and reply as a value, and defines the trait that every layer implements.
//!
//! `build.rs` writes a row for each procedure in `pkcs11_rpc_v4.x`. The macros here turn these rows into [`Function`],
//! [`Call`] and [`Reply`]. A layer matches on the calls it cares about and passes on the rest. There is no other list
//! of the procedures.

use crate::buffers::{Input, NullPlaces, Room};
use crate::codec::{DecodeError, Decoder, Encoder, Wire};
use crate::data::Data;
use crate::handles::Look;
use crate::integers::{
    CkRv, Flags, MechanismType, ObjectHandle, SessionHandle, SlotId, Ulong, UserType,
};
use crate::mechanism::Written;
use crate::wire_types::{
    AsyncResult, AttributesResult, BoxedInfo as InfoResult, BoxedSlotInfo as SlotInfoResult,
    BoxedTokenInfo as TokenInfoResult, CallResult, EncapsulateResult, FlagsResult, Hello,
    HelloResult, KeyPairResult, KeyResult, LoadResult, MechanismInfoResult, MechanismListResult,
    MechanismOutputResult, MechanismPointer, MechanismResult, MessageParameter, ObjectListResult,
    ObjectResult, OutputResult, QueryPointer, SessionInfoResult, SessionResult, SizeResult,
    SlotListResult, SlotResult, TemplatePointer,
};

/// Anything that answers PKCS#11 calls: a module, a filter in front of it, a remote daemon.
///
/// Calls may arrive from several threads at once. The reply always belongs to the function that was
/// called.
pub trait Cryptoki: Send + Sync {
    /// Executes the call. A failure of any kind is a CK_RV in the reply.
    fn call(&self, call: Call<'_>) -> Reply;

    /// Executes the call. `nulls` says which pointers to results the application passed as NULL. The module gets NULL there,
    /// too, if each layer in front of it passes `nulls` on.
    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        let _ = nulls;
        self.call(call)
    }
}

/// The Rust type of an argument: byte strings are parts of the record or of the caller's buffer.
macro_rules! argument {
    ($life:lifetime, Bytes) => {
        &$life[u8]
    };
    ($life:lifetime, Input) => {
        Input<$life>
    };
    ($life:lifetime, $type:ident) => {
        $type
    };
}

macro_rules! define_calls {
    ($($name:ident = $number:literal ($($argument:ident: $type:ident),*) -> $reply:ident;)*) => {
        /// The procedures of the interface, by their numbers.
        #[allow(non_camel_case_types, missing_docs)] // the standard's names
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u32)]
        pub enum Function { $($name = $number),* }

        impl Function {
            /// Every procedure, in the order of its number.
            pub const ALL: &'static [Function] = &[$(Function::$name),*];

            /// The name in the standard, such as `C_Sign`.
            pub const fn name(self) -> &'static str {
                match self { $(Function::$name => stringify!($name)),* }
            }

            /// The number of single values that it writes through pointers: handles, numbers and structures, but not
            /// outputs with a length, nor lists.
            pub fn places(self) -> usize {
                match self { $(Function::$name => <$reply as CallResult>::PLACES),* }
            }

            /// The procedure of this number, if there is one.
            pub const fn from_number(number: u32) -> Option<Function> {
                match number { $($number => Some(Function::$name),)* _ => None }
            }
        }

        /// A call with its arguments, in the order of `pkcs11_rpc_v4.x`.
        #[allow(non_camel_case_types, missing_docs)] // the standard's names
        #[derive(Clone, PartialEq)]
        pub enum Call<'a> { $($name($(argument!('a, $type)),*)),* }

        impl<'a> Call<'a> {
            /// Which procedure is called.
            pub fn function(&self) -> Function {
                match self { $(Call::$name(..) => Function::$name),* }
            }

            /// Reads the arguments of `function`, as version 4 has them: all that is left of the record.
            pub fn read(function: Function, mut input: Decoder<'a>) -> Result<Call<'a>, DecodeError> {
                let call = match function {
                    $(Function::$name => Call::$name($(
                        <argument!('a, $type) as Wire<'a>>::read(&mut input)?
                    ),*)),*
                };
                input.finish().map(|()| call)
            }

            /// Appends the arguments, as version 4 has them.
            pub fn write<'b>(&'b self, output: &mut Encoder<'b>) where 'a: 'b {
                match self { $(Call::$name($($argument),*) => { $($argument.write(output);)* }),* }
            }
        }

        /// The reply of each procedure.
        #[allow(non_camel_case_types, missing_docs)] // the standard's names
        #[derive(Clone, PartialEq)]
        pub enum Reply { $($name($reply)),* }

        impl Reply {
            /// A reply to `function` with this CK_RV and nothing else: numbers are 0, byte strings
            /// and arrays empty, versions 0.0.
            pub fn only(function: Function, rv: CkRv) -> Reply {
                match function { $(Function::$name => Reply::$name(CallResult::only(rv))),* }
            }

            /// Which procedure this is a reply to.
            pub fn function(&self) -> Function {
                match self { $(Reply::$name(..) => Function::$name),* }
            }

            /// The CK_RV.
            pub fn rv(&self) -> CkRv {
                match self { $(Reply::$name(result) => result.rv()),* }
            }

            /// Wipes the bytes it carries; attribute values are wiped when they are dropped.
            pub fn wipe(&mut self) {
                match self { $(Reply::$name(result) => result.wipe()),* }
            }

            /// Passes each handle and slot among its results to `look`.
            pub(crate) fn results(&mut self, look: &mut Look<'_>) -> Result<(), CkRv> {
                match self { $(Reply::$name(result) => result.results(look)),* }
            }

            /// What the module wrote into the parameter of the call's mechanism, if it may do so.
            pub(crate) fn written_mut(&mut self) -> Option<&mut Written> {
                match self { $(Reply::$name(result) => result.written_mut()),* }
            }

            /// Takes the bytes it carries, so that their memory can be used again.
            pub fn take_data(&mut self) -> Data {
                match self { $(Reply::$name(result) => result.take_data()),* }
            }

            /// Reads the result of `function`, as version 4 has it: all that is left of the record.
            pub fn read(function: Function, mut input: Decoder<'_>) -> Result<Reply, DecodeError> {
                let reply = match function {
                    $(Function::$name => Reply::$name(<$reply as Wire>::read(&mut input)?)),*
                };
                input.finish().map(|()| reply)
            }

            /// Appends the result, as version 4 has it.
            pub fn write<'b>(&'b self, output: &mut Encoder<'b>) {
                match self { $(Reply::$name(result) => Wire::write(result, output)),* }
            }
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/procedures.rs"));

impl<'a> Wire<'a> for &'a [u8] {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        input.opaque()
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        output.opaque(self);
    }
}

impl Function {
    /// The procedure's number.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The procedure of this name, such as `C_Sign`.
    pub fn from_name(name: &str) -> Option<Function> {
        Function::ALL
            .iter()
            .copied()
            .find(|function| function.name() == name)
    }
}

/// Names the function only: arguments may be PINs and keys.
impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.function().name())
    }
}

/// Names the function and its CK_RV only.
impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}", self.function().name(), self.rv())
    }
}
