//! Tests TLS: every pairing with the original's client and daemon, who is accepted, what peers can do to others,
//! reload, applications that use OpenSSL themselves.
//!
//! Needs the packages that `tests/support/install-packages.sh` installs.

#![forbid(unsafe_code)]

#[path = "../e2e/differences.rs"]
mod differences;
#[path = "../support/mod.rs"]
mod support;

mod applications;
mod hostile;
mod pairs;
mod profiles;
mod refused;
mod reload;
mod sandbox;
mod start;
mod suites;
mod tls;
