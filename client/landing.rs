//! Represents the application's memory for a long result, into which its bytes are received directly.
//!
//! The bytes of a result usually lie in the memory of the connection first and are copied from there. At 1 MiB the copy
//! takes a quarter as long as the transport itself, because it needs twice the processor's cache. So `abi` passes on the
//! buffer of the application, if no input of the call lies in it, and the thread that made the call receives into it, if
//! it reads its reply itself. This file contains no address.

/// A result of at most this many bytes is always copied.
pub(crate) const SHORT: usize = 64 << 10;

/// Room for the bytes of one result.
pub(crate) struct Landing<'a> {
    space: &'a mut [u8],
    landed: Option<usize>,
}

impl<'a> Landing<'a> {
    /// Room in the application's memory.
    pub fn new(space: &'a mut [u8]) -> Landing<'a> {
        Landing {
            space,
            landed: None,
        }
    }

    /// No room: the result is copied.
    pub fn none() -> Landing<'a> {
        Landing::new(&mut [])
    }

    /// Returns whether a long result may be received here.
    pub fn is_long(&self) -> bool {
        self.space.len() > SHORT
    }

    /// Returns the memory for a result of this many bytes; `None` if it is too short to be received here, or too long.
    pub fn place(&mut self, length: usize) -> Option<&mut [u8]> {
        match length > SHORT {
            true => self.space.get_mut(..length),
            false => None,
        }
    }

    /// Notes how many bytes of the result were received here; `None` if none were.
    pub fn set_landed(&mut self, landed: Option<usize>) {
        self.landed = landed;
    }

    /// Returns how many bytes of the result were received here. They are not in the reply then. `None` if the reply
    /// has all of them.
    pub fn landed(&self) -> Option<usize> {
        self.landed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_result_that_fits_is_received_here() {
        let mut memory = vec![0; SHORT + 2];
        let mut landing = Landing::new(&mut memory);
        assert!(landing.is_long() && landing.landed().is_none());
        assert!(landing.place(SHORT).is_none());
        assert_eq!(landing.place(SHORT + 1).map(|it| it.len()), Some(SHORT + 1));
        assert!(landing.place(SHORT + 3).is_none());
        assert!(!Landing::none().is_long() && Landing::none().place(0).is_none());
        assert!(!Landing::new(&mut [0; SHORT]).is_long());
    }
}
