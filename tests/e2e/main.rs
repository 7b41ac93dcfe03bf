//! Tests daemon, client library and SoftHSM together, in every pairing with the original's client and daemon.
//!
//! - `pairs` compares transcripts of a long script of calls, `long` those of calls of 100 MiB, `nested` one about a
//!   template in a template.
//! - `applications` runs threaded and forking programs and pkcs11-tool; `unmodified` runs some of `tests/applications`.
//! - `parameters` runs programs whose mechanism parameters hold pointers; `settings` runs programs with other settings.
//! - `balancer` puts two daemons behind HAProxy.
//! - `recipes` follows a page of `docs/recipes`.
//! - `recovery` kills daemons under programs that continue.
//! - `modules` puts another module behind a daemon; `sandbox` confines SoftHSM and softokn; `workers` looks at the
//!   daemon's processes.
//!
//! Needs the packages that `tests/support/install-packages.sh` installs. `E2E_KEEP=1` keeps the temporary directories,
//! with the daemons' logs and configurations.

#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;

mod applications;
mod balancer;
mod differences;
mod logins;
mod long;
mod modules;
mod nested;
mod pairs;
mod parameters;
mod recipes;
mod recovery;
mod sandbox;
mod settings;
mod unmodified;
mod workers;
