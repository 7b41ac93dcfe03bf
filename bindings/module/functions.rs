//! Makes the C calls whose arguments or results have a shape of their own.
//!
//! A failing call returns the same fields beside its CK_RV as the original. The CK_RV is the
//! module's, unless an argument must not reach the module.

use std::ptr::null_mut;

use cryptoki_sys::*;
use xdr::word_size::{narrow, wide};
use xdr::{
    CkRv, DataResult, Flags, Info, InfoResult, KeyPairResult, Mechanism, MechanismInfo,
    MechanismInfoResult, MechanismListResult, MechanismType, ObjectHandle, ObjectListResult,
    ObjectResult, SessionHandle, SessionInfo, SessionInfoResult, SessionResult, SizeResult, SlotId,
    SlotInfo, SlotInfoResult, SlotListResult, SlotResult, State, Template, TemplateResult,
    TokenInfo, TokenInfoResult, Ulong, Version,
};

use super::Functions;
use crate::arguments::{
    CMechanism, CTemplate, Empty, LONGEST_RANDOM, attribute_values, input, list, objects, output,
    pin,
};

/// Room for an output that does not grow with the input: a digest, a signature, a wrapped key. The
/// original has this much and no more.
pub(super) const FIXED_ROOM: usize = 16384;

impl Functions {
    pub(super) fn mechanism(&self, mechanism: &Mechanism) -> Result<CMechanism, CkRv> {
        CMechanism::new(mechanism, &self.flat_mechanisms)
    }

    pub(super) fn info(&self) -> InfoResult {
        let mut info = CK_INFO::default();
        let rv = c!(self.C_GetInfo(&raw mut info));
        InfoResult {
            rv,
            info: Info {
                cryptoki_version: version(info.cryptokiVersion),
                manufacturer_id: info.manufacturerID.to_vec(),
                flags: Flags(wide(info.flags)),
                library_description: info.libraryDescription.to_vec(),
                library_version: version(info.libraryVersion),
            },
        }
    }

    /// Like the original, reads the lower 32 bits of `present` and accepts what fits into a CK_BBOOL.
    pub(super) fn slot_list(&self, present: Ulong, count: Ulong) -> SlotListResult {
        let present = present.0 & u64::from(u32::MAX);
        let Ok(present) = CK_BBOOL::try_from(present) else {
            return SlotListResult {
                rv: CkRv::TOKEN_NOT_RECOGNIZED,
                ..Default::default()
            };
        };
        let (rv, slots, count) = list(count, |slots, count| {
            c!(self.C_GetSlotList(present, slots, count))
        });
        SlotListResult {
            rv,
            slots: slots.into_iter().map(SlotId).collect(),
            count,
        }
    }

    pub(super) fn slot_info(&self, slot: SlotId) -> SlotInfoResult {
        // No Default: an array of 64 has none.
        let mut info = CK_SLOT_INFO {
            slotDescription: [0; 64],
            manufacturerID: [0; 32],
            flags: 0,
            hardwareVersion: CK_VERSION::default(),
            firmwareVersion: CK_VERSION::default(),
        };
        let rv = c!(self.C_GetSlotInfo(narrow(slot.0), &raw mut info));
        SlotInfoResult {
            rv,
            info: SlotInfo {
                slot_description: info.slotDescription.to_vec(),
                manufacturer_id: info.manufacturerID.to_vec(),
                flags: Flags(wide(info.flags)),
                hardware_version: version(info.hardwareVersion),
                firmware_version: version(info.firmwareVersion),
            },
        }
    }

    pub(super) fn token_info(&self, slot: SlotId) -> TokenInfoResult {
        let mut info = CK_TOKEN_INFO::default();
        let rv = c!(self.C_GetTokenInfo(narrow(slot.0), &raw mut info));
        TokenInfoResult {
            rv,
            info: TokenInfo {
                label: info.label.to_vec(),
                manufacturer_id: info.manufacturerID.to_vec(),
                model: info.model.to_vec(),
                serial_number: info.serialNumber.to_vec(),
                flags: Flags(wide(info.flags)),
                max_session_count: Ulong(wide(info.ulMaxSessionCount)),
                session_count: Ulong(wide(info.ulSessionCount)),
                max_rw_session_count: Ulong(wide(info.ulMaxRwSessionCount)),
                rw_session_count: Ulong(wide(info.ulRwSessionCount)),
                max_pin_len: Ulong(wide(info.ulMaxPinLen)),
                min_pin_len: Ulong(wide(info.ulMinPinLen)),
                total_public_memory: Ulong(wide(info.ulTotalPublicMemory)),
                free_public_memory: Ulong(wide(info.ulFreePublicMemory)),
                total_private_memory: Ulong(wide(info.ulTotalPrivateMemory)),
                free_private_memory: Ulong(wide(info.ulFreePrivateMemory)),
                hardware_version: version(info.hardwareVersion),
                firmware_version: version(info.firmwareVersion),
                utc_time: info.utcTime.to_vec(),
            },
        }
    }

