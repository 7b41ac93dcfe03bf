//! Makes all calls of foreign code except those between library and application: the module's C interface, and the
//! system and OpenSSL calls that have no safe wrapper elsewhere.
//!
//! For the daemon, [`module::Module`] makes C calls of a module, [`sys`] has fork and descriptors, [`children`] waits
//! for children, [`shared`] has
//! memory that processes share, and [`hook`] calls the administrator's C_Daemonize. For the client library, [`process`]
//! detects forked children, [`background`] has a thread that can be left behind, and [`openssl_context`] gives it a
//! private OpenSSL context. This crate and `client/abi` have the only unsafe code.

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
pub mod background;
pub mod children;
pub mod hook;
pub mod leaving;
pub mod locked;
pub mod module;
pub mod openssl_context;
mod outputs;
pub mod process;
pub mod recorder;
pub mod shared;
pub mod sys;
mod templates;
