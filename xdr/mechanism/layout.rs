//! Computes the offsets of a structure's fields in C, for any word size and pointer size.

use std::ops::Range;

use super::notation::{Field, Kind, Layout, Target};
use crate::word_size::Abi;

impl Layout {
    /// Returns where C puts each field: at the next multiple of its own alignment.
    pub(crate) fn places(
        &'static self,
        abi: Abi,
    ) -> impl Iterator<Item = (&'static Field, Range<usize>)> {
        self.fields.0.iter().scan(0_usize, move |end, field| {
            let start = end.next_multiple_of(abi.alignment(field.kind));
            *end = start + abi.size(field.kind);
            Some((field, start..*end))
        })
    }

    /// The size of the structure in bytes, its padding at the end included.
    pub(crate) fn size(&'static self, abi: Abi) -> usize {
        let end = self.places(abi).last().map_or(0, |(_, place)| place.end);
        let fields = self.fields.0.iter();
        let alignment = fields.map(|field| abi.alignment(field.kind)).max();
        end.next_multiple_of(alignment.unwrap_or(1))
    }

    /// Whether the structure itself has pointers.
    pub(crate) fn has_pointers(&self) -> bool {
        let mut fields = self.fields.0.iter();
        fields.any(|field| matches!(field.kind, Kind::Pointer(_)))
    }

    /// Whether the structure itself has handles of keys or certificates that the mechanism uses.
    pub(crate) fn names_keys(&self) -> bool {
        self.fields.0.iter().any(Field::names_key)
    }

    /// Returns where the structure itself has pointers.
    pub(crate) fn pointers(&'static self) -> impl Iterator<Item = Range<usize>> {
        self.places(Abi::HOST)
            .filter(|(field, _)| matches!(field.kind, Kind::Pointer(_)))
            .map(|(_, place)| place)
    }

    /// Returns where the structure has a pointer to a length. CK_PKCS5_PBKD2_PARAMS2 has the length itself at that
    /// place, and is as large as CK_PKCS5_PBKD2_PARAMS.
    pub(crate) fn pointers_to_lengths(&'static self) -> impl Iterator<Item = Range<usize>> {
        self.places(Abi::HOST)
            .filter(|(field, _)| field.kind == Kind::Pointer(Target::Length))
            .map(|(_, place)| place)
    }
}

impl Field {
    /// Whether the field is the handle of a key or certificate that the mechanism uses.
    pub(crate) fn names_key(&self) -> bool {
        self.kind == Kind::Key && self.direction == super::notation::Direction::In
    }
}

impl Abi {
    pub(crate) fn size(self, kind: Kind) -> usize {
        match kind {
            Kind::Number | Kind::Mechanism | Kind::Key | Kind::Length => self.word,
            Kind::Pointer(_) => self.pointer,
            Kind::Flag | Kind::Byte => 1,
            Kind::Bytes(size) => size,
        }
    }

    fn alignment(self, kind: Kind) -> usize {
        match kind {
            Kind::Flag | Kind::Byte | Kind::Bytes(_) => 1,
            _ if self.packed => 1,
            Kind::Number | Kind::Mechanism | Kind::Key | Kind::Length | Kind::Pointer(_) => {
                self.size(kind)
            }
        }
    }
}
