//! Decides which mechanism parameters are sent to the daemon.
//!
//! Works on a copy. The application's CK_MECHANISM, which the original changes, stays as it is.

use xdr::{Architecture, CkRv, Mechanism, MechanismType};

/// The longest parameter sent, in bytes, as in the original.
pub(crate) const LONGEST_PARAMETER: usize = 2048;

/// Whether the mechanism takes no parameter: RSA PKCS, 9796, X.509 and X9.31 with and without a hash,
/// and DSA. Some applications pass garbage there; it is ignored, as in the original.
pub(crate) fn is_parameterless(mechanism: MechanismType) -> bool {
    matches!(mechanism.0, 1..=8 | 0xb | 0xc | 0x11 | 0x12 | 0x40..=0x42 | 0x46)
}

/// The mechanism with its parameter as it is sent. Refuses a parameter that holds an address in this
/// process. The parameter of a mechanism that is not in the standard is sent: the daemon refuses it
/// unless its configuration (`flat_mechanisms`) says that it holds no address.
pub(crate) fn crossing(
    mechanism_type: MechanismType,
    parameter: Vec<u8>,
) -> Result<Mechanism, CkRv> {
    let mechanism = Mechanism::laid_out(mechanism_type, parameter, Architecture::host());
    mechanism.parameter().for_module(true)?;
    Ok(mechanism)
}

#[cfg(test)]
mod tests {
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

    /// An IV, PSS parameters and a vendor's parameter pass, and OAEP parameters without a label.
    #[test]
    fn parameters_with_addresses_are_refused() {
        let check = |mechanism, parameter: &[u8]| {
            crossing(MechanismType(mechanism), parameter.to_vec())
                .map(drop)
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
        assert_eq!(check(9, &oaep(0, 0)), Ok(())); // CKM_RSA_PKCS_OAEP
        for parameter in [oaep(1, 1), oaep(1, 0), oaep(0, 1), vec![0; 7]] {
            assert_eq!(check(9, &parameter), Err(0x71));
        }
    }
}
