//! Defines what the library needs of the daemon at the other end, and how it asks.

use xdr::{CkRv, Cryptoki, Reply};

/// A daemon at the other end of a connection.
pub(crate) trait Remote: Cryptoki {
    /// Whether a call failed on the way, so that no other will succeed.
    fn is_lost(&self) -> bool;
    /// Ends the connection; calls still waiting are answered CKR_CRYPTOKI_NOT_INITIALIZED.
    fn close(&self);
}

/// Sends a call. Returns its result if the CK_RV is CKR_OK, the CK_RV otherwise.
macro_rules! ask {
    ($remote:expr, $name:ident($($argument:expr),*)) => {
        match $remote.call(xdr::Call::$name($($argument),*)) {
            xdr::Reply::$name(result) if result.rv.is_ok() => Ok(result),
            reply => Err($crate::remote::refusal(&reply)),
        }
    };
}
pub(crate) use ask;

/// The CK_RV of a reply that does not carry what was asked for.
pub(crate) fn refusal(reply: &Reply) -> CkRv {
    match reply.rv() {
        CkRv::OK => CkRv::GENERAL_ERROR, // of another function: no `Cryptoki` answers that
        rv => rv,
    }
}
