//! Defines the protocol between client and daemon: PKCS#11 calls and replies as values, and their encoding.
//!
//! Bytes are exchanged with `server::connection` and `client::connection`, values with anything that implements
//! [`Cryptoki`]. The protocol is specified in `pkcs11_rpc_v4.x` (version 4) and `pkcs11_rpc.x` (version 3), which
//! `build.rs` compiles. This crate opens no socket, executes no call and has no unsafe code. It knows the constants of
//! PKCS#11, the sizes of a client's words and the layout of its structures.

#![forbid(unsafe_code)]
#![deny(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm
)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::wildcard_enum_match_arm
    )
)]

pub mod attribute_types;
mod buffers;
pub mod call;
pub mod codec;
mod data;
pub mod ending;
pub mod facts;
pub mod handles;
pub mod integers;
pub mod mechanism;
pub mod mechanism_names;
pub mod names;
pub mod operations;
pub mod record;
pub mod rpc;
mod rv;
mod templates;
pub mod version3;
mod wire_types;
pub mod word_size;

pub use buffers::{Input, NullPlaces, Room};
pub use call::{Call, Cryptoki, Function, LONGEST_BYTES, MOST_ELEMENTS, PROGRAM, Reply, VERSION};
pub use codec::DecodeError;
pub use data::Data;
pub use integers::{
    Architecture, AttributeType, CkRv, Count, Flags, MechanismType, ObjectHandle, SessionHandle,
    SlotId, State, Ulong, UserType,
};
pub use mechanism::{Mechanism, Parameter, Use, Written, parameters};
pub use templates::{
    Answer, Answers, Attribute, Found, Query, Template, Value, Wanted, WantedRoom,
};
pub use wire_types::{
    AsyncResult, AttributesResult, DEEPEST_NESTING, EncapsulateResult, FEATURE_NOTIFY,
    FEATURE_RECOVER, FlagsResult, Hello, HelloResult, INTERFACE_2_40, INTERFACE_3_0, INTERFACE_3_2,
    Info, InfoResult, KeyPairResult, KeyResult, LABEL_SIZE, LoadResult, MechanismInfo,
    MechanismInfoResult, MechanismListResult, MechanismOutputResult, MechanismPointer,
    MechanismResult, ObjectListResult, ObjectResult, OutputResult, QueryPointer, RV_LEAVING,
    SERIAL_SIZE, SessionInfo, SessionInfoResult, SessionResult, SizeResult, SlotInfo,
    SlotInfoResult, SlotListResult, SlotResult, TemplatePointer, TokenInfo, TokenInfoResult,
    Version,
};
