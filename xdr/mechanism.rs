//! Decodes mechanism parameters: the bytes of a client's C structure become typed values, once.
//!
//! Version 3 of the protocol carries a parameter as the bytes of the client's C structure. A
//! pointer in it is an address in the client's process; a module would read from that address in
//! ours. So the decoder turns the bytes into a [`Parameter`] at once, by the table in
//! [`parameter_layouts`](crate::parameter_layouts). No later layer interprets a layout: the filter
//! asks which keys a parameter names, and the client and `bindings` ask for the bytes of a C call.
//!
//! Only [`Mechanism::laid_out`] makes parameters that a module may get. It does not judge their
//! values; that is left to the module.

use std::borrow::Cow;

use crate::codec::{DecodeError, Decoder, Encoder, Wire};
use crate::integers::{Architecture, CkRv, MechanismType, ObjectHandle};
use crate::mechanism_names;
use crate::parameter_layouts::{self as layouts, Field, Layout};
use crate::word_size::{Abi, narrow};

/// A mechanism and its parameter: CK_MECHANISM. The two cannot be changed alone, because the type says
/// whether the bytes of the parameter can contain an address.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Mechanism {
    mechanism_type: MechanismType,
    parameter: Parameter,
}

/// The parameter of a mechanism.
#[derive(Clone, Default, Eq, PartialEq)]
pub enum Parameter {
    /// No parameter: a null pointer and a length of 0.
    #[default]
    None,
    /// Bytes that hold no address: a byte string such as an IV, or a structure of numbers whose
    /// size is not the standard's, which the module will judge.
    Bytes(PlainBytes),
    /// A structure of the standard.
    Structure(Structure),
    /// The parameter of a mechanism that is not in the standard. Only the site can know whether it
    /// holds an address (`flat_mechanisms`).
    Vendor(PlainBytes),
    /// Bytes that cannot be decoded, such as a structure with pointers whose size is not the
    /// standard's. They never reach a module.
    Unread(Vec<u8>),
}

/// Bytes that were decoded here. No other module can construct this type.
#[derive(Clone, Eq, PartialEq)]
pub struct PlainBytes(Vec<u8>);

/// A structure of the standard, field by field.
#[derive(Clone, Eq, PartialEq)]
pub struct Structure {
    layout: Layout,
    values: Vec<Value>,
}

/// The value of one field.
#[derive(Clone, Eq, PartialEq)]
enum Value {
    Number(u64),
    Handle(ObjectHandle),
    Bytes(Vec<u8>),
    /// A null pointer, or the length 0 that belongs to one.
    Null,
    /// A pointer that is not null, or its length: the data lies in the client's process, and
    /// version 3 cannot carry it.
    Elsewhere,
}

impl Mechanism {
    /// A mechanism without a parameter.
    pub fn bare(mechanism_type: MechanismType) -> Mechanism {
        Mechanism {
            mechanism_type,
            parameter: Parameter::None,
        }
    }

    /// A mechanism whose parameter is sent as these bytes, unchecked. They never reach a module here.
    pub fn unread(mechanism_type: MechanismType, parameter: Vec<u8>) -> Mechanism {
        Mechanism {
            mechanism_type,
            parameter: match parameter.is_empty() {
                true => Parameter::None,
                false => Parameter::Unread(parameter),
            },
        }
    }

    /// A mechanism whose parameter a client of this architecture laid out as these bytes.
    pub fn laid_out(
        mechanism_type: MechanismType,
        parameter: Vec<u8>,
        client: Architecture,
    ) -> Mechanism {
        Mechanism {
            mechanism_type,
            parameter: read(mechanism_type, parameter, Abi::candidates(client)),
        }
    }

    /// Which mechanism.
    pub fn mechanism_type(&self) -> MechanismType {
        self.mechanism_type
    }

    /// Its parameter.
    pub fn parameter(&self) -> &Parameter {
        &self.parameter
    }

