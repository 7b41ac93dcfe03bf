//! Builds the reply to a refused call, field by field, for each function.

use xdr::{CkRv, Function, Reply, SlotId, Ulong};

/// Builds the reply to a call that was refused. Numbers are 0, byte strings and arrays are empty, and versions are 0.0
/// (the original sends the digits 0x30: DIFFERENCES.md). In three numbers all bits are set, which means "none".
pub fn refused(function: Function, rv: CkRv) -> Reply {
    let mut reply = Reply::only(function, rv);
    if let Reply::C_GetSessionInfo(result) = &mut reply {
        result.info.slot_id = SlotId::NONE;
    } else if let Reply::C_WaitForSlotEvent(result) = &mut reply {
        result.slot_id = SlotId::NONE;
    } else if let Reply::C_GetObjectSize(result) = &mut reply {
        result.size = Ulong::UNAVAILABLE;
    }
    reply
}

/// Builds the reply to a call made before C_LoadModule: C_Initialize fails, and all others return that the library is
/// not initialized.
pub fn no_module(function: Function) -> Reply {
    let rv = if function == Function::C_Initialize {
        CkRv::GENERAL_ERROR
    } else {
        CkRv::CRYPTOKI_NOT_INITIALIZED
    };
    refused(function, rv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_none_where_the_original_does() {
        let rv = CkRv::FUNCTION_NOT_SUPPORTED;
        let Reply::C_GetSessionInfo(session) = refused(Function::C_GetSessionInfo, rv) else {
            panic!("another function's reply");
        };
        assert_eq!((session.rv, session.info.slot_id.0), (rv, u64::MAX));
        assert_eq!(no_module(Function::C_Initialize).rv(), CkRv::GENERAL_ERROR);
        for function in Function::ALL
            .iter()
            .filter(|f| **f != Function::C_Initialize)
        {
            assert_eq!(no_module(*function).rv(), CkRv::CRYPTOKI_NOT_INITIALIZED);
        }
    }
}
