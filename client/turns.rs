//! Gives threads their turns in the order of their arrival.
//!
//! A plain mutex lets the thread that has just finished take it again before the one it woke up is
//! running: of several threads that call without a pause, one would have the connection for
//! seconds. Nothing is held while waiting, and no thread-local destructor comes with it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many threads can wait without any being woken in vain.
const QUEUES: usize = 16;

/// Hands out one [`Turn`] at a time.
#[derive(Default)]
pub(crate) struct Turns {
    numbers: Mutex<Numbers>,
    /// A thread waits at the one of its number.
    queues: [Condvar; QUEUES],
}

#[derive(Default)]
struct Numbers {
    /// The number of the next to arrive.
    next: usize,
    /// The number whose turn it is.
    present: usize,
}

/// It is this thread's turn, until this is dropped.
pub(crate) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits until everybody who came before has had a turn.
    pub fn take(&self) -> Turn<'_> {
        let mut numbers = self.numbers();
        let own = numbers.next;
        numbers.next = own.wrapping_add(1);
        while numbers.present != own {
            let waiting = self.queue(own).wait(numbers);
            numbers = waiting.unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }

    /// Where the thread of this number waits.
    #[expect(clippy::indexing_slicing, reason = "a remainder of QUEUES is below it")]
    fn queue(&self, number: usize) -> &Condvar {
        &self.queues[number % QUEUES]
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut numbers = self.0.numbers();
        numbers.present = numbers.present.wrapping_add(1);
        if numbers.present != numbers.next {
            self.0.queue(numbers.present).notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn threads_that_never_pause_get_as_many_turns_as_each_other() {
        let turns = Turns::default();
        let (taken, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let counts: [AtomicUsize; 2 * QUEUES] = Default::default();
        thread::scope(|scope| {
            for count in &counts {
                let (turns, taken, stop) = (&turns, &taken, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let _turn = turns.take();
                        assert!(!taken.swap(true, Ordering::SeqCst), "two at a time");
                        count.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_micros(100));
                        taken.store(false, Ordering::SeqCst);
                    }
                });
            }
            thread::sleep(Duration::from_millis(500));
            stop.store(true, Ordering::SeqCst);
        });
        let counts = counts.map(AtomicUsize::into_inner);
        let most = counts.iter().max().copied().unwrap_or_default();
        assert!(most > 1);
        assert!(
            counts.iter().all(|count| count + 3 >= most / 2),
            "{counts:?}"
        );
    }
}
