//! The actions, alone and in the two sets that the original ships, in front of a token.
//!
//! `token` is a token that does what a call says, and tells how often it was called; what only a
//! real one can show runs in front of SoftHSM as well.

mod calls;
mod chain;
mod conflicts;
mod creation;
mod examples;
mod existing;
mod leak;
mod newer;
mod reading;
mod sets;
mod softhsm;
mod templates;
mod token;
mod wrapping;
