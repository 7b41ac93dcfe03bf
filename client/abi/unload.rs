//! Closes the connection when the library is unloaded.

use crate::INSTANCE;

/// Runs at `dlclose` and at exit: an application that did not call C_Finalize leaves no descriptor
/// behind in a process that unloads the library. Waits for no thread that is still in a call.
#[cfg(target_os = "linux")]
extern "C" fn at_unload() {
    if let Some(instance) = INSTANCE.existing() {
        instance.abandon();
    }
}

// SAFETY: the dynamic linker calls each pointer in .fini_array as a function without arguments,
// which `at_unload` is; what it is passed beyond that is ignored.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_UNLOAD: extern "C" fn() = at_unload;
