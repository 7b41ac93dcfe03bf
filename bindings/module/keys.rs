//! Makes the C calls with a mechanism that make, wrap or name keys.
//!
//! The CK_RV is the module's, unless an argument must not reach the module: that is the error.

use xdr::word_size::{narrow, wide};
use xdr::{
    CkRv, EncapsulateResult, Function, Input, KeyPairResult, KeyResult, MechanismOutputResult,
    MechanismPointer, MechanismResult, ObjectHandle, OutputResult, Room, SessionHandle,
    TemplatePointer, Use,
};

use super::Functions;
use super::functions::FIXED_ROOM;
use crate::arguments::{CMechanism, Handle, input};
use crate::outputs::output;
use crate::templates::CTemplate;

impl Functions {
    pub(super) fn mechanism(
        &self,
        mechanism: &MechanismPointer,
        usage: Use,
    ) -> Result<CMechanism, CkRv> {
        CMechanism::new(mechanism, usage, &self.flat_mechanisms)
    }

    pub(super) fn digest_init(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
    ) -> Result<MechanismResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism, Use::Operation)?;
        let rv = c!(self.C_DigestInit(narrow(session.0), mechanism.as_ptr()));
        let written = mechanism.written(rv);
        Ok(MechanismResult { rv, written })
    }

    pub(super) fn verify_signature_init(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        key: ObjectHandle,
        signature: Input<'_>,
    ) -> Result<MechanismResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism, Use::Operation)?;
        let (signature, length) = input(signature);
        let rv = c!(self.C_VerifySignatureInit(
            narrow(session.0),
            mechanism.as_ptr(),
            narrow(key.0),
            signature,
            length
        ));
        let written = mechanism.written(rv);
        Ok(MechanismResult { rv, written })
    }

    pub(super) fn generate_key(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        mut template: TemplatePointer,
    ) -> Result<KeyResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism, Use::Operation)?;
        let mut template = CTemplate::new(&mut template)?;
        let mut key = Handle::new();
        let rv = c!(self.C_GenerateKey(
            narrow(session.0),
            mechanism.as_ptr(),
            template.as_ptr(),
            template.count(),
            key.as_ptr()
        ));
        Ok(key_result(rv, &key, &mechanism))
    }

    pub(super) fn generate_key_pair(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        mut public: TemplatePointer,
        mut private: TemplatePointer,
    ) -> Result<KeyPairResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism, Use::Operation)?;
        let mut public = CTemplate::new(&mut public)?;
        let mut private = CTemplate::new(&mut private)?;
        let (mut public_key, mut private_key) = (Handle::new(), Handle::new());
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
            public_key: public_key.written(rv),
            private_key: private_key.written(rv),
            written: mechanism.written(rv),
        })
    }

    pub(super) fn wrap_key(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        wrapping: ObjectHandle,
        key: ObjectHandle,
        room: Room,
    ) -> Result<MechanismOutputResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism, Use::Operation)?;
        let output = output(Function::C_WrapKey, room, FIXED_ROOM, |data, length| {
            c!(self.C_WrapKey(
                narrow(session.0),
                mechanism.as_ptr(),
                narrow(wrapping.0),
                narrow(key.0),
                data,
                length
            ))
        });
        Ok(mechanism_output_result(output, &mechanism))
    }

    pub(super) fn wrap_key_authenticated(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        wrapping: ObjectHandle,
        key: ObjectHandle,
        associated: Input<'_>,
        room: Room,
    ) -> Result<MechanismOutputResult, CkRv> {
        let function = Function::C_WrapKeyAuthenticated;
        let mut mechanism = self.mechanism(&mechanism, function.parameter_use())?;
        let (associated, associated_length) = input(associated);
        let output = output(function, room, FIXED_ROOM, |data, length| {
            c!(self.C_WrapKeyAuthenticated(
                narrow(session.0),
                mechanism.as_ptr(),
                narrow(wrapping.0),
                narrow(key.0),
                associated,
                associated_length,
                data,
                length
            ))
        });
        Ok(mechanism_output_result(output, &mechanism))
    }

    pub(super) fn unwrap_key(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        unwrapping: ObjectHandle,
        wrapped: Input<'_>,
        mut template: TemplatePointer,
    ) -> Result<KeyResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism, Use::Operation)?;
        let mut template = CTemplate::new(&mut template)?;
        let (wrapped, length) = input(wrapped);
        let mut key = Handle::new();
        let rv = c!(self.C_UnwrapKey(
            narrow(session.0),
            mechanism.as_ptr(),
            narrow(unwrapping.0),
            wrapped,
            length,
            template.as_ptr(),
            template.count(),
            key.as_ptr()
        ));
        Ok(key_result(rv, &key, &mechanism))
    }

    pub(super) fn unwrap_key_authenticated(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        unwrapping: ObjectHandle,
        wrapped: Input<'_>,
        mut template: TemplatePointer,
        associated: Input<'_>,
    ) -> Result<KeyResult, CkRv> {
        let usage = Function::C_UnwrapKeyAuthenticated.parameter_use();
        let mut mechanism = self.mechanism(&mechanism, usage)?;
        let mut template = CTemplate::new(&mut template)?;
        let (wrapped, length) = input(wrapped);
        let (associated, associated_length) = input(associated);
        let mut key = Handle::new();
        let rv = c!(self.C_UnwrapKeyAuthenticated(
            narrow(session.0),
            mechanism.as_ptr(),
            narrow(unwrapping.0),
            wrapped,
            length,
            template.as_ptr(),
            template.count(),
            associated,
            associated_length,
            key.as_ptr()
        ));
        Ok(key_result(rv, &key, &mechanism))
    }

    pub(super) fn derive_key(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        base: ObjectHandle,
        mut template: TemplatePointer,
    ) -> Result<KeyResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism, Use::Operation)?;
        let mut template = CTemplate::new(&mut template)?;
        let mut key = Handle::new();
        let rv = c!(self.C_DeriveKey(
            narrow(session.0),
            mechanism.as_ptr(),
            narrow(base.0),
            template.as_ptr(),
            template.count(),
            key.as_ptr()
        ));
        Ok(key_result(rv, &key, &mechanism))
    }

    pub(super) fn encapsulate_key(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        public_key: ObjectHandle,
        mut template: TemplatePointer,
        room: Room,
    ) -> Result<EncapsulateResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism, Use::Operation)?;
        let mut template = CTemplate::new(&mut template)?;
        let mut key = Handle::new();
        let output = output(
            Function::C_EncapsulateKey,
            room,
            FIXED_ROOM,
            |data, length| {
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
            },
        );
        Ok(EncapsulateResult {
            rv: output.rv,
            length: output.length,
            data: output.data,
            object: key.written(output.rv),
            written: mechanism.written(output.rv),
        })
    }

    pub(super) fn decapsulate_key(
        &self,
        session: SessionHandle,
        mechanism: MechanismPointer,
        private_key: ObjectHandle,
        mut template: TemplatePointer,
        ciphertext: Input<'_>,
    ) -> Result<KeyResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism, Use::Operation)?;
        let mut template = CTemplate::new(&mut template)?;
        let (ciphertext, length) = input(ciphertext);
        let mut key = Handle::new();
        let rv = c!(self.C_DecapsulateKey(
            narrow(session.0),
            mechanism.as_ptr(),
            narrow(private_key.0),
            template.as_ptr(),
            template.count(),
            ciphertext,
            length,
            key.as_ptr()
        ));
        Ok(key_result(rv, &key, &mechanism))
    }
}

fn key_result(rv: CkRv, key: &Handle, mechanism: &CMechanism) -> KeyResult {
    KeyResult {
        rv,
        object: key.written(rv),
        written: mechanism.written(rv),
    }
}

fn mechanism_output_result(output: OutputResult, mechanism: &CMechanism) -> MechanismOutputResult {
    MechanismOutputResult {
        rv: output.rv,
        length: output.length,
        data: output.data,
        written: mechanism.written(output.rv),
    }
}
