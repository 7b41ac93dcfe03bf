//! Defines one integer type for each meaning that a CK_ULONG has on the wire.
//!
//! `build.rs` writes a row for each `typedef unsigned hyper` in `pkcs11_rpc.x` and `pkcs11_rpc_v4.x`. All these types are
//! encoded as 8 bytes, big-endian. An unknown number passes unchanged. One that does not fit into this host's CK_ULONG is
//! an error among the arguments of version 4. In version 3, and in structures, it is cut to what a module would see.

use crate::codec::{DecodeError, Decoder, Encoder, Wire};
use crate::word_size::{Abi, received};

macro_rules! define_integers {
    ($($name:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of the protocol: a CK_ULONG, 8 bytes on the wire.")]
        #[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub u64);

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl<Out: xdr_codec::Write> xdr_codec::Pack<Out> for $name {
            fn pack(&self, out: &mut Out) -> xdr_codec::Result<usize> {
                self.0.pack(out)
            }
        }

        impl<In: xdr_codec::Read> xdr_codec::Unpack<In> for $name {
            fn unpack(input: &mut In) -> xdr_codec::Result<(Self, usize)> {
                let (number, size) = xdr_codec::Unpack::unpack(input)?;
                Ok(($name(received(number, Abi::HOST.word)), size))
            }
        }

        impl<'a> Wire<'a> for $name {
            fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
                input.number().map($name)
            }

            fn write<'b>(&'b self, output: &mut Encoder<'b>) {
                output.hyper(self.0);
            }
        }
    )*};
}

include!(concat!(env!("OUT_DIR"), "/integers.rs"));

impl Architecture {
    /// Little-endian, 8-byte CK_ULONG.
    pub const LITTLE_64: Architecture = Architecture(1);
    /// Little-endian, 4-byte CK_ULONG.
    pub const LITTLE_32: Architecture = Architecture(2);
    /// Big-endian, 8-byte CK_ULONG.
    pub const BIG_64: Architecture = Architecture(3);
    /// Big-endian, 4-byte CK_ULONG.
    pub const BIG_32: Architecture = Architecture(4);
    /// The answer to a code that is none of the four.
    pub const UNSUPPORTED: Architecture = Architecture(5);
    /// The answer to a second C_SetupArch on one connection.
    pub const ALREADY_SET: Architecture = Architecture(u64::MAX);

    /// The architecture this program runs on: its CK_ULONG is C's `unsigned long`.
    pub const fn host() -> Architecture {
        match (
            cfg!(target_endian = "little"),
            size_of::<std::ffi::c_ulong>(),
        ) {
            (true, 8) => Architecture::LITTLE_64,
            (true, _) => Architecture::LITTLE_32,
            (false, 8) => Architecture::BIG_64,
            (false, _) => Architecture::BIG_32,
        }
    }
}

impl SlotId {
    /// Sent where there is no slot: by C_WaitForSlotEvent without an event and a failed
    /// C_GetSessionInfo.
    pub const NONE: SlotId = SlotId(u64::MAX);
}

impl Ulong {
    /// CK_UNAVAILABLE_INFORMATION, as a 64-bit sender encodes it.
    pub const UNAVAILABLE: Ulong = Ulong(u64::MAX);
}
