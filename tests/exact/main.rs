//! Tests what arrives at a module, exactly: every pointer, length, room and mechanism parameter.
//!
//! `exact.c` makes the calls and prints them with their answers, `recorder.c` is a module of PKCS#11
//! 3.2 that writes down what it was called with. `recorder` tests these two on each other, and against
//! lines worked out by hand; `softhsm` that the program gives the same transcript twice; `pairs` compares
//! the transcripts of a module alone and through our pair, but for what `named` names; `interfaces` puts modules behind the pair
//! whose C_GetInterface is odd; `refused` reads what the log tells of refused parameters; `parallel` calls from many
//! threads at once; `hostile` lies in what crosses. Needs the packages that `tests/support/install-packages.sh` installs.

#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod interfaces;
mod named;
mod pairs;
mod parallel;
mod recorder;
mod refused;
mod softhsm;
mod transcript;
