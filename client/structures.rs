//! Fills the C structures of C_GetInfo, C_GetSlotInfo and the like from a reply.
//!
//! Text fields have a fixed size in C. A text that is shorter is padded with blanks, a longer one
//! is cut.

use cryptoki_sys::{
    CK_INFO, CK_MECHANISM_INFO, CK_SESSION_INFO, CK_SLOT_INFO, CK_TOKEN_INFO, CK_VERSION,
};
use xdr::word_size::narrow;
use xdr::{Info, MechanismInfo, SessionInfo, SlotInfo, TokenInfo, Version};

fn text<const SIZE: usize>(bytes: &[u8]) -> [u8; SIZE] {
    let mut field = [b' '; SIZE];
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
    field
}

fn version(version: &Version) -> CK_VERSION {
    CK_VERSION {
        major: version.major(),
        minor: version.minor(),
    }
}

pub(crate) fn info(info: &Info) -> CK_INFO {
    CK_INFO {
        cryptokiVersion: version(&info.cryptoki_version),
        manufacturerID: text(&info.manufacturer_id),
        flags: narrow(info.flags.0),
        libraryDescription: text(&info.library_description),
        libraryVersion: version(&info.library_version),
    }
}

pub(crate) fn slot_info(info: &SlotInfo) -> CK_SLOT_INFO {
    CK_SLOT_INFO {
        slotDescription: text(&info.slot_description),
        manufacturerID: text(&info.manufacturer_id),
        flags: narrow(info.flags.0),
        hardwareVersion: version(&info.hardware_version),
        firmwareVersion: version(&info.firmware_version),
    }
}

pub(crate) fn token_info(info: &TokenInfo) -> CK_TOKEN_INFO {
    CK_TOKEN_INFO {
        label: text(&info.label),
        manufacturerID: text(&info.manufacturer_id),
        model: text(&info.model),
        serialNumber: text(&info.serial_number),
        flags: narrow(info.flags.0),
        ulMaxSessionCount: narrow(info.max_session_count.0),
        ulSessionCount: narrow(info.session_count.0),
        ulMaxRwSessionCount: narrow(info.max_rw_session_count.0),
        ulRwSessionCount: narrow(info.rw_session_count.0),
        ulMaxPinLen: narrow(info.max_pin_len.0),
        ulMinPinLen: narrow(info.min_pin_len.0),
        ulTotalPublicMemory: narrow(info.total_public_memory.0),
        ulFreePublicMemory: narrow(info.free_public_memory.0),
        ulTotalPrivateMemory: narrow(info.total_private_memory.0),
        ulFreePrivateMemory: narrow(info.free_private_memory.0),
        hardwareVersion: version(&info.hardware_version),
        firmwareVersion: version(&info.firmware_version),
        utcTime: text(&info.utc_time),
    }
}

pub(crate) fn session_info(info: &SessionInfo) -> CK_SESSION_INFO {
    CK_SESSION_INFO {
        slotID: narrow(info.slot_id.0),
        state: narrow(info.state.0),
        flags: narrow(info.flags.0),
        ulDeviceError: narrow(info.device_error.0),
    }
}

pub(crate) fn mechanism_info(info: &MechanismInfo) -> CK_MECHANISM_INFO {
    CK_MECHANISM_INFO {
        ulMinKeySize: narrow(info.min_key_size.0),
        ulMaxKeySize: narrow(info.max_key_size.0),
        flags: narrow(info.flags.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fills_its_field_and_no_more() {
        assert_eq!(&text::<6>(b"HSM"), b"HSM   ");
        assert_eq!(&text::<3>(b"HSM and more"), b"HSM");
        assert_eq!(&text::<2>(b""), b"  ");
    }
}