    pub(super) fn wait_for_slot_event(&self, flags: Flags) -> SlotResult {
        let mut slot = narrow(SlotId::NONE.0);
        let rv = c!(self.C_WaitForSlotEvent(narrow(flags.0), &raw mut slot, null_mut()));
        let slot_id = if rv.is_ok() {
            SlotId(wide(slot))
        } else {
            SlotId::NONE
        };
        SlotResult { rv, slot_id }
    }

    pub(super) fn mechanism_list(&self, slot: SlotId, count: Ulong) -> MechanismListResult {
        let (rv, mechanisms, count) = list(count, |mechanisms, count| {
            c!(self.C_GetMechanismList(narrow(slot.0), mechanisms, count))
        });
        MechanismListResult {
            rv,
            mechanisms: mechanisms.into_iter().map(MechanismType).collect(),
            count,
        }
    }

    pub(super) fn mechanism_info(
        &self,
        slot: SlotId,
        mechanism: MechanismType,
    ) -> MechanismInfoResult {
        let mut info = CK_MECHANISM_INFO::default();
        let rv = c!(self.C_GetMechanismInfo(narrow(slot.0), narrow(mechanism.0), &raw mut info));
        MechanismInfoResult {
            rv,
            info: MechanismInfo {
                min_key_size: Ulong(wide(info.ulMinKeySize)),
                max_key_size: Ulong(wide(info.ulMaxKeySize)),
                flags: Flags(wide(info.flags)),
            },
        }
    }

    /// The protocol has no NULL PIN. An empty PIN means NULL for a token with a keypad of its own,
    /// and is an error for any other. If the token's flags cannot be read, the PIN is passed as it
    /// was sent.
    pub(super) fn init_token(&self, slot: SlotId, so_pin: &[u8], label: &[u8]) -> CkRv {
        let so_pin = match so_pin {
            [] => match self.has_protected_path(slot) {
                Some(true) => None,
                Some(false) => return CkRv::ARGUMENTS_BAD,
                None => Some(so_pin),
            },
            _ => Some(so_pin),
        };
        let (so_pin, length) = pin(so_pin);
        let mut label = padded_label(label);
        c!(self.C_InitToken(narrow(slot.0), so_pin, length, label.as_mut_ptr()))
    }

    /// An empty PIN as in `init_token`; the original answers another CK_RV here.
    pub(super) fn init_pin(&self, session: SessionHandle, new: &[u8]) -> CkRv {
        let new = match new {
            [] => match self.session_has_protected_path(session) {
                Some(true) => None,
                Some(false) => return CkRv::PIN_INVALID,
                None => Some(new),
            },
            _ => Some(new),
        };
        let (new, length) = pin(new);
        c!(self.C_InitPIN(narrow(session.0), new, length))
    }

    /// As `init_pin`, when both are empty; one empty PIN goes to the module as it is.
    pub(super) fn set_pin(&self, session: SessionHandle, old: &[u8], new: &[u8]) -> CkRv {
        let (old, new) = match (old, new) {
            ([], []) => match self.session_has_protected_path(session) {
                Some(true) => (None, None),
                Some(false) => return CkRv::PIN_INVALID,
                None => (Some(old), Some(new)),
            },
            _ => (Some(old), Some(new)),
        };
        let (old, old_length) = pin(old);
        let (new, new_length) = pin(new);
        c!(self.C_SetPIN(narrow(session.0), old, old_length, new, new_length))
    }

    pub(super) fn session_has_protected_path(&self, session: SessionHandle) -> Option<bool> {
        let result = self.session_info(session);
        result
            .rv
            .is_ok()
            .then_some(result.info.slot_id)
            .and_then(|slot| self.has_protected_path(slot))
    }

