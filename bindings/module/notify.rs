//! Passes on the notifications of a module (the Notify callback of C_OpenSession).
//!
//! A module calls back in the thread of a call, or in a thread of its own. The notifier that was [`install`]ed handles
//! the notification; there is one for the process, because a process serves one client. The application pointer that
//! the module gets contains nothing of the client and is not looked at.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use cryptoki_sys::*;
use xdr::word_size::{narrow, wide};
use xdr::{CkRv, SessionHandle, Ulong};

/// Takes the session and the event (CKN_SURRENDER and others), and answers what the callback returns:
/// CKR_OK to go on, CKR_CANCEL to end the call. It is called from within a call to the module and must not
/// call the module itself.
pub type Notifier = Arc<dyn Fn(SessionHandle, Ulong) -> CkRv + Send + Sync>;

static NOTIFIER: RwLock<Option<Notifier>> = RwLock::new(None);

/// Makes notifications go to this notifier, in place of the one before.
pub fn install(notifier: Notifier) {
    *NOTIFIER.write().unwrap_or_else(PoisonError::into_inner) = Some(notifier);
}

/// Its address is the application pointer that the module gets.
static APPLICATION: u8 = 0;

/// Returns the application pointer and the callback for a session: null without notifications.
pub(super) fn callback(notify: bool) -> (CK_VOID_PTR, CK_NOTIFY) {
    match notify {
        true => ((&raw const APPLICATION).cast_mut().cast(), Some(notified)),
        false => (std::ptr::null_mut(), None),
    }
}

/// CK_NOTIFY: what the module calls.
extern "C" fn notified(
    session: CK_SESSION_HANDLE,
    event: CK_NOTIFICATION,
    _application: *mut c_void,
) -> CK_RV {
    // A panic must not unwind into the module.
    let answer = catch_unwind(AssertUnwindSafe(|| {
        let notifier = NOTIFIER.read().unwrap_or_else(PoisonError::into_inner);
        let notifier = notifier.clone();
        notifier.map(|notifier| notifier(SessionHandle(wide(session)), Ulong(wide(event))))
    }));
    let rv = answer.ok().flatten().unwrap_or(CkRv::OK);
    narrow(rv.0)
}
