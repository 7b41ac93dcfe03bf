//! Provides fixtures for tests that need processes: tokens, daemons, libraries, C programs.
//!
//! A [`Token`] is a SoftHSM token in a directory of its own. A [`Daemon`] serves it. A [`Stack`] is an application's
//! path to the token: a library, with or without a daemon behind it. Every process and file is removed when its value
//! is dropped, in a panicking test too.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test target uses a part of it"
)]

pub mod built_in;
pub mod certificates;
pub mod compile;
pub mod cryptoki;
pub mod daemon;
pub mod directory;
pub mod lasting;
pub mod original;
pub mod processes;
pub mod raw;
pub mod script;
pub mod stack;
pub mod token;
pub mod version3;

pub use certificates::certificates;
pub use daemon::{Daemon, Endpoint, Maker, Setup};
pub use directory::Directory;
pub use stack::{Library, Stack};
pub use token::Token;

/// How long a fixture waits for what must happen. It is over only when something hangs: a machine
/// with twenty tests for each core takes ten seconds to start a process or to make a key.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// The module behind every daemon, unless a test says otherwise.
pub const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