    /// The handles of keys and certificates in the parameter; a handle of 0 means none. If the
    /// parameter could not be decoded and might name a key, the result is
    /// CKR_MECHANISM_PARAM_INVALID.
    pub fn named_keys(&self) -> Result<Vec<ObjectHandle>, CkRv> {
        match &self.parameter {
            Parameter::None => Ok(Vec::new()),
            Parameter::Structure(structure) => Ok(structure.handles().collect()),
            Parameter::Bytes(_) | Parameter::Vendor(_) | Parameter::Unread(_) => {
                if layouts::name_keys(narrow(self.mechanism_type.0)) {
                    Err(CkRv::MECHANISM_PARAM_INVALID)
                } else {
                    Ok(Vec::new())
                }
            }
        }
    }
}

/// Decodes a parameter, by the first of the client's possible layouts in which the structure has
/// this size.
fn read(mechanism_type: MechanismType, parameter: Vec<u8>, clients: &[Abi]) -> Parameter {
    if parameter.is_empty() {
        return Parameter::None;
    }
    let mechanism = narrow(mechanism_type.0);
    let known = layouts::of(mechanism);
    if known.is_empty() {
        return match mechanism_names::is_standard(mechanism) {
            true => Parameter::Bytes(PlainBytes(parameter)),
            false => Parameter::Vendor(PlainBytes(parameter)),
        };
    }
    let structure = |abi: &Abi| {
        let layout = layouts::of_size(parameter.len(), known, *abi)?;
        Some(Structure::read(&parameter, layout, *abi))
    };
    if let Some(structure) = clients.iter().find_map(structure) {
        return Parameter::Structure(structure);
    }
    if known.iter().any(|layout| layouts::has_pointers(layout)) {
        return Parameter::Unread(parameter);
    }
    // If the size fits this host's structure, the module will read the bytes as that structure.
    match structure(&Abi::HOST) {
        Some(structure) => Parameter::Structure(structure),
        None => Parameter::Bytes(PlainBytes(parameter)),
    }
}

impl Structure {
    fn read(bytes: &[u8], layout: Layout, abi: Abi) -> Structure {
        let value = |(field, place)| {
            let bytes = bytes.get(place).unwrap_or_default();
            match field {
                Field::Ulong => Value::Number(abi.read(bytes)),
                Field::Handle => Value::Handle(ObjectHandle(abi.read(bytes))),
                Field::Bytes(_) => Value::Bytes(bytes.to_vec()),
                Field::Length | Field::Pointer if bytes.iter().all(|byte| *byte == 0) => {
                    Value::Null
                }
                Field::Length | Field::Pointer => Value::Elsewhere,
            }
        };
        let values = layouts::places(layout, abi).map(value).collect();
        Structure { layout, values }
    }

    /// The bytes of the C structure. Numbers lose their upper half where words are shorter. `None`
    /// if the structure refers to data in the client's process.
    fn lay_out(&self, abi: Abi) -> Option<Vec<u8>> {
        let mut bytes = vec![0; layouts::size(self.layout, abi)];
        for ((_, place), value) in layouts::places(self.layout, abi).zip(&self.values) {
            let target = bytes.get_mut(place)?;
            match value {
                Value::Number(number) | Value::Handle(ObjectHandle(number)) => {
                    abi.write(*number, target);
                }
                Value::Bytes(value) => target.copy_from_slice(value),
                Value::Null => {}
                Value::Elsewhere => return None,
            }
        }
        Some(bytes)
    }

    fn handles(&self) -> impl Iterator<Item = ObjectHandle> {
        self.values.iter().filter_map(|value| match value {
            Value::Handle(handle) => Some(*handle),
            Value::Number(_) | Value::Bytes(_) | Value::Null | Value::Elsewhere => None,
        })
    }
}

