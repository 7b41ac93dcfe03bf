//! The examples of the original: two actions that write a log line, and one that checks a PIN. They protect nothing.

use xdr::{Call, CkRv};

use crate::actions::{Action, Context, Verdict};

/// `identity`: writes a line to the log.
pub struct Identity;

impl Action for Identity {
    fn judges_templates(&self) -> bool {
        false
    }

    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        context.log(format_args!("identity: {}", call.function().name()));
        Verdict::Continue
    }
}

/// `c_Initialize_hook`: writes a line to the log.
pub struct InitializeHook;

impl Action for InitializeHook {
    fn judges_templates(&self) -> bool {
        false
    }

    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        context.log(format_args!(
            "c_Initialize_hook: {}",
            call.function().name()
        ));
        Verdict::Continue
    }
}

/// `c_Login_hook`: an example that accepts no PIN except 1234. The original logs the PIN that was tried.
pub struct LoginHook;

impl Action for LoginHook {
    fn judges_templates(&self) -> bool {
        false
    }

    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        if let Call::C_Login(_, _, pin) | Call::C_LoginUser(_, _, pin, _) = call {
            if pin.bytes() != b"1234" {
                return context.refuse(
                    CkRv::PIN_LOCKED,
                    format_args!("the PIN is not that of the example"),
                );
            }
        }
        Verdict::Continue
    }
}
