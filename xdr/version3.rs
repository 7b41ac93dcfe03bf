//! Converts between version 3 of the protocol, which the original speaks, and the calls and replies of version 4.
//!
//! In the daemon, a call of version 3 is read with its own types, which `build.rs` makes from `pkcs11_rpc.x`, and
//! becomes a [`crate::Call`]. A [`crate::Reply`] becomes one of version 3 and is written. So no layer behind `rpc`
//! knows which version a call came by. The client converts the other way round. `projection` has a rule for each pair
//! of types; the two interfaces say which procedure has which types.

mod attributes;
mod projection;
mod wire_types;

use crate::call::Function;
use crate::codec::{DecodeError, Decoder, Encoder, Wire};
use crate::data::Data;
use crate::integers::{
    Architecture, Count, Flags, MechanismType, ObjectHandle, SessionHandle, SlotId, Ulong, UserType,
};
use crate::wire_types::{
    BoxedInfo as InfoResult, BoxedSlotInfo as SlotInfoResult, BoxedTokenInfo as TokenInfoResult,
    CallResult, MechanismInfoResult, MechanismListResult, ObjectListResult, SessionInfoResult,
    SessionResult, SizeResult, SlotListResult, SlotResult,
};
use crate::{Call as CurrentCall, CkRv, Reply as CurrentReply};

pub use wire_types::{
    Attribute, DataResult, KeyPairResult, Mechanism, ObjectResult, Template, TemplateResult,
};

use projection::{Added, Current, Former};

/// The Rust type of an argument: byte strings are parts of the record or of the caller's buffer.
macro_rules! argument {
    ($life:lifetime, Bytes) => {
        &$life[u8]
    };
    ($life:lifetime, $type:ident) => {
        $type
    };
}

macro_rules! define_former_calls {
    ($(
        $name:ident ($($argument:ident: $type:ident => $current:ident),*) + ($($added:ident),*)
            -> $reply:ident => $current_reply:ident;
    )*) => {
        /// A call with its arguments, in the order of `pkcs11_rpc.x`.
        #[allow(non_camel_case_types, missing_docs)] // the standard's names
        #[derive(Clone, PartialEq)]
        pub enum Call<'a> { $($name($(argument!('a, $type)),*)),* }

        impl<'a> Call<'a> {
            /// Which procedure is called.
            pub fn function(&self) -> Function {
                match self { $(Call::$name(..) => Function::$name),* }
            }

            /// Reads the arguments of `function`: all that is left of the record. `None` if version 3 has no such
            /// procedure.
            pub fn read(
                function: Function,
                mut input: Decoder<'a>,
            ) -> Option<Result<Call<'a>, DecodeError>> {
                input.cut_numbers();
                let input = &mut input;
                #[allow(clippy::wildcard_enum_match_arm)] // those that version 3 has are matched before
                let mut read = move || {
                    let call = match function {
                        $(Function::$name => Call::$name($(
                            <argument!('a, $type) as Wire<'a>>::read(input)?
                        ),*),)*
                        _ => return Ok(None),
                    };
                    input.end().map(|()| Some(call))
                };
                read().transpose()
            }

            /// Appends the arguments.
            pub fn write<'b>(&'b self, output: &mut Encoder<'b>) where 'a: 'b {
                match self { $(Call::$name($($argument),*) => { $($argument.write(output);)* }),* }
            }

            /// Converts the call to version 4.
            pub fn into_current(self) -> CurrentCall<'a> {
                let call = match self {$(
                    Call::$name($($argument),*) => {
                        $(let $added = Added::added();)*
                        CurrentCall::$name($(Current::current($argument),)* $($added),*)
                    }
                ),*};
                projection::adjusted_from_former(call)
            }

            /// Converts a call to version 3. If version 3 cannot express it, returns the CK_RV that the client answers.
            #[allow(clippy::wildcard_enum_match_arm)] // those that version 3 has are matched before
            pub fn of(call: &CurrentCall<'a>) -> Result<Call<'a>, CkRv> {
                match &*projection::adjusted_for_former(call) {
                    $(CurrentCall::$name($($argument,)* $($added),*) => {
                        $(let _ = $added;)*
                        Ok(Call::$name($(Former::former($argument)?),*))
                    })*
                    _ => Err(CkRv::FUNCTION_NOT_SUPPORTED),
                }
            }
        }

        /// The reply of each procedure.
        #[allow(non_camel_case_types, missing_docs)] // the standard's names
        #[derive(Clone, PartialEq)]
        pub enum Reply { $($name($reply)),* }

        impl Reply {
            /// Which procedure this is a reply to.
            pub fn function(&self) -> Function {
                match self { $(Reply::$name(..) => Function::$name),* }
            }

            /// The CK_RV. For C_SetupArch, the architecture's code.
            pub fn rv(&self) -> CkRv {
                match self { $(Reply::$name(result) => result.rv()),* }
            }

            /// A reply to `function` with this CK_RV and nothing else: numbers are 0, byte strings
            /// and arrays empty, versions 0.0. `None` if version 3 has no such procedure.
            pub fn only(function: Function, rv: CkRv) -> Option<Reply> {
                #[allow(clippy::wildcard_enum_match_arm)] // those that version 3 has are matched before
                match function {
                    $(Function::$name => Some(Reply::$name(CallResult::only(rv))),)*
                    _ => None,
                }
            }

            /// Wipes the bytes it carries; attribute values are wiped when they are dropped.
            pub fn wipe(&mut self) {
                match self { $(Reply::$name(result) => result.wipe()),* }
            }

            /// Takes the bytes it carries, so that their memory can be used again.
            pub fn take_data(&mut self) -> Data {
                match self { $(Reply::$name(result) => result.take_data()),* }
            }

            /// Reads the result of `function`: all that is left of the record. `None` if version 3 has no such
            /// procedure.
            pub fn read(
                function: Function,
                mut input: Decoder<'_>,
            ) -> Option<Result<Reply, DecodeError>> {
                input.cut_numbers();
                #[allow(clippy::wildcard_enum_match_arm)] // those that version 3 has are matched before
                let reply = match function {
                    $(Function::$name => <$reply as Wire>::read(&mut input).map(Reply::$name),)*
                    _ => return None,
                };
                Some(reply.and_then(|reply| input.end().map(|()| reply)))
            }

            /// Appends the result.
            pub fn write<'b>(&'b self, output: &mut Encoder<'b>) {
                match self { $(Reply::$name(result) => Wire::write(result, output)),* }
            }

            /// Converts the reply to version 4.
            pub fn into_current(self) -> CurrentReply {
                match self {$(
                    Reply::$name(result) => CurrentReply::$name(Current::current(result))
                ),*}
            }

            /// Converts a reply to version 3; `None` for a procedure that version 3 does not have.
            #[allow(clippy::wildcard_enum_match_arm)] // those that version 3 has are matched before
            pub fn of(reply: CurrentReply) -> Option<Reply> {
                match reply {
                    $(CurrentReply::$name(result) => {
                        Some(Reply::$name(projection::former_result(result)))
                    })*
                    _ => None,
                }
            }
        }

        /// The procedures that version 3 has, in the order of their numbers.
        pub const FUNCTIONS: &[Function] = &[$(Function::$name),*];
    };
}

include!(concat!(env!("OUT_DIR"), "/procedures3.rs"));

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
