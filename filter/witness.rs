//! Tells whoever wants to know it of each call that the rules or a limit refuse, and of the rule or limit.
//!
//! The caller of [`Filter::call_before`](crate::Filter::call_before) brings the witness, so that it knows which call
//! the refusal belongs to. A call that the module refuses is none of the filter's.

use std::path::Path;

use xdr::{CkRv, Function};

use crate::module_rules::Source;

/// A call that was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// What was called.
    pub function: Function,
    /// What the client is told.
    pub rv: CkRv,
    /// The file and the rule in it; none if no rule is behind the refusal, such as for a malformed template.
    pub rule: Option<(&'a Path, Source)>,
    /// The name of the limit that refused it; none if the filter did. Limits stand in front of the filter.
    pub limit: Option<&'static str>,
}

/// Somebody who is told of refusals, before the client is.
pub trait Witness: Sync {
    /// A call was refused. Called at most once for a call.
    fn refused(&self, refused: &Refused<'_>);
}
