//! Keeps the callbacks of C_OpenSession and calls them.
//!
//! `abi` makes a [`Callback`] from the application's function. A notification is delivered in the thread whose call is
//! in progress, as by a module in this process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xdr::{CkRv, SessionHandle, SlotId};

use crate::sessions::{Closes, Closing, Sessions};

/// The application's function, with the argument that the application has chosen for it. Takes the session and the
/// event (CK_NOTIFICATION).
pub(crate) type Callback = Arc<dyn Fn(SessionHandle, u64) -> CkRv + Send + Sync>;

/// The callbacks of the application's sessions.
#[derive(Default)]
pub(crate) struct Notifications {
    callbacks: Mutex<Sessions<Callback>>,
}

impl Notifications {
    /// Stores the callback of a new session, if it has one.
    pub fn opened(&self, session: SessionHandle, slot: SlotId, callback: Option<Callback>) {
        let mut callbacks = self.callbacks();
        match callback {
            Some(callback) => callbacks.opened(session, slot, callback),
            None => callbacks.forget(session),
        }
    }

    /// Returns what a call is about to close.
    pub fn closing(&self, closes: Closes) -> Closing {
        self.callbacks().closing(closes)
    }

    /// Forgets the sessions that a call has closed, as its CK_RV says.
    pub fn closed(&self, closing: Closing, rv: CkRv) {
        self.callbacks().closed(closing, rv);
    }

    /// Forgets everything, because the connection has ended.
    pub fn clear(&self) {
        self.callbacks().clear();
    }

    /// Calls the callback of a session in this thread. No lock is held meanwhile, so the callback may call this
    /// library. Returns CKR_OK if there is no callback.
    pub fn deliver(&self, session: SessionHandle, event: u64) -> CkRv {
        let callback = self.callbacks().get(session).cloned();
        callback.map_or(CkRv::OK, |callback| callback(session, event))
    }

    fn callbacks(&self) -> MutexGuard<'_, Sessions<Callback>> {
        self.callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callback_of_the_session_answers() {
        let notifications = Arc::new(Notifications::default());
        let inner = notifications.clone();
        let slot = SlotId(1);
        let surrender: Callback = Arc::new(move |session, event| {
            // No lock is held.
            assert_eq!(inner.deliver(SessionHandle(9), 0), CkRv::OK);
            assert_eq!((session, event), (SessionHandle(2), 0));
            CkRv::CANCEL
        });
        notifications.opened(SessionHandle(2), slot, Some(surrender));
        assert_eq!(notifications.deliver(SessionHandle(2), 0), CkRv::CANCEL);
        assert_eq!(notifications.deliver(SessionHandle(3), 0), CkRv::OK);
        let closing = notifications.closing(Closes::Slot(slot));
        notifications.closed(closing, CkRv::OK);
        assert_eq!(notifications.deliver(SessionHandle(2), 0), CkRv::OK);
        // A session without a callback that gets the handle of one that was not closed, because its token was removed.
        let cancel: Callback = Arc::new(|_, _| CkRv::CANCEL);
        notifications.opened(SessionHandle(2), slot, Some(cancel));
        notifications.opened(SessionHandle(2), slot, None);
        assert_eq!(notifications.deliver(SessionHandle(2), 0), CkRv::OK);
    }
}
