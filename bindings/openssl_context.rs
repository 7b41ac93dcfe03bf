//! Keeps the client library's use of OpenSSL separate from the application's, in a library context of its own.
//!
//! The application may use OpenSSL itself, and its openssl.cnf may load engines and providers that load this library.
//! So every algorithm, certificate and random number of ours belongs to one private context ([`enter`]), which loads no
//! configuration. The application's FIPS properties and providers do not reach it, and its callbacks do not see our
//! objects.
//!
//! Two things cannot be kept separate. First, OpenSSL applies the TLS defaults of openssl.cnf (`ssl_conf`) to every
//! SSL_CTX of the process; our TLS settings say what must not be weakened. Second, the first use of libssl in a process
//! reads that file into the application's context. [`prepare`] triggers this, as any library that links libssl does,
//! before any lock of ours is taken. If an engine calls C_Initialize at that moment, in the middle of the application's
//! own C_Initialize, that call is served, too; OpenSSL reads its configuration once. (OPENSSL_INIT_NO_LOAD_CONFIG would
//! leave the application without its configuration for good.)
//!
//! The context lives as long as the library is loaded. A forked child goes on using it, and `dlclose` frees it
//! ([`free`]). OpenSSL keeps random generators of a context for each thread, and frees them when the thread ends, which
//! may be after the context is gone. So a thread frees its generators when it leaves the context.

use std::ffi::{c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

// Links libcrypto and libssl.
use openssl_sys as _;

/// OSSL_LIB_CTX
type Context = c_void;

unsafe extern "C" {
    safe fn OSSL_LIB_CTX_new() -> *mut Context;
    fn OSSL_LIB_CTX_free(context: *mut Context);
    /// Sets the context of this thread, for calls that name none. Returns the previous one.
    fn OSSL_LIB_CTX_set0_default(context: *mut Context) -> *mut Context;
    /// Frees what the context holds for this thread.
    fn OPENSSL_thread_stop_ex(context: *mut Context);
    fn OPENSSL_init_ssl(options: u64, settings: *const c_void) -> c_int;
}

/// Without this, exit would run OpenSSL's handler before the application's own, which may still use us.
const OPENSSL_INIT_NO_ATEXIT: u64 = 0x0008_0000;

static PRIVATE: AtomicPtr<Context> = AtomicPtr::new(ptr::null_mut());

/// How many threads are in the private context.
static USERS: AtomicUsize = AtomicUsize::new(0);

/// Makes OpenSSL initialise itself, and read the application's configuration if nobody has done that yet. May call back
/// into this library, so no lock may be held.
pub fn prepare() {
    // SAFETY: without settings there is nothing it could refer to. It may be called at any time
    // from any thread, also from within itself. A failure shows when a context is made.
    let _ = unsafe { OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, ptr::null()) };
}

/// Keeps this thread in the private context until it is dropped.
pub struct Entered {
    context: *mut Context,
    before: *mut Context,
    /// Belongs to one thread: not `Send`.
    _thread: PhantomData<*mut ()>,
}

/// Enters the private context: everything that OpenSSL does on this thread from now on is in it. Objects made in it
/// must be used and freed in it, too.
pub fn enter() -> io::Result<Entered> {
    // Must come before the context is read, because `free` does the two in the reverse order.
    USERS.fetch_add(1, Ordering::SeqCst);
    let context = private().inspect_err(|_| {
        USERS.fetch_sub(1, Ordering::SeqCst);
    })?;
    // SAFETY: the context came out of OSSL_LIB_CTX_new, and is not freed while it has users.
    let before = unsafe { OSSL_LIB_CTX_set0_default(context) };
    Ok(Entered {
        context,
        before,
        _thread: PhantomData,
    })
}

fn private() -> io::Result<*mut Context> {
    let known = PRIVATE.load(Ordering::SeqCst);
    if !known.is_null() {
        return Ok(known);
    }
    let fresh = OSSL_LIB_CTX_new();
    if fresh.is_null() {
        return Err(io::Error::other("OpenSSL cannot create a library context"));
    }
    match PRIVATE.compare_exchange(known, fresh, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => Ok(fresh),
        Err(other) => {
            // SAFETY: it was made above, and nobody else has seen it.
            unsafe { OSSL_LIB_CTX_free(fresh) };
            Ok(other)
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: `before` is the context that this thread had when it entered. Its owner cannot have freed it since,
        // because this thread has been in our code; nor has this thread entered another context, because `Entered`
        // values of a thread end in the reverse order.
        unsafe { OSSL_LIB_CTX_set0_default(self.before) };
        // SAFETY: the context has at least this user. What is freed belongs to this thread, which uses none of it now.
        unsafe { OPENSSL_thread_stop_ex(self.context) };
        USERS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Frees the context, if no thread is in it. Objects that belong to it and were left in memory must not be used any
/// more. The next [`enter`] makes another.
pub fn free() {
    let context = PRIVATE.swap(ptr::null_mut(), Ordering::SeqCst);
    if context.is_null() {
        return;
    }
    if USERS.load(Ordering::SeqCst) == 0 {
        // SAFETY: it came out of OSSL_LIB_CTX_new. Nobody is in it, and nobody finds it any more; no thread has
        // left anything in it that OpenSSL would free later.
        unsafe { OSSL_LIB_CTX_free(context) };
    }
}
