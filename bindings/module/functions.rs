//! Makes the C calls whose arguments or results have no common shape.
//!
//! A failing call returns the same fields beside its CK_RV as in the original. The CK_RV is the module's, unless an
//! argument must not reach the module.

use std::ffi::CString;
use std::ptr::null_mut;

use cryptoki_sys::*;
use xdr::codec::wipe;
use xdr::word_size::{narrow, wide};
use xdr::{
    AsyncResult, AttributesResult, CkRv, Data, Flags, FlagsResult, Info, InfoResult, Input,
    MechanismInfo, MechanismInfoResult, MechanismListResult, MechanismType, NullPlaces,
    ObjectHandle, ObjectListResult, ObjectResult, OutputResult, QueryPointer, Room, SessionHandle,
    SessionInfo, SessionInfoResult, SessionResult, SizeResult, SlotId, SlotInfo, SlotInfoResult,
    SlotListResult, State, TemplatePointer, TokenInfo, TokenInfoResult, Ulong, UserType, Version,
};

use super::{Functions, notify};
use crate::arguments::{Handle, Place, input};
use crate::outputs::{LONGEST_RANDOM, list, objects, zeros};
use crate::templates::{CTemplate, attribute_values};

/// Room in bytes for an output that does not grow with the input: a digest, a signature, a wrapped key. The original
/// has this much and no more.
pub(super) const FIXED_ROOM: usize = 16384;

