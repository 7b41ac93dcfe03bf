//! Initializes and finalizes the module, and waits for its slot events.
//!
//! C_Initialize passes on the parameters of the configuration, and whether the application has threads. It passes no
//! mutexes: a module that needs locks uses those of the operating system.

use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use std::time::Duration;

use cryptoki_sys::*;
use xdr::word_size::{narrow, wide};
use xdr::{CkRv, Flags, NullPlaces, SlotId, SlotResult};

use super::turns::Threads;
use super::{Functions, Module};
use crate::arguments::Place;

/// The time between two questions for a slot event to a module that takes one call at a time. Other calls may come in
/// between.
const EVENT_PERIOD: Duration = Duration::from_millis(100);

/// CK_C_INITIALIZE_ARGS, with one more member behind it.
///
/// The standard has a reserved pointer at the end. NSS's structure has a pointer to a string in its place
/// (`LibraryParameters`), and the reserved pointer, which is null, behind it.
#[repr(C)]
struct Arguments {
    standard: CK_C_INITIALIZE_ARGS,
    nss_reserved: *mut c_void,
}

impl Functions {
    /// Initializes the module with these flags. Without flags and a string it gets NULL.
    fn initialize(&self, flags: CK_FLAGS) -> CkRv {
        let string = self.init_args.as_ref().map(|string| string.as_ptr());
        if flags == 0 && string.is_none() {
            return c!(self.C_Initialize(null_mut()));
        }
        let mut arguments = Arguments {
            standard: CK_C_INITIALIZE_ARGS {
                flags,
                pReserved: string
                    .map_or(null_mut(), |string: *const c_char| string.cast_mut().cast()),
                ..Default::default()
            },
            nss_reserved: null_mut(),
        };
        c!(self.C_Initialize((&raw mut arguments).cast()))
    }

    pub(super) fn wait_for_slot_event(&self, flags: Flags, nulls: NullPlaces) -> SlotResult {
        let mut slot = Place::new(narrow(SlotId::NONE.0), nulls.first);
        let rv = c!(self.C_WaitForSlotEvent(narrow(flags.0), slot.as_ptr(), null_mut()));
        let slot_id = if rv.is_ok() {
            SlotId(wide(slot.value))
        } else {
            SlotId::NONE
        };
        SlotResult { rv, slot_id }
    }
}

impl Module {
    /// Executes C_Initialize. If the application has threads, the module is asked to lock. If it refuses, it is
    /// initialized as for an application without threads, and gets one call at a time.
    pub(super) fn initialize(&self, flags: Flags) -> CkRv {
        let turn = self.turns.alone();
        let has_threads = narrow(flags.0) & CKF_OS_LOCKING_OK != 0;
        if has_threads {
            let rv = self.functions.initialize(CKF_OS_LOCKING_OK);
            if rv.is_ok() {
                self.turns.set_threads(Threads::Parallel, &turn);
            }
            if rv.is_ok() || rv == CkRv::CRYPTOKI_ALREADY_INITIALIZED {
                return rv;
            }
            log::debug!("C_Initialize with CKF_OS_LOCKING_OK returned {rv}; trying without");
        }
        let rv = self.functions.initialize(0);
        if rv.is_ok() {
            let threads = match has_threads {
                true => Threads::Queued,
                false => Threads::None,
            };
            self.turns.set_threads(threads, &turn);
        }
        rv
    }

    /// C_Finalize. Waits for the calls that are in the module, but not for C_WaitForSlotEvent, which it ends.
    pub(super) fn finalize(&self) -> CkRv {
        let turn = self.turns.alone();
        let functions = &self.functions;
        let rv = c!(functions.C_Finalize(null_mut()));
        if rv.is_ok() {
            self.functions.sessions.all_closed();
            self.turns.set_threads(Threads::None, &turn);
            self.turns.finalized();
        }
        rv
    }

    /// C_WaitForSlotEvent. While it blocks, other calls go on:
    ///
    /// - In a module that takes calls in parallel it blocks without a turn. C_Finalize ends it
    ///   (PKCS#11 v2.20, section 11.5).
    /// - A module that takes one call at a time is polled, if the application has threads. Every answer except
    ///   CKR_NO_EVENT ends that, also CKR_FUNCTION_NOT_SUPPORTED.
    /// - If the application has only one thread, that thread waits in the module.
    pub(super) fn slot_event(&self, flags: Flags, nulls: NullPlaces) -> SlotResult {
        if narrow(flags.0) & CKF_DONT_BLOCK == 0 {
            match self.turns.threads() {
                Threads::Parallel => return self.functions.wait_for_slot_event(flags, nulls),
                Threads::Queued => return self.poll_for_slot_event(flags, nulls),
                Threads::None => {}
            }
        }
        let _turn = self.turns.turn();
        self.functions.wait_for_slot_event(flags, nulls)
    }

    fn poll_for_slot_event(&self, flags: Flags, nulls: NullPlaces) -> SlotResult {
        let before = self.turns.finalizations();
        loop {
            let turn = self.turns.turn();
            let flags = Flags(flags.0 | wide(CKF_DONT_BLOCK));
            let event = self.functions.wait_for_slot_event(flags, nulls);
            drop(turn);
            if event.rv != CkRv::NO_EVENT {
                return event;
            }
            if self.turns.pause(EVENT_PERIOD, before) {
                return SlotResult {
                    rv: CkRv::CRYPTOKI_NOT_INITIALIZED,
                    slot_id: SlotId::NONE,
                };
            }
        }
    }
}
