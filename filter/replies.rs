//! What a call answers that was refused, or made before a module is loaded: function by function,
//! every field of the result beside the CK_RV.

use xdr::{CkRv, Function, Reply, SlotId, Ulong};

/// The reply of a call that does not reach the module. Numbers are 0, byte strings and arrays empty
/// and versions 0.0 (the original sends the digits 0x30: DIFFERENCES.md), but for three numbers
/// that say "none" with all bits set.
pub fn refuse(function: Function, rv: CkRv) -> Reply {
    let mut reply = Reply::only(function, rv);
    match &mut reply {
        Reply::C_GetSessionInfo(result) => result.info.slot_id = SlotId::NONE,
        Reply::C_WaitForSlotEvent(result) => result.slot_id = SlotId::NONE,
        Reply::C_GetObjectSize(result) => result.size = Ulong::UNAVAILABLE,
        _ => {}
    }
    reply
}

/// The reply of a call made before C_LoadModule: C_Initialize fails, the others are not initialised.
pub fn no_module(function: Function) -> Reply {
    refuse(
        function,
        match function {
            Function::C_Initialize => CkRv::GENERAL_ERROR,
            _ => CkRv::CRYPTOKI_NOT_INITIALIZED,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_none_where_the_original_does() {
        let rv = CkRv::FUNCTION_NOT_SUPPORTED;
        let Reply::C_GetSessionInfo(session) = refuse(Function::C_GetSessionInfo, rv) else {
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
