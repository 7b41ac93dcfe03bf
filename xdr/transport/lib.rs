//! Holds what client and daemon share of sockets and TLS, so that both halves agree on it.
//!
//! [`halves`] carries records of the protocol to and from the peer, over a socket or TLS on it; [`shared_sender`] lets
//! several threads send; [`deadline`] and [`socket`] make blocking calls end in time; [`tls`] has the suites, the settings and the handshake's stream;
//! [`psk`] reads pre-shared keys. Who is connected, which certificates are trusted, and what a failure means
//! belongs to client and daemon.

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