    pub(super) fn has_protected_path(&self, slot: SlotId) -> Option<bool> {
        let TokenInfoResult { rv, info } = self.token_info(slot);
        let flag = narrow(info.flags.0) & CKF_PROTECTED_AUTHENTICATION_PATH;
        rv.is_ok().then_some(flag != 0)
    }

    /// An empty PIN becomes NULL. The original passes an address, so that clients cannot use a
    /// token's own keypad.
    pub(super) fn login(&self, session: SessionHandle, user: u64, user_pin: &[u8]) -> CkRv {
        let (user_pin, length) = pin(Some(user_pin).filter(|user_pin| !user_pin.is_empty()));
        c!(self.C_Login(narrow(session.0), narrow(user), user_pin, length))
    }

    /// The application's pointer and callback exist only in its own process.
    pub(super) fn open_session(&self, slot: SlotId, flags: Flags) -> SessionResult {
        let mut session = CK_INVALID_HANDLE;
        let rv = c!(self.C_OpenSession(
            narrow(slot.0),
            narrow(flags.0),
            null_mut(),
            None,
            &raw mut session
        ));
        SessionResult {
            rv,
            session: SessionHandle(if_ok(rv, session)),
        }
    }

    pub(super) fn session_info(&self, session: SessionHandle) -> SessionInfoResult {
        let mut info = CK_SESSION_INFO::default();
        let rv = c!(self.C_GetSessionInfo(narrow(session.0), &raw mut info));
        if !rv.is_ok() {
            let info = SessionInfo {
                slot_id: SlotId::NONE,
                ..Default::default()
            };
            return SessionInfoResult { rv, info };
        }
        SessionInfoResult {
            rv,
            info: SessionInfo {
                slot_id: SlotId(wide(info.slotID)),
                state: State(wide(info.state)),
                flags: Flags(wide(info.flags)),
                device_error: Ulong(wide(info.ulDeviceError)),
            },
        }
    }

    pub(super) fn create_object(
        &self,
        session: SessionHandle,
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let mut object = CK_INVALID_HANDLE;
        let rv = c!(self.C_CreateObject(
            narrow(session.0),
            template.as_ptr(),
            template.count(),
            &raw mut object
        ));
        Ok(object_result(rv, object))
    }

    pub(super) fn copy_object(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let mut copy = CK_INVALID_HANDLE;
        let rv = c!(self.C_CopyObject(
            narrow(session.0),
            narrow(object.0),
            template.as_ptr(),
            template.count(),
            &raw mut copy
        ));
        Ok(object_result(rv, copy))
    }

    pub(super) fn object_size(&self, session: SessionHandle, object: ObjectHandle) -> SizeResult {
        let mut size = 0;
        let rv = c!(self.C_GetObjectSize(narrow(session.0), narrow(object.0), &raw mut size));
        SizeResult {
            rv,
            size: Ulong(if_ok(rv, size)),
        }
    }

    pub(super) fn attribute_value(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        mut template: Template,
    ) -> TemplateResult {
        let rv = attribute_values(&mut template, |attributes, count| {
            c!(self.C_GetAttributeValue(narrow(session.0), narrow(object.0), attributes, count))
        });
        TemplateResult { rv, template }
    }

    pub(super) fn set_attribute_value(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        mut template: Template,
    ) -> Result<CkRv, CkRv> {
        let mut template = CTemplate::new(&mut template, Empty::Null)?;
        Ok(c!(self.C_SetAttributeValue(
            narrow(session.0),
            narrow(object.0),
            template.as_ptr(),
            template.count()
        )))
    }

    pub(super) fn find_objects_init(
        &self,
        session: SessionHandle,
        mut template: Template,
    ) -> Result<CkRv, CkRv> {
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        Ok(c!(self.C_FindObjectsInit(
            narrow(session.0),
            template.as_ptr(),
            template.count()
        )))
    }

    pub(super) fn find_objects(&self, session: SessionHandle, count: Ulong) -> ObjectListResult {
        let (rv, objects) = objects(count, |objects, room, number| {
            c!(self.C_FindObjects(narrow(session.0), objects, room, number))
        });
        ObjectListResult {
            rv,
            count: Ulong(objects.len() as u64),
            objects: objects.into_iter().map(ObjectHandle).collect(),
        }
    }

    pub(super) fn generate_key(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let mut key = CK_INVALID_HANDLE;
        let rv = c!(self.C_GenerateKey(
            narrow(session.0),
            mechanism.as_ptr(),
            template.as_ptr_or_null(),
            template.count(),
            &raw mut key
        ));
        Ok(object_result(rv, key))
    }

