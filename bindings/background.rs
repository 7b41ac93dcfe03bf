//! Runs work in a separate thread that its starter can leave behind.
//!
//! The client library starts such a thread to wait for something that has no time limit of its own. All signals are
//! blocked in the thread, so it runs none of the application's signal handlers. A thread that was left behind may
//! return into this code at any time, so the library then stays in memory even if the application unloads it. Std's
//! threads are not used, because starting one registers a thread-local destructor in the starting thread, which keeps a
//! library in memory for good.

use std::ffi::c_void;
use std::io;
use std::mem::{self, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow};

use crate::process;

/// Lower bound on the stack of such a thread, in bytes. An application may have set a small stack for its own threads.
const LEAST_STACK: usize = 1 << 20;

type Work = Box<dyn FnOnce() + Send>;

/// A running thread. Dropping this leaves the thread behind.
pub struct Background {
    thread: libc::pthread_t,
}

impl Background {
    /// Starts a thread. Fails if the system cannot provide one.
    pub fn start(work: impl FnOnce() + Send + 'static) -> io::Result<Background> {
        let attributes = Attributes::new()?;
        let work: Box<Work> = Box::new(Box::new(work));
        let work = Box::into_raw(work);
        let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
        // The thread inherits this mask.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: `thread` is writable, the attributes are initialised, and `run` takes what `work` is.
        let error =
            unsafe { libc::pthread_create(thread.as_mut_ptr(), &attributes.0, run, work.cast()) };
        // This cannot fail for a mask that was read.
        let _ = before.thread_set_mask();
        if error != 0 {
            // SAFETY: made by `Box::into_raw` above, and no thread was started that has it.
            drop(unsafe { Box::from_raw(work) });
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: pthread_create has succeeded, and thereby written it.
        let thread = unsafe { thread.assume_init() };
        Ok(Background { thread })
    }

    /// Waits until the thread has ended.
    pub fn join(self) {
        let thread = self.thread;
        mem::forget(self);
        // SAFETY: the thread was started above, and is neither joined nor detached elsewhere: this consumes it.
        unsafe { libc::pthread_join(thread, ptr::null_mut()) };
    }
}

/// Leaves the thread behind. If this code cannot be kept in memory, waits for the thread instead.
impl Drop for Background {
    fn drop(&mut self) {
        if process::stay_loaded() {
            // SAFETY: as in `join`, which forgets the value.
            unsafe { libc::pthread_detach(self.thread) };
        } else {
            // SAFETY: the same.
            unsafe { libc::pthread_join(self.thread, ptr::null_mut()) };
        }
    }
}

struct Attributes(libc::pthread_attr_t);

impl Attributes {
    fn new() -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        // SAFETY: writable for the attributes.
        let error = unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: pthread_attr_init has succeeded.
        let mut attributes = Attributes(unsafe { attributes.assume_init() });
        let mut stack = 0;
        // SAFETY: initialised attributes, and a place for the size.
        unsafe { libc::pthread_attr_getstacksize(&attributes.0, &mut stack) };
        if stack < LEAST_STACK {
            // SAFETY: initialised attributes. A failure leaves the application's size.
            unsafe { libc::pthread_attr_setstacksize(&mut attributes.0, LEAST_STACK) };
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and destroyed nowhere else.
        unsafe { libc::pthread_attr_destroy(&mut self.0) };
    }
}

/// The thread's main function. No panic leaves it.
extern "C" fn run(work: *mut c_void) -> *mut c_void {
    // SAFETY: `start` made this pointer from a `Box<Work>` and gave it to this thread alone.
    let work = unsafe { Box::from_raw(work.cast::<Work>()) };
    // A panic drops the means by which the work was to report, which its starter notices.
    let _ = catch_unwind(AssertUnwindSafe(work));
    ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use nix::sys::signal::Signal;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn no_signal_reaches_the_thread_and_the_starters_mask_stays() {
        let (sender, receiver) = mpsc::channel();
        let before = SigSet::thread_get_mask().unwrap();
        let thread = Background::start(move || {
            sender.send(SigSet::thread_get_mask().unwrap()).unwrap();
        });
        thread.unwrap().join();
        let mask = receiver.recv_timeout(PATIENCE).unwrap();
        for signal in [Signal::SIGALRM, Signal::SIGTERM, Signal::SIGPROF] {
            assert!(mask.contains(signal), "{signal}");
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }

    #[test]
    fn a_thread_that_is_left_behind_goes_on() {
        let (sender, receiver) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        drop(Background::start(move || sender.send(wait.recv().unwrap()).unwrap()).unwrap());
        go.send(7).unwrap();
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(7));
    }

    #[test]
    fn a_panic_ends_the_thread_alone() {
        let (sender, receiver) = mpsc::channel::<()>();
        let thread = Background::start(move || {
            let _sender = sender;
            panic!("expected");
        });
        thread.unwrap().join();
        assert_eq!(receiver.recv(), Err(mpsc::RecvError));
    }
}
