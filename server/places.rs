//! Assigns each worker of a service a place in the memory that the service's processes share.
//!
//! The controller knows which worker has which place. A worker gets a number at the fork; when it was reaped, the next
//! worker may get the same number. There are no more places than workers that existed at the same time.

/// Upper bound on the places of a service: Linux has no more process ids.
pub const MOST_WORKERS: usize = 1 << 22;

/// The places of a service, and which worker, as `W` names it, has each.
pub struct Places<W>(Vec<Option<W>>);

impl<W> Default for Places<W> {
    fn default() -> Places<W> {
        Places(Vec::new())
    }
}

impl<W: PartialEq> Places<W> {
    /// The place of a worker that is about to be forked.
    pub fn next(&self) -> usize {
        let free = self.0.iter().position(Option::is_none);
        free.unwrap_or(self.0.len())
    }

    /// The worker was forked, and has the place that [`Places::next`] told.
    pub fn given_to(&mut self, worker: W) {
        match self.0.iter_mut().find(|owner| owner.is_none()) {
            Some(owner) => *owner = Some(worker),
            None => self.0.push(Some(worker)),
        }
    }

    /// The place of a worker.
    pub fn of(&self, worker: &W) -> Option<usize> {
        self.0
            .iter()
            .position(|owner| owner.as_ref() == Some(worker))
    }

    /// A worker was reaped; returns the place that it had.
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