    pub(super) fn generate_key_pair(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        mut public: Template,
        mut private: Template,
    ) -> Result<KeyPairResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        let mut public = CTemplate::new(&mut public, Empty::Address)?;
        let mut private = CTemplate::new(&mut private, Empty::Address)?;
        let (mut public_key, mut private_key) = (CK_INVALID_HANDLE, CK_INVALID_HANDLE);
        let rv = c!(self.C_GenerateKeyPair(
            narrow(session.0),
            mechanism.as_ptr(),
            public.as_ptr_or_null(),
            public.count(),
            private.as_ptr_or_null(),
            private.count(),
            &raw mut public_key,
            &raw mut private_key
        ));
        Ok(KeyPairResult {
            rv,
            public_key: ObjectHandle(if_ok(rv, public_key)),
            private_key: ObjectHandle(if_ok(rv, private_key)),
        })
    }

    pub(super) fn wrap_key(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        wrapping: ObjectHandle,
        key: ObjectHandle,
    ) -> Result<DataResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        Ok(output(FIXED_ROOM, |data, length| {
            c!(self.C_WrapKey(
                narrow(session.0),
                mechanism.as_ptr(),
                narrow(wrapping.0),
                narrow(key.0),
                data,
                length
            ))
        }))
    }

    pub(super) fn unwrap_key(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let (wrapped, length) = input(wrapped);
        let mut key = CK_INVALID_HANDLE;
        let rv = c!(self.C_UnwrapKey(
            narrow(session.0),
            mechanism.as_ptr(),
            narrow(unwrapping.0),
            wrapped,
            length,
            template.as_ptr(),
            template.count(),
            &raw mut key
        ));
        Ok(object_result(rv, key))
    }

    pub(super) fn derive_key(
        &self,
        session: SessionHandle,
        mechanism: Mechanism,
        base: ObjectHandle,
        mut template: Template,
    ) -> Result<ObjectResult, CkRv> {
        let mut mechanism = self.mechanism(&mechanism)?;
        let mut template = CTemplate::new(&mut template, Empty::Address)?;
        let mut key = CK_INVALID_HANDLE;
        let rv = c!(self.C_DeriveKey(
            narrow(session.0),
            mechanism.as_ptr(),
            narrow(base.0),
            template.as_ptr(),
            template.count(),
            &raw mut key
        ));
        Ok(object_result(rv, key))
    }

    /// Refuses lengths over the limit. The original runs out of memory there and answers SYSTEM_ERR.
    pub(super) fn generate_random(&self, session: SessionHandle, length: Ulong) -> DataResult {
        let size = usize::try_from(length.0).unwrap_or(usize::MAX);
        if size > LONGEST_RANDOM {
            return DataResult {
                rv: CkRv::ARGUMENTS_BAD,
                ..Default::default()
            };
        }
        let mut data = vec![0; size.max(1)];
        let rv = c!(self.C_GenerateRandom(narrow(session.0), data.as_mut_ptr(), narrow(length.0)));
        data.truncate(if rv.is_ok() { size } else { 0 });
        DataResult { rv, data }
    }
}

fn version(version: CK_VERSION) -> Version {
    Version::new(version.major, version.minor)
}

fn object_result(rv: CkRv, object: CK_OBJECT_HANDLE) -> ObjectResult {
    ObjectResult {
        rv,
        object: ObjectHandle(if_ok(rv, object)),
    }
}

/// A handle or a size; 0 if the call failed.
fn if_ok(rv: CkRv, number: CK_ULONG) -> u64 {
    if rv.is_ok() { wide(number) } else { 0 }
}

/// A token's label: the bytes before the first zero byte, padded with blanks or cut to 32.
fn padded_label(label: &[u8]) -> [CK_UTF8CHAR; 32] {
    let mut padded = [b' '; 32];
    let text = label.iter().take_while(|&&byte| byte != 0);
    for (byte, value) in padded.iter_mut().zip(text) {
        *byte = *value;
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_a_label_with_blanks_and_cuts_it_at_a_zero_byte() {
        assert_eq!(&padded_label(b"gateway")[..9], b"gateway  ");
        assert_eq!(padded_label(b"gate\0way"), padded_label(b"gate"));
        assert_eq!(padded_label(&[b'x'; 40]), [b'x'; 32]);
        assert_eq!(padded_label(b""), [b' '; 32]);
    }
}
