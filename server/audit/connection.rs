//! Keeps what the auditor knows of a worker that has a client: who the client is, where records come from, which were taken.
//!
//! The controller tells whose worker it is. The worker tells who its client is by TLS or a PROXY header, and its profile,
//! before the first call; the auditor believes nothing else of it.

use std::os::fd::OwnedFd;

use super::printable;
use super::records::{FromWorker, Given};
use super::ring::Reader;

/// A worker that has a client.
pub(super) struct Connection {
    /// Who its client is, as lines show it.
    pub(super) given: Given,
    /// Where its messages come from.
    pub(super) socket: OwnedFd,
    /// Where its records are.
    pub(super) ring: Reader,
    /// Whether a record came, behind which nothing counts that tells who the client is.
    pub(super) has_called: bool,
    /// How often it sent something that is not a record.
    pub(super) malformed: u64,
    /// The calls that were taken.
    pub(super) numbers: Numbers,
    /// Whether its ring is looked at without being woken.
    pub(super) is_active: bool,
}

impl Connection {
    /// Of which nothing was taken yet.
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

    /// Takes a message of the worker; false if it may not say that.
    pub(super) fn is_told(&mut self, message: &[u8]) -> bool {
        let given = &mut self.given;
        match serde_json::from_slice(message) {
            Ok(FromWorker::Peer(peer)) if given.awaits_header && !self.has_called => {
                given.awaits_header = false;
                given.peer = printable(beginning(&peer));
            }
            // Another auditor may know it from the controller already.
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

/// Upper bound on the bytes of a text that a worker tells, such as the subject of a certificate. In a line each may take
/// ten.
const LONGEST_TEXT: usize = 1024;

/// As much of a text as a line may have.
fn beginning(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    bytes.get(..LONGEST_TEXT).unwrap_or(bytes)
}

/// Keeps the first text.
fn set_once(known: &mut String, told: &str) {
    if known.is_empty() {
        *known = printable(beginning(told));
    }
}

/// Which of the last calls of a connection were taken, as calls in parallel end in any order.
#[derive(Default)]
pub(super) struct Numbers {
    highest: u64,
    /// The highest one and those below it, from the lowest bit on.
    taken: u128,
}

impl Numbers {
    /// This call is taken.
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

    /// Whether this call was taken, as far as that is known.
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