impl Functions {
    pub(super) fn info(&self, nulls: NullPlaces) -> InfoResult {
        let mut info = Place::new(CK_INFO::default(), nulls.first);
        let rv = c!(self.C_GetInfo(info.as_ptr()));
        let info = info.value;
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
    pub(super) fn slot_list(&self, present: Ulong, room: Room) -> SlotListResult {
        let present = present.0 & u64::from(u32::MAX);
        let Ok(present) = CK_BBOOL::try_from(present) else {
            return SlotListResult {
                rv: CkRv::TOKEN_NOT_RECOGNIZED,
                ..Default::default()
            };
        };
        let list = list(room, |slots, count| {
            c!(self.C_GetSlotList(present, slots, count))
        });
        SlotListResult {
            rv: list.rv,
            slots: list.entries.into_iter().map(SlotId).collect(),
            count: list.count,
        }
    }

    pub(super) fn slot_info(&self, slot: SlotId, nulls: NullPlaces) -> SlotInfoResult {
        // There is no Default, because an array of 64 has none.
        let info = CK_SLOT_INFO {
            slotDescription: [0; 64],
            manufacturerID: [0; 32],
            flags: 0,
            hardwareVersion: CK_VERSION::default(),
            firmwareVersion: CK_VERSION::default(),
        };
        let mut info = Place::new(info, nulls.first);
        let rv = c!(self.C_GetSlotInfo(narrow(slot.0), info.as_ptr()));
        let info = info.value;
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

    pub(super) fn token_info(&self, slot: SlotId, nulls: NullPlaces) -> TokenInfoResult {
        let mut info = Place::new(CK_TOKEN_INFO::default(), nulls.first);
        let rv = c!(self.C_GetTokenInfo(narrow(slot.0), info.as_ptr()));
        let info = info.value;
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

    pub(super) fn mechanism_list(&self, slot: SlotId, room: Room) -> MechanismListResult {
        let list = list(room, |mechanisms, count| {
            c!(self.C_GetMechanismList(narrow(slot.0), mechanisms, count))
        });
        MechanismListResult {
            rv: list.rv,
            mechanisms: list.entries.into_iter().map(MechanismType).collect(),
            count: list.count,
        }
    }

    pub(super) fn mechanism_info(
        &self,
        slot: SlotId,
        mechanism: MechanismType,
        nulls: NullPlaces,
    ) -> MechanismInfoResult {
        let mut info = Place::new(CK_MECHANISM_INFO::default(), nulls.first);
        let rv = c!(self.C_GetMechanismInfo(narrow(slot.0), narrow(mechanism.0), info.as_ptr()));
        let info = info.value;
        MechanismInfoResult {
            rv,
            info: MechanismInfo {
                min_key_size: Ulong(wide(info.ulMinKeySize)),
                max_key_size: Ulong(wide(info.ulMaxKeySize)),
                flags: Flags(wide(info.flags)),
            },
        }
    }

    /// Version 3 has no NULL PIN. An empty PIN means NULL for a token with a keypad of its own, and is an error for any
    /// other. If the token's flags cannot be read, the PIN is passed as it was sent. A label that is not NULL has 32
    /// bytes for the module.
    pub(super) fn init_token(&self, slot: SlotId, so_pin: Input<'_>, label: Input<'_>) -> CkRv {
        let so_pin = match so_pin {
            Input::NullOrEmpty => match self.has_protected_path(slot) {
                Some(true) => Input::NULL,
                Some(false) => return CkRv::ARGUMENTS_BAD,
                None => so_pin,
            },
            so_pin => so_pin,
        };
        let (so_pin, length) = input(so_pin);
        let mut padded = padded_label(label.bytes());
        let label = match label {
            Input::Null { .. } => null_mut(),
            Input::NullOrEmpty | Input::Bytes(_) => padded.as_mut_ptr(),
        };
        c!(self.C_InitToken(narrow(slot.0), so_pin, length, label))
    }

    /// Treats an empty PIN of version 3 as `init_token` does, except that the error is the one that the original
    /// returns here.
    pub(super) fn init_pin(&self, session: SessionHandle, new: Input<'_>) -> CkRv {
        let new = match new {
            Input::NullOrEmpty => match self.session_has_protected_path(session) {
                Some(true) => Input::NULL,
                Some(false) => return CkRv::PIN_INVALID,
                None => new,
            },
            new => new,
        };
        let (new, length) = input(new);
        c!(self.C_InitPIN(narrow(session.0), new, length))
    }

    /// Treats two empty PINs as `init_pin` does; a single empty PIN goes to the module as it is.
    pub(super) fn set_pin(&self, session: SessionHandle, old: Input<'_>, new: Input<'_>) -> CkRv {
        let (old, new) = match (old, new) {
            (Input::NullOrEmpty, Input::NullOrEmpty) => {
                match self.session_has_protected_path(session) {
                    Some(true) => (Input::NULL, Input::NULL),
                    Some(false) => return CkRv::PIN_INVALID,
                    None => (old, new),
                }
            }
            pins => pins,
        };
        let (old, old_length) = input(old);
        let (new, new_length) = input(new);
        c!(self.C_SetPIN(narrow(session.0), old, old_length, new, new_length))
    }

    pub(super) fn session_has_protected_path(&self, session: SessionHandle) -> Option<bool> {
        let result = self.session_info(session, NullPlaces::NONE);
        result
            .rv
            .is_ok()
            .then_some(result.info.slot_id)
            .and_then(|slot| self.has_protected_path(slot))
    }

    pub(super) fn has_protected_path(&self, slot: SlotId) -> Option<bool> {
        let TokenInfoResult { rv, info } = self.token_info(slot, NullPlaces::NONE);
        let flag = narrow(info.flags.0) & CKF_PROTECTED_AUTHENTICATION_PATH;
        rv.is_ok().then_some(flag != 0)
    }

    /// Passes NULL for an empty PIN of version 3. The original passes an address, so its clients cannot use a token's
    /// own keypad.
    pub(super) fn login(
        &self,
        session: SessionHandle,
        user: UserType,
        user_pin: Input<'_>,
    ) -> CkRv {
        let (user_pin, length) = input(match user_pin {
            Input::NullOrEmpty => Input::NULL,
            user_pin => user_pin,
        });
        c!(self.C_Login(narrow(session.0), narrow(user.0), user_pin, length))
    }

    /// Opens a session. The application's pointer and callback exist only in its own process; `notify` says whether
    /// there is a callback. No session is asynchronous, because a module writes to the buffers of such a session after
    /// the call. A module older than 3.2 does not know the flag.
    pub(super) fn open_session(
        &self,
        slot: SlotId,
        flags: Flags,
        notify: bool,
        nulls: NullPlaces,
    ) -> SessionResult {
        let version = self.list.version;
        let knows_async = (version.major, version.minor) >= (3, 2);
        if knows_async && narrow(flags.0) & CKF_ASYNC_SESSION != 0 {
            return SessionResult {
                rv: CkRv::SESSION_ASYNC_NOT_SUPPORTED,
                ..Default::default()
            };
        }
        let (application, callback) = notify::callback(notify);
        let mut session = Place::new(CK_INVALID_HANDLE, nulls.first);
        let rv = c!(self.C_OpenSession(
            narrow(slot.0),
            narrow(flags.0),
            application,
            callback,
            session.as_ptr()
        ));
        let session = SessionHandle(if_ok(rv, session.value));
        if rv.is_ok() && !nulls.first {
            self.sessions.opened(session, slot);
        }
        SessionResult { rv, session }
    }

    pub(super) fn close_session(&self, session: SessionHandle) -> CkRv {
        let closing = self.sessions.those(|handle, _| handle == session);
        let rv = c!(self.C_CloseSession(narrow(session.0)));
        if rv.is_ok() {
            self.sessions.closed(closing);
        }
        rv
    }

    pub(super) fn close_all_sessions(&self, slot: SlotId) -> CkRv {
        let closing = self.sessions.those(|_, of| of == slot);
        let rv = c!(self.C_CloseAllSessions(narrow(slot.0)));
        if rv.is_ok() {
            self.sessions.closed(closing);
        }
        rv
    }

    pub(super) fn session_info(
        &self,
        session: SessionHandle,
        nulls: NullPlaces,
    ) -> SessionInfoResult {
        let mut info = Place::new(CK_SESSION_INFO::default(), nulls.first);
        let rv = c!(self.C_GetSessionInfo(narrow(session.0), info.as_ptr()));
        let info = info.value;
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
        mut template: TemplatePointer,
        nulls: NullPlaces,
    ) -> Result<ObjectResult, CkRv> {
        let mut template = CTemplate::new(&mut template)?;
        let mut object = Handle::new(nulls.first);
        let rv = c!(self.C_CreateObject(
            narrow(session.0),
            template.as_ptr(),
            template.count(),
            object.as_ptr()
        ));
        let object = object.written();
        Ok(ObjectResult { rv, object })
    }

    pub(super) fn copy_object(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        mut template: TemplatePointer,
        nulls: NullPlaces,
    ) -> Result<ObjectResult, CkRv> {
        let mut template = CTemplate::new(&mut template)?;
        let mut copy = Handle::new(nulls.first);
        let rv = c!(self.C_CopyObject(
            narrow(session.0),
            narrow(object.0),
            template.as_ptr(),
            template.count(),
            copy.as_ptr()
        ));
        let object = copy.written();
        Ok(ObjectResult { rv, object })
    }

    pub(super) fn object_size(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        nulls: NullPlaces,
    ) -> SizeResult {
        let mut size = Place::new(0, nulls.first);
        let rv = c!(self.C_GetObjectSize(narrow(session.0), narrow(object.0), size.as_ptr()));
        SizeResult {
            rv,
            size: Ulong(if_ok(rv, size.value)),
        }
    }

    pub(super) fn session_validation_flags(
        &self,
        session: SessionHandle,
        kind: Ulong,
        nulls: NullPlaces,
    ) -> FlagsResult {
        let mut flags = Place::new(0, nulls.first);
        let (session, kind) = (narrow(session.0), narrow(kind.0));
        let rv = c!(self.C_GetSessionValidationFlags(session, kind, flags.as_ptr()));
        FlagsResult {
            rv,
            flags: Flags(if_ok(rv, flags.value)),
        }
    }

    pub(super) fn attribute_value(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        query: QueryPointer,
    ) -> AttributesResult {
        attribute_values(query, |attributes, count| {
            c!(self.C_GetAttributeValue(narrow(session.0), narrow(object.0), attributes, count))
        })
    }

    pub(super) fn set_attribute_value(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        mut template: TemplatePointer,
    ) -> Result<CkRv, CkRv> {
        let mut template = CTemplate::new(&mut template)?;
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
        mut template: TemplatePointer,
    ) -> Result<CkRv, CkRv> {
        let mut template = CTemplate::new(&mut template)?;
        Ok(c!(self.C_FindObjectsInit(
            narrow(session.0),
            template.as_ptr(),
            template.count()
        )))
    }

    pub(super) fn find_objects(&self, session: SessionHandle, room: Room) -> ObjectListResult {
        let list = objects(room, |objects, room, number| {
            c!(self.C_FindObjects(narrow(session.0), objects, room, number))
        });
        ObjectListResult {
            rv: list.rv,
            objects: list.entries.into_iter().map(ObjectHandle).collect(),
            count: list.count,
        }
    }

    /// Asks for the result of a call of an asynchronous session. There are no such sessions, so a module answers an
    /// error. If one points to a result anyway, the reply is an error: that memory is the module's own, nothing is
    /// known about it, and it is not read.
    pub(super) fn async_complete(
        &self,
        session: SessionHandle,
        function: Input<'_>,
        nulls: NullPlaces,
    ) -> Result<AsyncResult, CkRv> {
        let function = text(function)?;
        let mut data = Place::new(CK_ASYNC_DATA::default(), nulls.first);
        let rv = c!(self.C_AsyncComplete(narrow(session.0), address(&function), data.as_ptr()));
        let data = data.value;
        if rv.is_ok() && !data.pValue.is_null() {
            log::error!("C_AsyncComplete returned a buffer of the module: refused");
            return Err(CkRv::GENERAL_ERROR);
        }
        Ok(AsyncResult {
            rv,
            length: Ulong(if_ok(rv, data.ulValue)),
            data: Data::new(),
            object: ObjectHandle(if_ok(rv, data.hObject)),
            additional_object: ObjectHandle(if_ok(rv, data.hAdditionalObject)),
        })
    }

    pub(super) fn async_id(
        &self,
        session: SessionHandle,
        function: Input<'_>,
        nulls: NullPlaces,
    ) -> Result<SizeResult, CkRv> {
        let function = text(function)?;
        let mut id = Place::new(0, nulls.first);
        let rv = c!(self.C_AsyncGetID(narrow(session.0), address(&function), id.as_ptr()));
        let size = Ulong(if_ok(rv, id.value));
        Ok(SizeResult { rv, size })
    }

    /// Passes no buffer: a module would write to it after the call.
    pub(super) fn async_join(
        &self,
        session: SessionHandle,
        function: Input<'_>,
        id: Ulong,
    ) -> Result<CkRv, CkRv> {
        let function = text(function)?;
        Ok(c!(self.C_AsyncJoin(
            narrow(session.0),
            address(&function),
            narrow(id.0),
            null_mut(),
            0
        )))
    }

    /// Refuses lengths over the limit. The original runs out of memory there and answers SYSTEM_ERR.
    pub(super) fn generate_random(&self, session: SessionHandle, room: Room) -> OutputResult {
        // Without a buffer, the function has no pointer that could tell a length.
        let (length, has_buffer) = match room {
            Room::Buffer(length) => (length, true),
            Room::Null { length } => (length, false),
            Room::NoLength | Room::Unbounded => (0, false),
        };
        let size = if has_buffer { length } else { 0 };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > LONGEST_RANDOM {
            return OutputResult {
                rv: CkRv::ARGUMENTS_BAD,
                ..Default::default()
            };
        }
        let Some(mut data) = zeros(size.max(1)) else {
            return OutputResult {
                rv: CkRv::HOST_MEMORY,
                ..Default::default()
            };
        };
        let place = match has_buffer {
            true => data.as_mut_ptr(),
            false => null_mut(),
        };
        let rv = c!(self.C_GenerateRandom(narrow(session.0), place, narrow(length)));
        if !rv.is_ok() {
            wipe(&mut data);
        }
        data.truncate(if rv.is_ok() { size } else { 0 });
        OutputResult {
            rv,
            length: Ulong(length),
            data: data.into(),
        }
    }
}

fn version(version: CK_VERSION) -> Version {
    Version::new(version.major, version.minor)
}

/// Returns the name of a function as a C string, or `None` for NULL. Refuses a name with a zero byte in it.
fn text(name: Input<'_>) -> Result<Option<CString>, CkRv> {
    match name {
        Input::Null { .. } => Ok(None),
        Input::NullOrEmpty | Input::Bytes(_) => {
            let text = CString::new(name.bytes()).map_err(|_| CkRv::ARGUMENTS_BAD)?;
            Ok(Some(text))
        }
    }
}

fn address(text: &Option<CString>) -> *mut CK_UTF8CHAR {
    let text = text.as_ref();
    text.map_or(null_mut(), |text| text.as_ptr().cast_mut().cast())
}

/// Returns a handle or a size; 0 if the call failed.
fn if_ok(rv: CkRv, number: CK_ULONG) -> u64 {
    if rv.is_ok() { wide(number) } else { 0 }
}

/// Pads a token's label with blanks to 32 bytes, or cuts it.
fn padded_label(label: &[u8]) -> [CK_UTF8CHAR; 32] {
    let mut padded = [b' '; 32];
    for (byte, value) in padded.iter_mut().zip(label) {
        *byte = *value;
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_a_label_with_blanks_and_cuts_it() {
        assert_eq!(&padded_label(b"gateway")[..9], b"gateway  ");
        assert_eq!(&padded_label(b"gate\0way")[..9], b"gate\0way ");
        assert_eq!(padded_label(&[b'x'; 40]), [b'x'; 32]);
        assert_eq!(padded_label(b""), [b' '; 32]);
    }
}
