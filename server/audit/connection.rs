//! Holds what the auditor knows about a connection: who the client is, where records come from, which were taken.
//!
//! The controller says which client a worker serves. The worker may add who its client is by TLS or a PROXY header, and
//! its profile. The auditor believes nothing else that a worker says.

use std::os::fd::OwnedFd;

use super::printable;
use super::records::{FromWorker, Given};
use super::ring::Reader;

/// A worker and its client.
pub(super) struct Connection {
    /// Who its client is, as lines show it.
    pub(super) given: Given,
    /// The socket that the worker's messages come over.
    pub(super) socket: OwnedFd,
    /// The memory that the worker's records are in.
    pub(super) ring: Reader,
    /// Whether a record has arrived. After that the worker can no longer set the client's user or profile.
    pub(super) has_called: bool,
    /// How often the worker sent something malformed.
    pub(super) malformed: u64,
    /// The calls that were taken.
    pub(super) numbers: Numbers,
    /// Whether its ring is polled, without a wake-up.
    pub(super) is_active: bool,
}

impl Connection {
    /// A connection from which nothing was taken yet.
    pub(super) fn new(given: Given, socket: OwnedFd, ring: Reader) -> Connection {
        let show = |text: &String| printable(text.as_bytes());
        Connection {
            given: Given {
                peer: show(&given.peer),
                user: show(&given.user),
                profile: show(&given.profile),
                service: show(&given.service),
                ..given
            },
            socket,
            ring,
            has_called: false,
            malformed: 0,
            numbers: Numbers::default(),
            is_active: false,
        }
    }

    /// Handles a message of the worker. Returns false if it is malformed or not allowed.
    pub(super) fn is_told(&mut self, message: &[u8]) -> bool {
        let given = &mut self.given;
        match serde_json::from_slice(message) {
            Ok(FromWorker::Peer(peer)) if given.awaits_header && !self.has_called => {
                given.awaits_header = false;
                given.peer = printable(beginning(&peer));
            }
            // If this is not the daemon's first auditor, the controller may have said it already.
            Ok(FromWorker::User(user)) if !self.has_called => set_once(&mut given.user, &user),
            Ok(FromWorker::Profile(profile)) if !self.has_called => {
                set_once(&mut given.profile, &profile);
            }
            Ok(FromWorker::Wake) => {}
            _ => return false,
        }
        true
    }
}

/// Upper bound on the bytes of a text from a worker, such as the subject of a certificate. Each byte may take ten bytes
/// in a line.
const LONGEST_TEXT: usize = 1024;

/// Cuts a text off after [`LONGEST_TEXT`] bytes.
fn beginning(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    bytes.get(..LONGEST_TEXT).unwrap_or(bytes)
}

/// Sets a text that is still empty.
fn set_once(known: &mut String, told: &str) {
    if known.is_empty() {
        *known = printable(beginning(told));
    }
}

/// Remembers which of the last 128 calls of a connection were taken. Calls in parallel end in any order.
#[derive(Default)]
pub(super) struct Numbers {
    highest: u64,
    /// A bit mask: bit `n` is set if the call `highest - n` was taken.
    taken: u128,
}

impl Numbers {
    /// Notes that this call was taken.
    pub(super) fn take(&mut self, number: u64) {
        if let Some(ahead @ 1..) = number.checked_sub(self.highest) {
            let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
            self.taken = self.taken.checked_shl(shift).unwrap_or(0);
            self.highest = number;
        }
        self.taken |= self.bit(number);
    }

    fn bit(&self, number: u64) -> u128 {
        let behind = self.highest.checked_sub(number);
        let behind = behind.and_then(|behind| u32::try_from(behind).ok());
        behind.map_or(0, |behind| 1_u128.checked_shl(behind).unwrap_or(0))
    }

    /// Whether this call was taken; false if it is too old to be remembered.
    pub(super) fn has(&self, number: u64) -> bool {
        self.taken & self.bit(number) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_calls_are_known_for_a_while_in_any_order() {
        let mut numbers = Numbers::default();
        assert!(!numbers.has(1));
        for number in [3, 1, 100] {
            numbers.take(number);
        }
        let known: Vec<u64> = (0..200).filter(|number| numbers.has(*number)).collect();
        assert_eq!(known, [1, 3, 100]);
        numbers.take(u64::MAX);
        assert!(numbers.has(u64::MAX) && !numbers.has(100));
        numbers.take(5);
        assert!(!numbers.has(5) && numbers.has(u64::MAX));
    }
}