impl Parameter {
    /// The bytes for a C call on this host. `is_flat` says that a vendor's parameter may pass: the
    /// site lists the mechanism as one without addresses, or the daemon will decide.
    ///
    /// The result is CKR_MECHANISM_PARAM_INVALID if a module could use bytes of a client as an
    /// address: the parameter could not be decoded, a pointer is not null, or its length is not 0.
    pub fn for_module(&self, is_flat: bool) -> Result<Cow<'_, [u8]>, CkRv> {
        match self {
            Parameter::Unread(_) => None,
            Parameter::Vendor(_) if !is_flat => None,
            Parameter::None
            | Parameter::Bytes(_)
            | Parameter::Structure(_)
            | Parameter::Vendor(_) => self.to_bytes(),
        }
        .ok_or(CkRv::MECHANISM_PARAM_INVALID)
    }

    /// The bytes on the wire. `None` if a structure refers to data in the client's process.
    pub(crate) fn to_bytes(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Parameter::None => Some(Cow::Borrowed(&[])),
            Parameter::Bytes(PlainBytes(bytes))
            | Parameter::Vendor(PlainBytes(bytes))
            | Parameter::Unread(bytes) => Some(Cow::Borrowed(bytes)),
            Parameter::Structure(structure) => structure.lay_out(Abi::HOST).map(Cow::Owned),
        }
    }
}

/// What a mechanism's parameter is for, which decides about its structure.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Use {
    /// An operation, or a key that is made.
    #[default]
    Operation,
    /// Messages: C_MessageEncryptInit, C_EncryptMessage and their kin.
    Message,
    /// C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated.
    AuthenticatedWrap,
}

/// What a module wrote into a mechanism's parameter.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Written(Vec<Vec<u8>>);

impl<'a> Wire<'a> for Written {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        match input.word()? {
            0 => Ok(Written::default()),
            _ => Err(DecodeError::Kind),
        }
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        output.word(0);
    }
}

impl<'a> Wire<'a> for Mechanism {
    fn read(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let mechanism_type = MechanismType::read(input)?;
        let _ = input.parameter_use();
        let parameter = input.opaque_copy()?;
        Ok(Mechanism::laid_out(
            mechanism_type,
            parameter,
            Architecture::host(),
        ))
    }

    fn write<'b>(&'b self, output: &mut Encoder<'b>) {
        self.mechanism_type.write(output);
        match self.parameter.to_bytes() {
            Some(Cow::Borrowed(bytes)) => output.opaque(bytes),
            Some(Cow::Owned(bytes)) => output.opaque_copy(&bytes),
            None => output.fail(),
        }
    }
}

#[cfg(test)]
mod tests {
    use cryptoki_sys::*;

    use super::*;
    use crate::mechanism_names::MECHANISMS;
    use crate::word_size::wide;

    const CLIENTS: [Architecture; 4] = [
        Architecture::LITTLE_64,
        Architecture::LITTLE_32,
        Architecture::BIG_64,
        Architecture::BIG_32,
    ];

    fn by_host(mechanism: CK_MECHANISM_TYPE, parameter: Vec<u8>) -> Mechanism {
        let mechanism = MechanismType(wide(mechanism));
        Mechanism::laid_out(mechanism, parameter, Architecture::host())
    }

