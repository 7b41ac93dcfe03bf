//! The module's C interface, and the system calls that std and `nix` do not offer safely.
//!
//! Calls come from `xdr` through `filter`, laid out for this host; [`module::Module`] makes the C
//! call and turns its outcome into a reply. [`sys`] has fork and descriptors for the daemon.

#![deny(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

mod arguments;
pub mod module;
pub mod sys;
