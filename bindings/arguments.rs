//! Builds the C arguments of a module's functions: byte strings, PINs, mechanisms, and handles for the module to write.
//!
//! `module` makes the C call with them. Every address passed to a module belongs to a value that lives longer than the
//! call, and its length is passed beside it. `templates` does the same for attributes, `outputs` for what a module
//! writes.

use std::ptr::null_mut;

use cryptoki_sys::*;
use xdr::mechanism::Assembly;
use xdr::word_size::{narrow, wide};
use xdr::{CkRv, Input, Mechanism, ObjectHandle, Use, Written};

/// The value of a handle before the module writes it. No module chooses it, so it shows whether the module wrote a
/// handle.
const UNWRITTEN: CK_OBJECT_HANDLE = narrow(0x9d1f_4e37_c82a_65b3);

/// Returns a byte string as address and length. An empty one has an address too, because NULL has another meaning in
/// PKCS#11.
pub(crate) fn input(input: Input<'_>) -> (*mut CK_BYTE, CK_ULONG) {
    match input {
        Input::Null { length } => (null_mut(), narrow(length)),
        Input::NullOrEmpty => bytes(&[]),
        Input::Bytes(value) => bytes(value),
    }
}

fn bytes(bytes: &[u8]) -> (*mut CK_BYTE, CK_ULONG) {
    let address = if bytes.is_empty() { &[0] } else { bytes };
    (address.as_ptr().cast_mut(), narrow(bytes.len() as u64))
}

/// A single value that a module may write, such as a handle.
pub(crate) struct Place<T> {
    pub(crate) value: T,
    is_null: bool,
}

impl<T> Place<T> {
    /// Makes a place that holds this value. With `is_null`, the module gets NULL instead of its address.
    pub(crate) fn new(value: T, is_null: bool) -> Place<T> {
        Place { value, is_null }
    }

    pub(crate) fn as_ptr(&mut self) -> *mut T {
        match self.is_null {
            true => null_mut(),
            false => &raw mut self.value,
        }
    }
}

/// A place for the handle of an object.
pub(crate) struct Handle(Place<CK_OBJECT_HANDLE>);

impl Handle {
    pub(crate) fn new(is_null: bool) -> Handle {
        Handle(Place::new(UNWRITTEN, is_null))
    }

    pub(crate) fn as_ptr(&mut self) -> *mut CK_OBJECT_HANDLE {
        self.0.as_ptr()
    }

    /// Returns the handle, whatever the CK_RV; `None` if the module wrote none.
    pub(crate) fn written(&self) -> Option<ObjectHandle> {
        match self.0.value {
            UNWRITTEN => None,
            handle => Some(ObjectHandle(wide(handle))),
        }
    }
}

/// A mechanism, or NULL. Its parameter holds no address of a client: its pointers refer to memory that it
/// owns.
pub(crate) struct CMechanism {
    c: Option<CK_MECHANISM>,
    /// What `c.pParameter` points to, and everything that is reached from there.
    assembly: Assembly,
}

impl CMechanism {
    /// NULL.
    pub(crate) fn null() -> CMechanism {
        CMechanism {
            c: None,
            assembly: Assembly::default(),
        }
    }

    /// Builds the mechanism for a function of this use. `flat` lists the vendors' mechanisms whose parameters hold no
    /// address, according to the site.
    pub(crate) fn new(mechanism: &Mechanism, usage: Use, flat: &[u64]) -> Result<CMechanism, CkRv> {
        let number = narrow(mechanism.mechanism_type().0);
        let is_flat = flat.iter().any(|&listed| narrow(listed) == number);
        let mut assembly = mechanism.assemble(usage, is_flat)?;
        let addresses = assembly.addresses();
        for place in assembly.pointers() {
            let block = addresses.get(place.block).ok_or(CkRv::GENERAL_ERROR)?;
            let target = addresses.get(place.target).ok_or(CkRv::GENERAL_ERROR)?;
            // SAFETY: the offset is that of a pointer in a structure, and the assembly made the block
            // at least as large as its structures, so the result is within the same allocation.
            let pointer = unsafe { block.byte_add(place.offset) };
            // SAFETY: the whole pointer lies in the block, as above; `addresses` may be written
            // through, and no reference to the block exists. The write is unaligned. `target` is
            // the address of a block of the same assembly, so it stays valid as long as this one.
            unsafe { pointer.cast::<*mut u64>().write_unaligned(*target) };
        }
        let root = assembly.root().and_then(|root| addresses.get(root));
        let c = CK_MECHANISM {
            mechanism: number,
            pParameter: root.map_or(null_mut(), |root| root.cast()),
            ulParameterLen: narrow(assembly.length()),
        };
        Ok(CMechanism {
            c: Some(c),
            assembly,
        })
    }

    pub(crate) fn as_ptr(&mut self) -> *mut CK_MECHANISM {
        match &mut self.c {
            Some(mechanism) => &raw mut *mechanism,
            None => null_mut(),
        }
    }

    /// Returns address and length of the parameter, for functions of messages.
    pub(crate) fn parameter(&mut self) -> (CK_VOID_PTR, CK_ULONG) {
        self.c.as_ref().map_or((null_mut(), 0), |mechanism| {
            (mechanism.pParameter, mechanism.ulParameterLen)
        })
    }

    /// The size of the parameter's memory, in bytes; 0 without a parameter.
    pub(crate) fn size(&self) -> usize {
        self.assembly.size()
    }

    /// Returns the memory of the parameter, at the addresses that the module has; `None` without a parameter.
    pub(crate) fn into_memory(self) -> Option<Assembly> {
        (self.assembly.size() > 0).then_some(self.assembly)
    }

    /// Returns what the module wrote through pointers of the parameter, in a call with this result.
    pub(crate) fn written(&self, rv: CkRv) -> Written {
        self.assembly.written(rv.is_ok())
    }
}

#[cfg(test)]
mod tests;
