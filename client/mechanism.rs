//! Decides which mechanism parameters are read from memory, and which go to a daemon of version 3. Logs those that are
//! refused.
//!
//! Unlike the original, it never changes the application's CK_MECHANISM.

use xdr::{Call, CkRv, Function, Mechanism, MechanismType, Parameter};

/// The longest parameter that is sent in version 3, in bytes, as in the original.
const LONGEST_PARAMETER: usize = 2048;

/// Returns whether the mechanism takes no parameter: RSA PKCS, 9796, X.509 and X9.31 with and without a hash, and DSA.
/// Some applications pass garbage there; it is not read, as in the original. Version 4 transmits whether there is a
/// parameter, and its length.
pub(crate) fn is_parameterless(mechanism: MechanismType) -> bool {
    matches!(mechanism.0, 1..=8 | 0xb | 0xc | 0x11 | 0x12 | 0x40..=0x42 | 0x46)
}

/// Logs that a parameter is refused by this library. None of its bytes is logged.
pub(crate) fn log_refused(function: Function, mechanism: MechanismType, rv: CkRv) {
    log::error!(
        "{}: refused with {rv}: the parameter of {} cannot be sent to the daemon",
        function.name(),
        xdr::mechanism_names::printed(mechanism.0)
    );
}

/// Refuses what version 3 cannot carry, and drops the parameters that the original's client drops. The parameter of a
/// mechanism that is not in the standard is sent: the daemon refuses it unless its configuration (`flat_mechanisms`)
/// says that the parameter contains no address.
pub(crate) fn prepare_version3(call: &mut Call<'_>) -> Result<(), CkRv> {
    let function = call.function();
    let Some(mechanism) = call.mechanism_mut() else {
        return Ok(());
    };
    let mechanism_type = mechanism.mechanism_type();
    if is_parameterless(mechanism_type) {
        *mechanism = Mechanism::bare(mechanism_type);
        return Ok(());
    }
    check_version3(mechanism).inspect_err(|rv| log_refused(function, mechanism_type, *rv))
}

/// Refuses a parameter that contains an address in this process, one that is too long, and NULL with a length.
fn check_version3(mechanism: &Mechanism) -> Result<(), CkRv> {
    if !mechanism.is_of_version3() {
        return Err(CkRv::MECHANISM_PARAM_INVALID);
    }
    let length = match mechanism.parameter() {
        Parameter::None { length } => *length,
        parameter => parameter.for_module(true)?.len() as u64,
    };
    match (mechanism.parameter(), length) {
        (_, length) if length > LONGEST_PARAMETER as u64 => Err(CkRv::MECHANISM_PARAM_INVALID),
        (Parameter::None { .. }, 1..) => Err(CkRv::ARGUMENTS_BAD),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use xdr::Use;
    use xdr::mechanism::Memory;

    use super::*;

    /// The original's client drops the parameters of exactly these mechanisms.
    #[test]
    fn the_mechanisms_without_parameter_are_the_originals() {
        let none: Vec<u64> = (0..0x2000)
            .filter(|number| is_parameterless(MechanismType(*number)))
            .collect();
        let listed = [
            1, 2, 3, 4, 5, 6, 7, 8, 0xb, 0xc, 0x11, 0x12, 0x40, 0x41, 0x42, 0x46,
        ];
        assert_eq!(none, listed);
    }

    /// Memory with a parameter at one address; all other bytes are 0.
    struct At<'a>(&'a [u8]);

    const ADDRESS: usize = 0x1000;

    impl Memory for At<'_> {
        fn read(&self, address: usize, length: usize) -> Result<Vec<u8>, CkRv> {
            match address {
                ADDRESS => Ok(self.0[..length].to_vec()),
                _ => Ok(vec![0; length]),
            }
        }
    }

    /// An IV, PSS parameters, a vendor's parameter, and OAEP parameters without a label are sent.
    #[test]
    fn parameters_with_addresses_are_refused() {
        let check = |mechanism, parameter: &[u8]| {
            let (address, length) = (ADDRESS, parameter.len());
            let memory = At(parameter);
            let mechanism = MechanismType(mechanism);
            Mechanism::from_memory(mechanism, address, length, Use::Operation, &memory)
                .and_then(|(mechanism, _)| check_version3(&mechanism))
                .map_err(|rv| rv.0)
        };
        let word = size_of::<std::ffi::c_ulong>();
        let oaep = |pointer: u8, length: u8| {
            let mut parameter = vec![0; 5 * word];
            parameter[3 * word] = pointer;
            parameter[4 * word] = length;
            parameter
        };
        assert_eq!(check(0x1082, &[1; 16]), Ok(())); // CKM_AES_CBC
        assert_eq!(check(0xd, &vec![1; 3 * word]), Ok(())); // CKM_RSA_PKCS_PSS
        assert_eq!(check(0x8000_1234, &[1; 24]), Ok(()));
        assert_eq!(check(0x8000_1234, &[1; 2048]), Ok(()));
        assert_eq!(check(0x8000_1234, &[1; 2049]), Err(0x71));
        assert_eq!(check(9, &oaep(0, 0)), Ok(())); // CKM_RSA_PKCS_OAEP
        for parameter in [oaep(1, 1), oaep(1, 0), oaep(0, 1), vec![0; 7]] {
            assert_eq!(check(9, &parameter), Err(0x71));
        }
    }

    #[test]
    fn null_with_a_length_is_a_bad_argument() {
        let check = |mechanism, length| {
            let mechanism = MechanismType(mechanism);
            let read = Mechanism::from_memory(mechanism, 0, length, Use::Operation, &At(&[]));
            read.and_then(|(mechanism, _)| check_version3(&mechanism))
        };
        assert_eq!(check(0x1082, 0), Ok(()));
        assert_eq!(check(0x1082, 16), Err(CkRv::ARGUMENTS_BAD));
        assert_eq!(check(0x1082, 2049), Err(CkRv::MECHANISM_PARAM_INVALID));
    }

    #[test]
    fn version_3_carries_no_parameter_for_a_mechanism_that_takes_none() {
        let pkcs = MechanismType(1);
        for length in [Ok(0), Ok(99), Ok(1 << 20), Err(0), Err(99)] {
            let mechanism = Some(Mechanism::unseen(pkcs, length));
            let mut call = Call::C_DigestInit(xdr::SessionHandle(1), mechanism);
            assert_eq!(prepare_version3(&mut call), Ok(()));
            assert!(call.mechanism() == Some(&Mechanism::bare(pkcs)));
        }
    }
}
