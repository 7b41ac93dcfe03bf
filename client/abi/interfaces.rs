//! Exports C_GetFunctionList, C_GetInterfaceList and C_GetInterface (PKCS#11 v3.0, section 5.4), which return the
//! function lists.
//!
//! An interface is offered only if the module has it too; [`crate::interfaces`] knows that or asks the daemon. If no
//! daemon can be asked, all interfaces are offered. `PKCS11PROXY_INTERFACE` hides newer versions from applications. If
//! the module lacks a single function, that function returns CKR_FUNCTION_NOT_SUPPORTED.

use std::ffi::{CStr, c_void};

use cryptoki_sys::{
    CK_FLAGS, CK_FUNCTION_LIST, CK_INTERFACE, CK_RV, CK_ULONG, CK_UTF8CHAR, CK_VERSION,
};
use xdr::{CkRv, INTERFACE_2_40, INTERFACE_3_0, INTERFACE_3_2};

use super::function_list::{LIST_2_40, LIST_3_0, LIST_3_2, V2_40, V3_0, V3_2};
use super::guard;
use super::memory::{Place, Places};
use super::unload;
use crate::interfaces;
use crate::settings::{Environment, Interface};

/// The name of the interfaces of the standard.
const NAME: &CStr = c"PKCS 11";

/// An interface, the version of its list, and its flag in the protocol.
struct Offered {
    version: CK_VERSION,
    flag: u64,
    interface: CK_INTERFACE,
}

/// All interfaces, newest first.
struct Interfaces([Offered; 3]);

// SAFETY: the pointers are to constants of this library, which nobody writes to.
unsafe impl Sync for Interfaces {}

/// A forked child has to call C_Initialize again, so no interface is fork tolerant (CKF_INTERFACE_FORK_SAFE).
const NO_FLAGS: CK_FLAGS = 0;

static INTERFACES: Interfaces = Interfaces([
    offer(V3_2, INTERFACE_3_2, (&raw const LIST_3_2).cast()),
    offer(V3_0, INTERFACE_3_0, (&raw const LIST_3_0).cast()),
    offer(V2_40, INTERFACE_2_40, (&raw const LIST_2_40).cast()),
]);

const fn offer(version: CK_VERSION, flag: u64, list: *const c_void) -> Offered {
    Offered {
        version,
        flag,
        interface: CK_INTERFACE {
            pInterfaceName: NAME.as_ptr().cast_mut().cast(),
            pFunctionList: list.cast_mut(),
            flags: NO_FLAGS,
        },
    }
}

/// Returns the interfaces that are offered to this process. May ask the daemon.
fn offered() -> impl Iterator<Item = &'static Offered> {
    unload::watch_exit();
    let environment = Environment::process();
    // A setting that is wrong is reported by C_Initialize.
    let newest = Interface::read(&environment).unwrap_or_default();
    let newest = (newest.major, newest.minor);
    let allowed = move |it: &&Offered| (it.version.major, it.version.minor) <= newest;
    let is_one = INTERFACES.0.iter().filter(allowed).count() == 1;
    // If only the oldest is allowed, the daemon is not asked: every module has it.
    let of_module = (!is_one)
        .then(|| interfaces::of_module(&environment))
        .flatten();
    let there = move |it: &&Offered| of_module.is_none_or(|all| all.0 & it.flag != 0);
    INTERFACES.0.iter().filter(allowed).filter(there)
}

/// Returns the function list of PKCS#11 2.40, as every version of the standard requires.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    guard(|| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::required(list) }?;
        place.put((&raw const LIST_2_40).cast_mut());
        Ok(())
    })
}

/// Lists the interfaces, newest first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterfaceList(
    interfaces: *mut CK_INTERFACE,
    count: *mut CK_ULONG,
) -> CK_RV {
    guard(|| {
        if count.is_null() {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        // SAFETY: the contract of this module.
        let places = unsafe { Places::new(interfaces, count) };
        let list: Vec<CK_INTERFACE> = offered().map(|it| it.interface).collect();
        let told = list.len() as u64;
        match places.room() {
            xdr::Room::Buffer(room) if room < told => places.put(CkRv::BUFFER_TOO_SMALL, told, &[]),
            xdr::Room::Buffer(_) => places.put(CkRv::OK, told, &list),
            _ => places.put(CkRv::OK, told, &[]),
        }
    })
}

/// Returns the newest interface with this name, version and flags. A NULL name or version, and flags of 0, match any.
/// CKR_ARGUMENTS_BAD if there is none: the standard names no CK_RV for that, and NSS and OpenSC return this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    guard(|| {
        // SAFETY: the contract of this module.
        let place = unsafe { Place::required(interface) }?;
        let is_ours = name.is_null() || {
            // SAFETY: not null, so a string that ends with a zero by the contract of this module.
            let name = unsafe { CStr::from_ptr(name.cast()) };
            name == NAME
        };
        if !is_ours {
            return Err(CkRv::ARGUMENTS_BAD);
        }
        let wanted = (!version.is_null()).then(|| {
            // SAFETY: not null, so a CK_VERSION by the contract of this module.
            let version = unsafe { version.read_unaligned() };
            (version.major, version.minor)
        });
        let fits = |it: &&Offered| {
            wanted.is_none_or(|wanted| wanted == (it.version.major, it.version.minor))
                && it.interface.flags & flags == flags
        };
        let found = offered().find(fits).ok_or(CkRv::ARGUMENTS_BAD)?;
        place.put((&raw const found.interface).cast_mut());
        Ok(())
    })
}
