//! The actions, alone and in the two sets that the original ships, in front of a token.
//!
//! `token` is a token that does what a call says, and tells how often it was called; what only a
//! real one can show runs in front of SoftHSM as well.

mod attacks;
mod calls;
mod chain;
mod conflicts;
mod creation;
mod examples;
mod existing;
mod leak;
mod newer;
#[path = "../support/parameters.rs"]
mod parameters;
mod reading;
mod sets;
mod softhsm;
mod symbolic;
mod templates;
mod token;
mod wrapping;
