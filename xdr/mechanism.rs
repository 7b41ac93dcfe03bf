//! Represents mechanisms with their parameters as typed values.
//!
//! Values come from a client's bytes of version 3 ([`Mechanism::laid_out`]), from the wire of version 4
//! (`wire`) or from the application's memory ([`Mechanism::from_memory`]). They are encoded for either
//! version, or become the memory of a C call ([`Mechanism::assemble`]). One table, [`parameters`], describes all
//! structures, so no later layer interprets a memory layout: the filter asks for the keys and fields of a parameter.
//!
//! No byte of a client becomes an address: a pointer is built only to data that is a value here. Whether the values are
//! acceptable is left to the module.

mod assembly;
mod fields;
mod layout;
mod memory;
mod notation;
pub mod parameters;
mod structure;
mod templates;
mod wire;
mod written;

use std::borrow::Cow;
use std::fmt;

pub use assembly::{Assembly, PointerPlace};
pub use fields::{FieldKind, FieldName, fields};
pub use memory::{Memory, OutputKind, OutputPlace};
pub use notation::Use;
pub use structure::{FieldValue, LookAtKey, Structure};
pub use written::{Change, Written};

use structure::{Secret, Value};

use crate::integers::{Architecture, CkRv, MechanismType, ObjectHandle};
use crate::mechanism_names;
use crate::templates::Template;
use crate::word_size::{Abi, narrow};

/// Upper bound on a parameter with everything that it refers to, in bytes.
pub const LONGEST_PARAMETER: usize = 1 << 20;

/// A mechanism and its parameter: CK_MECHANISM. The two cannot be changed alone, because the type says
/// whether the bytes of the parameter can contain an address.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Mechanism {
    mechanism_type: MechanismType,
    parameter: Parameter,
}

/// The parameter of a mechanism.
#[derive(Clone, Eq, PartialEq)]
pub enum Parameter {
    /// No parameter: a null pointer.
    None {
        /// The length beside it, normally 0.
        length: u64,
    },
    /// Bytes that contain no address: a byte string such as an IV, or a structure of numbers whose size is not the
    /// standard's, which the module will judge. There may be 0 bytes, at an address that is not null.
    Bytes(PlainBytes),
    /// A structure of the table.
    Structure(Structure),
    /// The parameter of a mechanism that is not in the table. Only the site can know whether it
    /// holds an address (`flat_mechanisms`).
    Vendor(PlainBytes),
    /// Bytes that cannot be decoded, such as a structure with pointers whose size is not the
    /// standard's. They never reach a module.
    Unread(Vec<u8>),
}

/// Bytes that were decoded here. No other module can construct this type.
#[derive(Clone, Eq, PartialEq)]
pub struct PlainBytes(Secret);

impl Default for Parameter {
    fn default() -> Parameter {
        Parameter::None { length: 0 }
    }
}

/// Prints the names of the mechanism and of the structure, and no value.
impl fmt::Debug for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mechanism = mechanism_names::printed(self.mechanism_type.0);
        write!(f, "{mechanism}, {:?}", self.parameter)
    }
}

/// Prints the kind, the length or the name, and no value.
impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Parameter::None { length } => write!(f, "NULL with length {length}"),
            Parameter::Bytes(bytes) => write!(f, "{} bytes", bytes.0.len()),
            Parameter::Structure(structure) => f.write_str(structure.name()),
            Parameter::Vendor(bytes) => write!(f, "{} bytes, not in the table", bytes.0.len()),
            Parameter::Unread(bytes) => write!(f, "{} bytes, not decoded", bytes.len()),
        }
    }
}

impl Mechanism {
    /// A mechanism without a parameter.
    pub fn bare(mechanism_type: MechanismType) -> Mechanism {
        Mechanism {
            mechanism_type,
            parameter: Parameter::default(),
        }
    }

    /// Makes a mechanism that takes no parameter, called with a parameter that was not read: `Ok` has its length, `Err`
    /// the length beside NULL. The module gets zeros instead. A parameter of more than [`LONGEST_PARAMETER`] bytes
    /// becomes NULL with that length.
    pub fn unseen(mechanism_type: MechanismType, length: Result<u64, u64>) -> Mechanism {
        let parameter = match length {
            Ok(length) if length <= LONGEST_PARAMETER as u64 => {
                let length = usize::try_from(length).unwrap_or_default();
                Parameter::Bytes(PlainBytes(vec![0; length].into()))
            }
            Ok(length) | Err(length) => Parameter::None { length },
        };
        Mechanism {
            mechanism_type,
            parameter,
        }
    }

