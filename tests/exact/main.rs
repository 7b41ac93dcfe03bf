//! Tests exactly what arrives at a module: every pointer, length, room and mechanism parameter.
//!
//! `exact.c` makes the calls and prints them with their answers. `recorder.c` is a module of PKCS#11 3.2 that writes
//! down what it was called with.
//!
//! - `recorder` tests these two on each other, and against lines worked out by hand.
//! - `softhsm` tests that the program produces the same transcript twice.
//! - `pairs` compares the transcripts of a module alone and through our pair, except for what `named` lists.
//! - `interfaces` tests modules with an odd C_GetInterface.
//! - `refused` reads what the log says about refused parameters.
//! - `parallel` makes calls from many threads at once.
//! - `hostile` changes the messages on the wire.
//!
//! Needs the packages that `tests/support/install-packages.sh` installs.

#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod in_place;
mod interfaces;
mod named;
mod pairs;
mod parallel;
mod recorder;
mod refused;
mod softhsm;
mod transcript;
