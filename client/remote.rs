//! Defines what the library needs from the daemon at the other end, and how calls are made.

use xdr::{Call, CkRv, Hello, HelloResult, NullPlaces, Reply, version3};

use crate::failure::Failure;
use crate::landing::Landing;

/// A daemon at the other end of a connection.
pub(crate) trait Remote: Send + Sync {
    /// Makes the first call in version 4. `None` if the daemon speaks version 3 only; the connection goes on.
    fn negotiate(&self, hello: Hello) -> Result<Option<HelloResult>, CkRv>;
    /// Makes a call in version 4. A failure of any kind is a CK_RV in the reply.
    fn call(&self, call: Call<'_>, nulls: NullPlaces) -> Reply;
    /// Makes a call in version 4 that has an OutputResult. Its bytes may be received into `landing`; then they are missing
    /// in the reply, and [`Landing::landed`] returns their number. Otherwise they are in the reply.
    fn call_into(&self, call: Call<'_>, landing: &mut Landing<'_>) -> Reply {
        landing.set_landed(None);
        self.call(call, NullPlaces::NONE)
    }
    /// Makes a call in version 3.
    fn call_version3(&self, call: version3::Call<'_>) -> version3::Reply;
    /// Returns whether the connection has failed, so that no further call can succeed.
    fn is_lost(&self) -> bool;
    /// Returns whether the daemon has closed the connection, or the application has closed its descriptor. A call may
    /// not have noticed that yet.
    fn has_ended(&self) -> bool;
    /// Returns why the last call within C_Initialize failed during transmission, if it did. Returns it only once.
    fn failure(&self) -> Option<Failure>;
    /// Ends the connection. Calls that still wait return CKR_CRYPTOKI_NOT_INITIALIZED.
    fn close(&self);
}

/// Sends a call, and which of its result pointers are NULL, or else a [`Landing`] for its bytes. Returns its result,
/// whatever the CK_RV in it is.
macro_rules! ask {
    ($library:expr, $name:ident($($argument:expr),* $(,)?), into $landing:expr) => {
        match $library.call_into(xdr::Call::$name($($argument),*), $landing) {
            xdr::Reply::$name(result) => Ok(result),
            reply => Err($crate::remote::refusal(&reply)),
        }
    };
    ($library:expr, $name:ident($($argument:expr),* $(,)?)) => {
        $crate::remote::ask!($library, $name($($argument),*), xdr::NullPlaces::NONE)
    };
    ($library:expr, $name:ident($($argument:expr),* $(,)?), $nulls:expr) => {
        match xdr::Cryptoki::call_with_nulls($library, xdr::Call::$name($($argument),*), $nulls) {
            xdr::Reply::$name(result) => Ok(result),
            reply => Err($crate::remote::refusal(&reply)),
        }
    };
}
pub(crate) use ask;

/// Returns the CK_RV of a reply that does not contain the result that was asked for.
pub(crate) fn refusal(reply: &Reply) -> CkRv {
    match reply.rv() {
        CkRv::OK => CkRv::GENERAL_ERROR, // the reply belongs to another function, which no `Cryptoki` returns
        rv => rv,
    }
}

/// Turns a CK_RV into a `Result`.
pub(crate) fn result(rv: CkRv) -> Result<(), CkRv> {
    if rv.is_ok() { Ok(()) } else { Err(rv) }
}
