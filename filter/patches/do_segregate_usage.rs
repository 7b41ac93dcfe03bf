//! `do_segregate_usage`: restricts each key to one usage, from its first use to the end of the connection. A key that
//! has encrypted cannot sign, and one that has wrapped cannot encrypt.

use std::sync::atomic::Ordering;

use xdr::Call;

use crate::actions::{Action, Context, Verdict};

/// The action. Others ask [`Context::is_segregated`].
pub struct SegregateUsage;

impl Action for SegregateUsage {
    fn judges_templates(&self) -> bool {
        false
    }

    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        context.segregation.store(true, Ordering::Relaxed);
        let name = call.function().name();
        context.log(format_args!(
            "do_segregate_usage: {name}: key usage is segregated"
        ));
        Verdict::Continue
    }
}
