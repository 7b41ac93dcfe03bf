//! Actions that protect nothing by themselves: examples, and the switch for segregated key usage.

use std::sync::atomic::Ordering;

use xdr::{Call, CkRv};

use crate::actions::{Action, Context, Verdict};

/// `identity`: a line in the log.
pub struct Identity;

impl Action for Identity {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        context.log(format_args!("identity: {}", call.function().name()));
        Verdict::Continue
    }
}

/// `c_Initialize_hook`: a line in the log.
pub struct InitializeHook;

impl Action for InitializeHook {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        context.log(format_args!(
            "c_Initialize_hook: {}",
            call.function().name()
        ));
        Verdict::Continue
    }
}

/// `c_Login_hook`: an example, which lets nobody in but with the PIN 1234. The original logs the
/// PIN that was tried.
pub struct LoginHook;

impl Action for LoginHook {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        match call {
            Call::C_Login(_, _, b"1234") => Verdict::Continue,
            Call::C_Login(..) => {
                context.refuse(CkRv::PIN_LOCKED, format_args!("not the example's PIN"))
            }
            _ => Verdict::Continue,
        }
    }
}

/// `do_segregate_usage`: from this call to the end of the connection, a key that encrypts does not
/// sign, and one that wraps does not encrypt.
pub struct SegregateUsage;

impl Action for SegregateUsage {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        context.segregation.store(true, Ordering::Relaxed);
        let name = call.function().name();
        context.log(format_args!(
            "do_segregate_usage: {name}: key usage is segregated"
        ));
        Verdict::Continue
    }
}
