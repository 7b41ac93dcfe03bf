//! Builds numbers and the C structures of C_GetInfo, C_GetSlotInfo and the like from a reply.
//!
//! A number that does not fit into this host's CK_ULONG is an error, never another number. Text fields have a fixed
//! size in C. A shorter text is padded with blanks, a longer one is cut.

use cryptoki_sys::{
    CK_INFO, CK_MECHANISM_INFO, CK_SESSION_INFO, CK_SLOT_INFO, CK_TOKEN_INFO, CK_ULONG,
    CK_UNAVAILABLE_INFORMATION, CK_VERSION,
};
use xdr::word_size::{narrow, wide};
use xdr::{CkRv, Info, MechanismInfo, SessionInfo, SlotInfo, TokenInfo, Version};

/// Converts a number of the module to CK_ULONG. CKR_DEVICE_ERROR if it does not fit.
pub(crate) fn number(number: u64) -> Result<CK_ULONG, CkRv> {
    let narrowed = narrow(number);
    if wide(narrowed) == number {
        Ok(narrowed)
    } else {
        Err(CkRv::DEVICE_ERROR)
    }
}

/// Converts a number that may be CK_UNAVAILABLE_INFORMATION. A number that does not fit becomes that.
fn if_available(count: u64) -> CK_ULONG {
    number(count).unwrap_or(CK_UNAVAILABLE_INFORMATION)
}

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

pub(crate) fn info(info: &Info) -> Result<CK_INFO, CkRv> {
    Ok(CK_INFO {
        cryptokiVersion: version(&info.cryptoki_version),
        manufacturerID: text(&info.manufacturer_id),
        flags: number(info.flags.0)?,
        libraryDescription: text(&info.library_description),
        libraryVersion: version(&info.library_version),
    })
}

pub(crate) fn slot_info(info: &SlotInfo) -> Result<CK_SLOT_INFO, CkRv> {
    Ok(CK_SLOT_INFO {
        slotDescription: text(&info.slot_description),
        manufacturerID: text(&info.manufacturer_id),
        flags: number(info.flags.0)?,
        hardwareVersion: version(&info.hardware_version),
        firmwareVersion: version(&info.firmware_version),
    })
}

pub(crate) fn token_info(info: &TokenInfo) -> Result<CK_TOKEN_INFO, CkRv> {
    Ok(CK_TOKEN_INFO {
        label: text(&info.label),
        manufacturerID: text(&info.manufacturer_id),
        model: text(&info.model),
        serialNumber: text(&info.serial_number),
        flags: number(info.flags.0)?,
        ulMaxSessionCount: if_available(info.max_session_count.0),
        ulSessionCount: if_available(info.session_count.0),
        ulMaxRwSessionCount: if_available(info.max_rw_session_count.0),
        ulRwSessionCount: if_available(info.rw_session_count.0),
        ulMaxPinLen: if_available(info.max_pin_len.0),
        ulMinPinLen: if_available(info.min_pin_len.0),
        ulTotalPublicMemory: if_available(info.total_public_memory.0),
        ulFreePublicMemory: if_available(info.free_public_memory.0),
        ulTotalPrivateMemory: if_available(info.total_private_memory.0),
        ulFreePrivateMemory: if_available(info.free_private_memory.0),
        hardwareVersion: version(&info.hardware_version),
        firmwareVersion: version(&info.firmware_version),
        utcTime: text(&info.utc_time),
    })
}

pub(crate) fn session_info(info: &SessionInfo) -> Result<CK_SESSION_INFO, CkRv> {
    Ok(CK_SESSION_INFO {
        slotID: number(info.slot_id.0)?,
        state: number(info.state.0)?,
        flags: number(info.flags.0)?,
        ulDeviceError: number(info.device_error.0)?,
    })
}

pub(crate) fn mechanism_info(info: &MechanismInfo) -> Result<CK_MECHANISM_INFO, CkRv> {
    Ok(CK_MECHANISM_INFO {
        ulMinKeySize: number(info.min_key_size.0)?,
        ulMaxKeySize: number(info.max_key_size.0)?,
        flags: number(info.flags.0)?,
    })
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
