//! Asks a module which interfaces it has, and gets the newest list of its PKCS#11 functions.
//!
//! It calls C_GetInterface for each version that we know, newest first, and C_GetFunctionList if the module has none of
//! them. The lists of all versions begin alike, so an older list becomes the newest one with its last functions
//! missing. An unusual answer does not end the search: CKR_OK without an interface, another name, or another version
//! than asked for.

use std::ffi::c_void;
use std::mem::offset_of;
use std::path::Path;
use std::ptr::null_mut;

use cryptoki_sys::*;
use xdr::word_size::wide;
use xdr::{CkRv, Flags, INTERFACE_2_40, INTERFACE_3_0, INTERFACE_3_2};

use super::LoadError;

/// The name of the interfaces of the standard.
const NAME: &[u8] = b"PKCS 11\0";

/// The versions that a module is asked for.
const VERSIONS: [CK_VERSION; 3] = [
    CK_VERSION { major: 3, minor: 2 },
    CK_VERSION { major: 3, minor: 1 },
    CK_VERSION { major: 3, minor: 0 },
];

// `copied` relies on the lists beginning alike.
const _: () = {
    assert!(
        offset_of!(CK_FUNCTION_LIST, C_WaitForSlotEvent)
            == offset_of!(CK_FUNCTION_LIST_3_2, C_WaitForSlotEvent)
    );
    assert!(
        offset_of!(CK_FUNCTION_LIST_3_0, C_MessageVerifyFinal)
            == offset_of!(CK_FUNCTION_LIST_3_2, C_MessageVerifyFinal)
    );
    assert!(size_of::<CK_FUNCTION_LIST>() < size_of::<CK_FUNCTION_LIST_3_0>());
    assert!(size_of::<CK_FUNCTION_LIST_3_0>() < size_of::<CK_FUNCTION_LIST_3_2>());
};

/// Returns the newest list of functions, and which interfaces there are. Functions that the module's list does not have
/// are absent.
pub(super) fn function_list(
    library: &libloading::Library,
    path: &Path,
) -> Result<(CK_FUNCTION_LIST_3_2, Flags), LoadError> {
    let newer = newer_interfaces(library);
    let flags = newer.iter().map(|(flag, _)| flag);
    let interfaces = Flags(flags.fold(INTERFACE_2_40, |all, flag| all | flag));
    let list = match newer.first() {
        Some((_, list)) => *list,
        None => oldest_list(library, path)?,
    };
    Ok((list, interfaces))
}

/// Asks C_GetInterface for the versions from 3.0 on. Returns the list of each version that the module has.
fn newer_interfaces(library: &libloading::Library) -> Vec<(u64, CK_FUNCTION_LIST_3_2)> {
    // SAFETY: the type is the prototype that PKCS#11 gives the symbol; a library that breaks
    // the standard is a broken module, which the administrator who named it answers for. An
    // optional function pointer may be null.
    let symbol = unsafe { library.get::<CK_C_GetInterface>(b"C_GetInterface\0") };
    let Some(function) = symbol.ok().and_then(|symbol| *symbol) else {
        return Vec::new();
    };
    if !is_in(library, function as *const c_void) {
        return Vec::new();
    }
    let lists = VERSIONS.into_iter().filter_map(|mut version| {
        let mut name = *b"PKCS 11\0";
        let mut interface = null_mut();
        // SAFETY: `library` is open. The name ends with a zero byte; the name, the version and
        // `interface` are variables that outlive the call.
        let rv = unsafe { function(name.as_mut_ptr(), &raw mut version, &raw mut interface, 0) };
        if !CkRv(wide(rv)).is_ok() || interface.is_null() {
            return None;
        }
        // SAFETY: with CKR_OK a module gives the address of a CK_INTERFACE, which it keeps for as long as it
        // is loaded. No alignment is assumed: Windows packs it.
        let interface = unsafe { interface.read_unaligned() };
        let list = interface.pFunctionList;
        if list.is_null() || !has_our_name(interface.pInterfaceName) {
            return None;
        }
        // SAFETY: an interface with this name points to a list of functions, which begins with its version.
        let version = unsafe { list.cast::<CK_VERSION>().read_unaligned() };
        let (flag, size) = match (version.major, version.minor) {
            (3, 0 | 1) => (INTERFACE_3_0, size_of::<CK_FUNCTION_LIST_3_0>()),
            (3, 2..) => (INTERFACE_3_2, size_of::<CK_FUNCTION_LIST_3_2>()),
            _ => return None,
        };
        // SAFETY: the version of the list says that it has this type.
        Some((flag, unsafe { copied(list, size) }))
    });
    lists.collect()
}

