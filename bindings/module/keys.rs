//! Builds the arguments of C calls with a mechanism, and reads their results: keys, wrapped keys, and the mechanism's
//! parameter as the module left it.
//!
//! `calls` makes the C call. The CK_RV is the module's, unless an argument must not reach the module.

use cryptoki_sys::*;
use xdr::word_size::{narrow, wide};
use xdr::{
    CkRv, EncapsulateResult, Function, KeyPairResult, KeyResult, Mechanism, MechanismOutputResult,
    MechanismPointer, MechanismResult, NullPlaces, ObjectHandle, OutputResult, Room, SessionHandle,
    TemplatePointer,
};

use super::Functions;
use super::functions::FIXED_ROOM;
use crate::arguments::{CMechanism, Handle};
use crate::outputs::output;
use crate::templates::CTemplate;

/// Where the template of a new key begins, how many attributes it has, and where its handle is written.
pub(super) type NewKey = (*mut CK_ATTRIBUTE, CK_ULONG, *mut CK_OBJECT_HANDLE);

impl Functions {
    /// Builds a C mechanism, which may be NULL, for a call of `function`.
    pub(super) fn mechanism(
        &self,
        mechanism: &MechanismPointer,
        function: Function,
    ) -> Result<CMechanism, CkRv> {
        match mechanism {
            Some(mechanism) => self.mechanism_of(mechanism, function),
            None => Ok(CMechanism::null()),
        }
    }

    /// Builds a C mechanism for a call of `function`. If it is refused, logs why; the parameter is not logged.
    pub(super) fn mechanism_of(
        &self,
        mechanism: &Mechanism,
        function: Function,
    ) -> Result<CMechanism, CkRv> {
        let usage = function.parameter_use();
        CMechanism::new(mechanism, usage, &self.flat_mechanisms).inspect_err(|rv| {
            log::error!(
                "{}: refused with {rv}: the parameter must not reach the module: {mechanism:?}",
                function.name()
            );
        })
    }

    /// Begins an operation. Its only result is what the module wrote into the mechanism's parameter, which is kept.
    pub(super) fn begin(
        &self,
        function: Function,
        session: SessionHandle,
        mechanism: &MechanismPointer,
        call: impl FnOnce(*mut CK_MECHANISM) -> CkRv,
    ) -> Result<MechanismResult, CkRv> {
        let mut mechanism = self.mechanism(mechanism, function)?;
        let part = self.parameters.take(mechanism.size())?;
        let rv = call(mechanism.as_ptr());
        let written = mechanism.written(rv);
        if let (true, Some(session)) = (rv.is_ok(), self.sessions.get(session)) {
            session
                .parameters
                .begun(function, mechanism.into_memory(), part);
        }
        Ok(MechanismResult { rv, written })
    }

    /// Calls a function that makes a key from a mechanism and a template.
    pub(super) fn make_key(
        &self,
        function: Function,
        mechanism: &MechanismPointer,
        mut template: TemplatePointer,
        nulls: NullPlaces,
        call: impl FnOnce(*mut CK_MECHANISM, NewKey) -> CkRv,
    ) -> Result<KeyResult, CkRv> {
        let mut mechanism = self.mechanism(mechanism, function)?;
        let mut template = CTemplate::new(&mut template)?;
        let mut key = Handle::new(nulls.first);
        let new = (template.as_ptr(), template.count(), key.as_ptr());
        let rv = call(mechanism.as_ptr(), new);
        Ok(KeyResult {
            rv,
            object: key.written(),
            written: mechanism.written(rv),
        })
    }

    /// C_GenerateKeyPair.
    pub(super) fn generate_key_pair(
        &self,
        session: SessionHandle,
        mechanism: &MechanismPointer,
        mut public: TemplatePointer,
        mut private: TemplatePointer,
        nulls: NullPlaces,
    ) -> Result<KeyPairResult, CkRv> {
        let mut mechanism = self.mechanism(mechanism, Function::C_GenerateKeyPair)?;
        let mut public = CTemplate::new(&mut public)?;
        let mut private = CTemplate::new(&mut private)?;
        let mut public_key = Handle::new(nulls.first);
        let mut private_key = Handle::new(nulls.second);
        let rv = c!(self.C_GenerateKeyPair(
            narrow(session.0),
            mechanism.as_ptr(),
            public.as_ptr(),
            public.count(),
            private.as_ptr(),
            private.count(),
            public_key.as_ptr(),
            private_key.as_ptr()
        ));
        Ok(KeyPairResult {
            rv,
            public_key: public_key.written(),
            private_key: private_key.written(),
            written: mechanism.written(rv),
        })
    }

    /// Calls a function that wraps a key: `call` gets the C arguments for the mechanism, the output and its length.
    pub(super) fn wrap_key(
        &self,
        function: Function,
        mechanism: &MechanismPointer,
        room: Room,
        mut call: impl FnMut(*mut CK_MECHANISM, *mut CK_BYTE, *mut CK_ULONG) -> CkRv,
    ) -> Result<MechanismOutputResult, CkRv> {
        let mut mechanism = self.mechanism(mechanism, function)?;
        let OutputResult { rv, length, data } =
            output(function, room, FIXED_ROOM, |data, length| {
                call(mechanism.as_ptr(), data, length)
            });
        Ok(MechanismOutputResult {
            rv,
            length,
            data,
            written: mechanism.written(rv),
        })
    }

    /// C_EncapsulateKey.
    pub(super) fn encapsulate_key(
        &self,
        session: SessionHandle,
        mechanism: &MechanismPointer,
        public_key: ObjectHandle,
        mut template: TemplatePointer,
        room: Room,
        nulls: NullPlaces,
    ) -> Result<EncapsulateResult, CkRv> {
        let function = Function::C_EncapsulateKey;
        let mut mechanism = self.mechanism(mechanism, function)?;
        let mut template = CTemplate::new(&mut template)?;
        let mut key = Handle::new(nulls.first);
        let OutputResult { rv, length, data } =
            output(function, room, FIXED_ROOM, |data, length| {
                c!(self.C_EncapsulateKey(
                    narrow(session.0),
                    mechanism.as_ptr(),
                    narrow(public_key.0),
                    template.as_ptr(),
                    template.count(),
                    data,
                    length,
                    key.as_ptr()
                ))
            });
        Ok(EncapsulateResult {
            rv,
            length,
            data,
            object: key.written(),
            written: mechanism.written(rv),
        })
    }
}
