//! Everything foreign: the C interface of a PKCS#11 module, and what a client lays out in its own.
//!
//! Calls come from `xdr` through `filter`. [`template::call_to_host`] first turns what a client
//! laid out in its word size and byte order into ours, so that a rule sees numbers and not bytes;
//! then [`module::Module`] makes the C call and its answer a reply. [`mechanism`] keeps a client's
//! bytes from becoming an address, in the client library as in the daemon.

mod arguments;
pub mod ck;
pub mod mechanism;
pub mod module;
pub mod names;
pub mod sys;
pub mod template;