    /// A mechanism whose parameter is sent as these bytes, unchecked. They never reach a module here.
    pub fn unread(mechanism_type: MechanismType, parameter: Vec<u8>) -> Mechanism {
        Mechanism {
            mechanism_type,
            parameter: match parameter.is_empty() {
                true => Parameter::default(),
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

    /// Whether version 3 can express its parameter's structure. Version 3 treats every structure as one of
    /// [`Use::Operation`].
    pub fn is_of_version3(&self) -> bool {
        match &self.parameter {
            Parameter::Structure(structure) => {
                let known = parameters::layouts(self.mechanism_type, Use::Operation);
                known.contains(&structure.layout)
            }
            Parameter::None { .. }
            | Parameter::Bytes(_)
            | Parameter::Vendor(_)
            | Parameter::Unread(_) => true,
        }
    }

    /// Its parameter.
    pub fn parameter(&self) -> &Parameter {
        &self.parameter
    }

    /// The handles of keys and certificates in the parameter; a handle of 0 means none. If the
    /// parameter could not be decoded and might name a key, the result is
    /// CKR_MECHANISM_PARAM_INVALID.
    pub fn named_keys(&self) -> Result<Vec<ObjectHandle>, CkRv> {
        let mut found = Vec::new();
        match &self.parameter {
            Parameter::None { .. } => {}
            Parameter::Structure(structure) => structure.collect_handles(&mut found)?,
            Parameter::Bytes(_) | Parameter::Vendor(_) | Parameter::Unread(_) => {
                if parameters::name_keys(self.mechanism_type) {
                    return Err(CkRv::MECHANISM_PARAM_INVALID);
                }
            }
        }
        Ok(found)
    }

    /// Passes each of these handles to `look`, which may change it, except those that are 0.
    pub fn each_key_mut(&mut self, look: &mut LookAtKey<'_>) -> Result<(), CkRv> {
        self.named_keys()?;
        match &mut self.parameter {
            Parameter::Structure(structure) => structure.each_key_mut(look),
            Parameter::None { .. }
            | Parameter::Bytes(_)
            | Parameter::Vendor(_)
            | Parameter::Unread(_) => Ok(()),
        }
    }

    /// The mechanisms inside of the parameter, at any depth: those of CK_KIP_PARAMS and CK_CMS_SIG_PARAMS.
    pub fn inner_mechanisms(&self) -> Vec<&Mechanism> {
        let mut found = Vec::new();
        self.parameter.each_value(&mut |value| {
            if let Value::Mechanism(mechanism) = value {
                found.push(&**mechanism);
            }
        });
        found
    }

    /// The templates inside of the parameter, at any depth: those of keys that CKM_SP800_108 mechanisms
    /// derive in addition.
    pub fn inner_templates(&self) -> Vec<&Template> {
        let mut found = Vec::new();
        self.parameter.each_value(&mut |value| {
            if let Value::Template(template) = value {
                found.push(template);
            }
        });
        found
    }
}

/// Decodes a parameter, by the first of the client's possible layouts in which the structure has
/// this size. Version 3 has no functions of messages.
fn read(mechanism_type: MechanismType, parameter: Vec<u8>, clients: &[Abi]) -> Parameter {
    if parameter.is_empty() {
        return Parameter::default();
    }
    let parameter = Secret::new(parameter);
    let known = parameters::layouts(mechanism_type, Use::Operation);
    if known.is_empty() {
        return match mechanism_names::is_standard(narrow(mechanism_type.0)) {
            true => Parameter::Bytes(PlainBytes(parameter)),
            false => Parameter::Vendor(PlainBytes(parameter)),
        };
    }
    let structure = |abi: &Abi| {
        let mut known = known.iter();
        let layout = known.find(|layout| layout.size(*abi) == parameter.len())?;
        Some(Structure::read(&parameter, layout, *abi))
    };
    if let Some(structure) = clients.iter().find_map(structure) {
        return Parameter::Structure(structure);
    }
    if known.iter().any(|layout| layout.has_pointers()) {
        return Parameter::Unread(parameter.to_vec());
    }
    // If the size fits this host's structure, the module will read the bytes as that structure.
    match structure(&Abi::HOST) {
        Some(structure) => Parameter::Structure(structure),
        None => Parameter::Bytes(PlainBytes(parameter)),
    }
}

impl Parameter {
    /// A field of the structure by its name in C, such as `ulTagBits`. A dot leads into a structure that
    /// a pointer refers to: `pOAEPParams.hashAlg`. `None` if there is no such field, or no structure.
    pub fn field(&self, path: &str) -> Option<FieldValue<'_>> {
        match self {
            Parameter::Structure(structure) => structure.field(path),
            Parameter::None { .. }
            | Parameter::Bytes(_)
            | Parameter::Vendor(_)
            | Parameter::Unread(_) => None,
        }
    }

    /// Passes every value to `look`, those behind pointers included.
    fn each_value<'a>(&'a self, look: &mut dyn FnMut(&'a Value)) {
        if let Parameter::Structure(structure) = self {
            structure.each_value(look);
        }
    }

    /// The bytes of the C structure on this host, for a version 3 daemon. `is_flat` says that a vendor's
    /// parameter may pass: the site lists the mechanism as one without addresses, or the daemon will
    /// decide.
    ///
    /// The result is CKR_MECHANISM_PARAM_INVALID if the bytes would hold an address, or the length of
    /// data that version 3 cannot carry: the parameter could not be decoded, a pointer is not null, or
    /// its length is not 0.
    pub fn for_module(&self, is_flat: bool) -> Result<Cow<'_, [u8]>, CkRv> {
        match self {
            Parameter::Unread(_) => None,
            Parameter::Vendor(_) if !is_flat => None,
            Parameter::None { .. }
            | Parameter::Bytes(_)
            | Parameter::Structure(_)
            | Parameter::Vendor(_) => self.to_bytes(),
        }
        .ok_or(CkRv::MECHANISM_PARAM_INVALID)
    }

    /// The bytes on the wire of version 3. `None` if a structure refers to data.
    pub(crate) fn to_bytes(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Parameter::None { .. } => Some(Cow::Borrowed(&[])),
            Parameter::Bytes(PlainBytes(bytes)) | Parameter::Vendor(PlainBytes(bytes)) => {
                Some(Cow::Borrowed(bytes))
            }
            Parameter::Unread(bytes) => Some(Cow::Borrowed(bytes)),
            Parameter::Structure(structure) => structure.lay_out(Abi::HOST).map(Cow::Owned),
        }
    }
}

#[cfg(test)]
mod tests;