/// Whether a function that the loader found belongs to the library itself. The loader also finds functions of other
/// libraries that it was linked with, such as another module's.
#[cfg(unix)]
fn is_in(library: &libloading::Library, function: *const c_void) -> bool {
    // SAFETY: the symbol is taken for its address only, and a function is called through it nowhere.
    let known = unsafe { library.get::<CK_C_GetFunctionList>(b"C_GetFunctionList\0") };
    match known.ok().and_then(|symbol| *symbol) {
        Some(known) => base(known as *const c_void) == base(function),
        None => true,
    }
}

#[cfg(not(unix))]
fn is_in(_: &libloading::Library, _: *const c_void) -> bool {
    true // the loader looks into the library only
}

/// Returns where the library of a function begins in memory.
#[cfg(unix)]
fn base(function: *const c_void) -> Option<usize> {
    let mut found = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: null_mut(),
    };
    // SAFETY: the function looks the address up and does not read from it; `found` is a variable to be written.
    let is_found = unsafe { libc::dladdr(function, &raw mut found) } != 0;
    is_found.then(|| found.dli_fbase.addr())
}

/// Whether an interface has the name of the standard's.
fn has_our_name(name: *const CK_UTF8CHAR) -> bool {
    !name.is_null()
        && (0..).zip(NAME).all(|(position, expected)| {
            let byte = name.wrapping_add(position);
            // SAFETY: a name ends with a zero byte, which is the first one that differs or the last one that
            // is read.
            let byte = unsafe { byte.read() };
            byte == *expected
        })
}

/// Returns the list of C_GetFunctionList.
fn oldest_list(
    library: &libloading::Library,
    path: &Path,
) -> Result<CK_FUNCTION_LIST_3_2, LoadError> {
    let named = || path.to_path_buf();
    // SAFETY: as for C_GetInterface.
    let symbol = unsafe { library.get::<CK_C_GetFunctionList>(b"C_GetFunctionList\0") };
    let Some(function) = symbol.ok().and_then(|symbol| *symbol) else {
        return Err(LoadError::NoFunctionList { path: named() });
    };
    let mut list = null_mut();
    // SAFETY: `library` is open, and `list` is a variable to be written by the module.
    let rv = CkRv(wide(unsafe { function(&raw mut list) }));
    if !rv.is_ok() {
        return Err(LoadError::Refused { path: named(), rv });
    }
    if list.is_null() {
        return Err(LoadError::NullList { path: named() });
    }
    // SAFETY: with CKR_OK a module gives the address of its list, of this type since v2.01.
    Ok(unsafe { copied(list.cast(), size_of::<CK_FUNCTION_LIST>()) })
}

/// A copy of the module's list, the first `size` bytes of it. No alignment is assumed: Windows packs lists.
///
/// # Safety
///
/// `list` is the address of a list of functions, of a type that has at least `size` bytes.
unsafe fn copied(list: *const c_void, size: usize) -> CK_FUNCTION_LIST_3_2 {
    let mut newest = CK_FUNCTION_LIST_3_2::default();
    let size = size.min(size_of::<CK_FUNCTION_LIST_3_2>());
    let place = (&raw mut newest).cast::<u8>();
    // SAFETY: the caller vouches for `size` bytes to read, and `newest` has as many. Lists begin alike (checked
    // above), so the copy is a version and optional function pointers of the types that `newest` has there;
    // the rest of it stays null.
    unsafe { std::ptr::copy_nonoverlapping(list.cast::<u8>(), place, size) };
    newest
}
