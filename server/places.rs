//! Assigns each worker of a service a place in the memory that the service's processes share.
//!
//! A place is a number. The controller knows which worker has which place. A worker gets its place at the fork. When it
//! has been reaped, another worker may get the same place. So there are no more places than workers that have existed
//! at the same time.

/// Upper bound on the places of a service: Linux has no more process ids.
pub const MOST_WORKERS: usize = 1 << 22;

/// Places beyond the limit of workers: readiness checks have workers, too, and a worker that was killed keeps its place
/// until it is reaped.
pub const SURPLUS: usize = 64;

/// The places of a service, with the worker that has each. `W` identifies a worker.
pub struct Places<W>(Vec<Option<W>>);

impl<W> Default for Places<W> {
    fn default() -> Places<W> {
        Places(Vec::new())
    }
}

impl<W: PartialEq> Places<W> {
    /// Returns the place for a worker that is about to be forked.
    pub fn next(&self) -> usize {
        let free = self.0.iter().position(Option::is_none);
        free.unwrap_or(self.0.len())
    }

    /// Gives a worker that has been forked the place that [`Places::next`] has returned.
    pub fn given_to(&mut self, worker: W) {
        match self.0.iter_mut().find(|owner| owner.is_none()) {
            Some(owner) => *owner = Some(worker),
            None => self.0.push(Some(worker)),
        }
    }

    /// Returns the place of a worker.
    pub fn of(&self, worker: &W) -> Option<usize> {
        self.0
            .iter()
            .position(|owner| owner.as_ref() == Some(worker))
    }

    /// Frees the place of a worker that was reaped, and returns it.
    pub fn left_by(&mut self, worker: &W) -> Option<usize> {
        let place = self.of(worker)?;
        *self.0.get_mut(place)? = None;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_left_is_the_next() {
        let mut places = Places::default();
        for (worker, place) in [("a", 0), ("b", 1), ("c", 2)] {
            assert_eq!(places.next(), place);
            places.given_to(worker);
        }
        assert_eq!(places.left_by(&"b"), Some(1));
        assert_eq!((places.of(&"b"), places.left_by(&"b")), (None, None));
        assert_eq!(places.next(), 1);
        places.given_to("d");
        assert_eq!((places.of(&"d"), places.next()), (Some(1), 3));
    }
}