    #[test]
    fn finds_the_keys_that_a_parameter_names() {
        let word = |number| narrow(number).to_ne_bytes().to_vec();
        let named = |kind, parameter| by_host(kind, parameter).named_keys();
        let key = Ok(vec![ObjectHandle(7)]);
        assert_eq!(named(CKM_CONCATENATE_BASE_AND_KEY, word(7)), key);
        let long = [word(7), word(8)].concat();
        let refused = Err(CkRv::MECHANISM_PARAM_INVALID);
        assert_eq!(named(CKM_CONCATENATE_BASE_AND_KEY, long), refused);
        assert_eq!(named(CKM_CONCATENATE_BASE_AND_KEY, vec![]), Ok(vec![]));
        assert_eq!(named(CKM_EXTRACT_KEY_FROM_KEY, word(7)), Ok(vec![]));
        let mut hkdf = vec![0; size_of::<CK_HKDF_PARAMS>()];
        let place = std::mem::offset_of!(CK_HKDF_PARAMS, hSaltKey);
        hkdf[place..place + word(7).len()].copy_from_slice(&word(7));
        assert_eq!(named(CKM_HKDF_DERIVE, hkdf.clone()), key);
        let mut gost = vec![0; size_of::<CK_GOSTR3410_KEY_WRAP_PARAMS>()];
        let place = std::mem::offset_of!(CK_GOSTR3410_KEY_WRAP_PARAMS, hKey);
        gost[place..place + word(7).len()].copy_from_slice(&word(7));
        assert_eq!(named(CKM_GOSTR3410_KEY_WRAP, gost), key);
        // Beside an address as well: which rule refuses first does not depend on it.
        hkdf[std::mem::offset_of!(CK_HKDF_PARAMS, pSalt)] = 1;
        assert_eq!(named(CKM_HKDF_DERIVE, hkdf), key);
    }

    /// Runs a parameter all the way to the C call.
    fn pass(mechanism: u64, parameter: Vec<u8>, client: Architecture) -> Option<Vec<u8>> {
        let mechanism = Mechanism::laid_out(MechanismType(mechanism), parameter, client);
        let passed = mechanism.parameter.for_module(false).ok()?;
        Some(passed.into_owned())
    }

