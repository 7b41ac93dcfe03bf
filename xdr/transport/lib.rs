//! Provides the socket and TLS code that client and daemon share, so that both behave alike.
//!
//! [`halves`] sends and receives records over a socket, with or without TLS; [`shared_sender`] lets several threads
//! send. [`deadline`] and [`socket`] make blocking calls end in time; `busy_poll` decides whether they poll first.
//! [`tls`] has the cipher suites, the settings and the stream of the handshake; [`psk`] reads pre-shared keys. Who is
//! connected, which certificates are trusted, and what a failure means is decided by client and daemon.

#![forbid(unsafe_code)]
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

mod busy_poll;
pub mod deadline;
pub mod halves;
pub mod psk;
pub mod shared_sender;
pub mod socket;
pub mod tls;

pub use deadline::Deadline;
pub use halves::{Closer, Receiver, Sender};
pub use shared_sender::SharedSender;
pub use socket::TimedSocket;
