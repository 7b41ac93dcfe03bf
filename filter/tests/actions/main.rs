//! Tests the actions, alone and in the two sets that the original ships, in front of a token.
//!
//! `token` is a token in memory that executes calls, and counts them. What only a real token can show is also tested in
//! front of SoftHSM.

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
