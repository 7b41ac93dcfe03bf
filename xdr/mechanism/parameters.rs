//! Looks up which structures a mechanism takes: those of the standard, and those of a site's `mechanisms.toml`.
//!
//! `build.rs` makes the standard's table from `xdr/mechanism_parameters.toml`. Client and daemon each read
//! `mechanisms.toml` and [`install`] it for the whole process. That file can add mechanisms; it cannot change those of
//! the standard.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use cryptoki_sys::CK_MECHANISM_TYPE;

use super::notation::{self, Layout, Name, Use};
use crate::integers::MechanismType;
use crate::mechanism_names;
use crate::word_size::{Abi, narrow};

#[deny(unreachable_patterns)] // a mechanism listed under two names
mod built_in {
    use super::super::notation::{
        Case, Direction, Extent, Field, Kind, Layout, List, Ref, Tag, Target, Use,
    };
    use cryptoki_sys::CK_MECHANISM_TYPE;

    include!(concat!(env!("OUT_DIR"), "/parameters.rs"));

    pub(super) fn structures() -> &'static [&'static Layout] {
        STRUCTURES
    }

    pub(super) fn of(mechanism: CK_MECHANISM_TYPE, usage: Use) -> &'static [&'static Layout] {
        built_in(mechanism, usage)
    }
}

/// Every structure of the standard.
pub fn structures() -> &'static [&'static Layout] {
    built_in::structures()
}

/// What a site's `mechanisms.toml` says.
#[derive(Clone, Debug, Default)]
pub struct VendorTable {
    rows: Vec<(u64, Use, Vec<&'static Layout>)>,
}

/// Why a table cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableError {
    file: String,
    mistake: notation::Mistake,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TableError { file, mistake } = self;
        write!(f, "{file}:{}: {}", mistake.line, mistake.message)
    }
}

impl std::error::Error for TableError {}

impl VendorTable {
    /// Reads the text of the file of this name. The name is used in errors only.
    pub fn parse(file: &str, text: &str) -> Result<VendorTable, TableError> {
        VendorTable::read(text).map_err(|mistake| TableError {
            file: file.to_owned(),
            mistake,
        })
    }

    fn read(text: &str) -> Result<VendorTable, notation::Mistake> {
        let mut rows: Vec<(u64, Use, Vec<&'static Layout>)> = Vec::new();
        for row in notation::parse(text, structures())? {
            for (line, usage, name) in row.mechanisms {
                let number = match name {
                    Name::Number(number) if !is_standard(number) => number,
                    Name::Number(number) => {
                        let message = format!("{number:#x} is a mechanism of the standard");
                        return Err(notation::Mistake { line, message });
                    }
                    Name::Standard(name) => {
                        let message =
                            format!("expected the number of a vendor's mechanism, found {name}");
                        return Err(notation::Mistake { line, message });
                    }
                };
                match rows
                    .iter_mut()
                    .find(|(other, other_use, _)| (*other, *other_use) == (number, usage))
                {
                    Some((_, _, layouts)) => {
                        let size = row.layout.size(Abi::HOST);
                        if let Some(other) = layouts.iter().find(|of| of.size(Abi::HOST) == size) {
                            let (name, other) = (row.layout.name, other.name);
                            let message = format!(
                                "{name} has the size of {other}, so nothing tells them apart"
                            );
                            return Err(notation::Mistake { line, message });
                        }
                        layouts.push(row.layout);
                    }
                    None => rows.push((number, usage, vec![row.layout])),
                }
            }
        }
        Ok(VendorTable { rows })
    }

    /// Returns the numbers of the mechanisms in the table, without repetition.
    pub fn mechanisms(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.rows.iter().map(|(number, _, _)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

fn is_standard(number: u64) -> bool {
    match CK_MECHANISM_TYPE::try_from(number) {
        Ok(mechanism) => mechanism_names::is_standard(mechanism),
        Err(_) => false,
    }
}

static VENDOR: RwLock<Option<Arc<VendorTable>>> = RwLock::new(None);

/// Makes the process use this table, in place of the one installed before.
pub fn install(table: VendorTable) {
    *VENDOR.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(table));
}

/// Returns the structures that the parameter of a mechanism may be in this use. If there is none for messages or for
/// wrapping, returns those of the other functions. If there is no structure at all, the parameter is a byte string such
/// as an IV, or there is no parameter, or the mechanism is unknown.
pub(crate) fn layouts(mechanism: MechanismType, usage: Use) -> Vec<&'static Layout> {
    let found = layouts_of_use(mechanism, usage);
    if found.is_empty() && usage != Use::Operation {
        return layouts_of_use(mechanism, Use::Operation);
    }
    found
}

fn layouts_of_use(mechanism: MechanismType, usage: Use) -> Vec<&'static Layout> {
    let found = built_in::of(narrow(mechanism.0), usage);
    if !found.is_empty() {
        return found.to_vec();
    }
    let vendor = VENDOR
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let rows = vendor.iter().flat_map(|table| &table.rows);
    rows.filter(|(number, of, _)| (*number, *of) == (mechanism.0, usage))
        .flat_map(|(_, _, layouts)| layouts.iter().copied())
        .collect()
}

/// Whether a parameter of this mechanism names keys or certificates.
pub(crate) fn name_keys(mechanism: MechanismType) -> bool {
    let mut uses = Use::ALL.iter();
    uses.any(|(usage, _)| {
        let layouts = layouts_of_use(mechanism, *usage);
        layouts.iter().any(|layout| layout.names_keys())
    })
}