    #[test]
    fn lets_no_byte_of_a_client_become_an_address() {
        for &(name, mechanism) in MECHANISMS {
            for client in CLIENTS {
                for length in 1..=256 {
                    let Some(passed) = pass(mechanism, vec![0x41; length], client) else {
                        continue;
                    };
                    for layout in layouts::of(narrow(mechanism)) {
                        for (field, place) in layouts::places(layout, Abi::HOST) {
                            let shown = passed.get(place).unwrap_or_default();
                            assert!(
                                field != Field::Pointer || shown.iter().all(|&byte| byte == 0),
                                "{name}, {length} bytes from {client:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// Each byte of each structure in turn: only those of numbers and IVs may be anything.
    #[test]
    fn refuses_every_byte_of_a_pointer_and_of_its_length() {
        for &(name, mechanism) in MECHANISMS {
            for client in CLIENTS {
                for (&layout, &abi) in layouts::of(narrow(mechanism))
                    .iter()
                    .flat_map(|layout| Abi::candidates(client).iter().map(move |abi| (layout, abi)))
                {
                    let null = vec![0; layouts::size(layout, abi)];
                    assert!(
                        pass(mechanism, null.clone(), client).is_some(),
                        "{name} {abi:?}"
                    );
                    for (field, place) in layouts::places(layout, abi) {
                        for position in place {
                            let mut parameter = null.clone();
                            parameter[position] = 0x41;
                            let passed = pass(mechanism, parameter, client);
                            let shows = matches!(field, Field::Pointer | Field::Length);
                            assert_eq!(passed.is_none(), shows, "{name} {abi:?} {position}");
                        }
                    }
                    let longer = pass(mechanism, vec![0; 300], client);
                    assert_eq!(
                        longer.is_none(),
                        layouts::has_pointers(layout),
                        "{name} {abi:?}"
                    );
                }
            }
        }
    }

    /// What a client of `from` laid out, as one of `to` would have.
    fn rebuilt(
        mechanism: CK_MECHANISM_TYPE,
        parameter: &[u8],
        from: Architecture,
        to: Abi,
    ) -> Vec<u8> {
        let mechanism = MechanismType(wide(mechanism));
        match Mechanism::laid_out(mechanism, parameter.to_vec(), from).parameter {
            Parameter::Structure(structure) => structure.lay_out(to).expect("nothing is elsewhere"),
            _ => panic!("no structure"),
        }
    }

    #[test]
    fn converts_numbers_between_every_two_architectures() {
        for (from, to) in CLIENTS
            .iter()
            .flat_map(|from| CLIENTS.map(|to| (*from, Abi::of_client(to))))
        {
            let lay_out = |abi: Abi| {
                let mut parameter = vec![0; abi.word * 5];
                for field in parameter.chunks_exact_mut(abi.word).take(3) {
                    abi.write(0x8765_4321, field);
                }
                parameter
            };
            let sent = lay_out(Abi::of_client(from));
            let rebuilt = rebuilt(CKM_RSA_PKCS_OAEP, &sent, from, to);
            assert_eq!(rebuilt, lay_out(to), "{from:?} {to:?}");
        }
    }

    #[test]
    fn converts_counters_and_leaves_their_blocks_alone() {
        let mut parameter = vec![0, 0, 0, 128];
        parameter.extend(0..16);
        let to = Abi::of_client(Architecture::LITTLE_64);
        let mut expected = vec![128, 0, 0, 0, 0, 0, 0, 0];
        expected.extend(0..16);
        let rebuilt = rebuilt(CKM_AES_CTR, &parameter, Architecture::BIG_32, to);
        assert_eq!(rebuilt, expected);
    }

    #[test]
    fn takes_the_packed_structures_of_a_windows_client() {
        let mut parameter = vec![0; 4 * 3 + 8 + 4];
        parameter[0] = 0x50; // CKM_SHA256 is 0x250
        parameter[1] = 0x02;
        let to = Abi::of_client(Architecture::LITTLE_64);
        let mut expected = vec![0; 40];
        expected[..2].copy_from_slice(&[0x50, 0x02]);
        let rebuilt = rebuilt(CKM_RSA_PKCS_OAEP, &parameter, Architecture::LITTLE_32, to);
        assert_eq!(rebuilt, expected);
    }

    #[test]
    fn passes_an_iv_and_a_number_of_any_length_for_the_module_to_judge() {
        for mechanism in [
            CKM_AES_CBC,
            CKM_AES_CTR,
            CKM_SHA_1_HMAC_GENERAL,
            CKM_DH_PKCS_DERIVE,
        ] {
            for length in [0, 1, 3, 8, 24, 300] {
                for client in CLIENTS {
                    let sent = vec![0x41; length];
                    let passed = pass(wide(mechanism), sent.clone(), client);
                    // A structure of another client is laid out anew.
                    let same = passed.as_ref().is_some_and(|passed| *passed == sent);
                    assert!(same || client != Architecture::host() && passed.is_some());
                }
            }
        }
    }

    #[test]
    fn refuses_the_parameter_of_an_unknown_mechanism_unless_it_is_flat() {
        let refused = Err(CkRv::MECHANISM_PARAM_INVALID);
        let judge = |mechanism, parameter: &[u8], is_flat| {
            let mechanism = by_host(narrow(mechanism), parameter.to_vec());
            mechanism.parameter.for_module(is_flat).map(Cow::into_owned)
        };
        for mechanism in [0x8000_0000, 0x8000_0001, 0x7fff_ffff, 0x1e] {
            assert_eq!(judge(mechanism, &[], false), Ok(vec![]));
            assert_eq!(judge(mechanism, &[0], false), refused);
            assert_eq!(judge(mechanism, &[0], true), Ok(vec![0]));
        }
        // A site's word does not open what the standard says is a pointer.
        assert_eq!(judge(wide(CKM_AES_GCM), &[0x41; 48], true), refused);
        assert_eq!(judge(wide(CKM_AES_GCM), &[0x41; 7], true), refused);
    }

    #[test]
    fn what_was_never_read_reaches_no_module() {
        let mechanism = Mechanism::unread(MechanismType(wide(CKM_AES_CBC)), vec![0; 16]);
        let refused = Err(CkRv::MECHANISM_PARAM_INVALID);
        assert!(mechanism.parameter.for_module(true) == refused);
    }
}
