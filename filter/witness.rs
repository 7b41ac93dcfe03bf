//! Defines the witness, which is told of each call that the rules or a limit refuse, and of the rule or limit.
//!
//! The caller of [`Filter::call_witnessed`](crate::Filter::call_witnessed) passes the witness, so the witness knows which
//! call the refusal belongs to. It is not told of calls that the module refuses.

use std::path::Path;

use xdr::{CkRv, Function};

use crate::module_rules::Source;

/// A call that was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// The function that was called.
    pub function: Function,
    /// The CK_RV for the client.
    pub rv: CkRv,
    /// The file and the rule in it; none if the refusal does not follow from a rule, such as for a malformed template.
    pub rule: Option<(&'a Path, Source)>,
    /// The name of the limit that refused it; none if the filter did. Limits stand in front of the filter.
    pub limit: Option<&'static str>,
}

/// Is told of refusals, before the client is.
pub trait Witness: Sync {
    /// Is called when a call was refused, at most once for a call.
    fn refused(&self, refused: &Refused<'_>);
}
