//! Parses the table of mechanism parameters: structures, their fields, and the mechanisms that take them.
//!
//! The text comes from `xdr/mechanism_parameters.toml` at build time, when `build.rs` turns it into static data by
//! printing these types. At run time it comes from a site's `mechanisms.toml`. `docs/mechanisms.md` describes the
//! notation. This file and those in `notation` are compiled into both programs, so they use nothing else of the crate.
//! It knows no sizes or addresses; those are in [`layout`](super::layout).

use std::fmt;

#[path = "notation/kinds.rs"]
mod kinds;
#[path = "notation/rows.rs"]
mod rows;
#[path = "notation/sections.rs"]
mod sections;

/// Declares an enum that prints as the Rust expression for it, so that `build.rs` can write it down.
macro_rules! printable {
    ($(#[$attribute:meta])* pub enum $name:ident {
        $($(#[$doc:meta])* $variant:ident $(($($field:ident: $type:ty),*))?,)*
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Eq, PartialEq)]
        pub enum $name {
            $($(#[$doc])* $variant $(($($type),*))?,)*
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($name::$variant $(($($field),*))? => f
                        .debug_tuple(concat!(stringify!($name), "::", stringify!($variant)))
                        $($(.field($field))*)?
                        .finish(),)*
                }
            }
        }
    };
}

/// A C structure that a mechanism parameter consists of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    /// The name of the C type.
    pub name: &'static str,
    /// Its fields, in the order of C. The fields of a nested structure stand in its place.
    pub fields: List<Field>,
}

/// One field of a C structure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Field {
    /// The name in C.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Who writes it, or the data that it points to.
    pub direction: Direction,
}

printable! {
    /// Who writes a field, or the data that it points to.
    pub enum Direction {
        /// The application.
        In,
        /// The module: only the room for it is sent.
        Out,
        /// The application, and then the module.
        InOut,
    }
}

printable! {
    /// What a field is.
    pub enum Kind {
        /// A CK_ULONG.
        Number,
        /// A CK_MECHANISM_TYPE.
        Mechanism,
        /// The handle of a key or certificate.
        Key,
        /// A CK_ULONG that is the length of what a pointer refers to.
        Length,
        /// A CK_BBOOL.
        Flag,
        /// A CK_BYTE.
        Byte,
        /// This many bytes in their own order, such as an IV.
        Bytes(size: usize),
        /// An address.
        Pointer(target: Target),
    }
}

printable! {
    /// What a pointer refers to.
    pub enum Target {
        /// Bytes of a length that the standard does not state.
        Unknown,
        /// Nothing: the standard says that the pointer is ignored, so it may be anything.
        Ignored,
        /// Bytes.
        Bytes(extent: Extent),
        /// Bytes up to a zero.
        Text,
        /// One CK_ULONG.
        Number,
        /// One CK_ULONG, the length of what another pointer refers to.
        Length,
        /// One handle of a key.
        Key,
        /// One structure.
        Structure(of: Ref),
        /// An array of structures. The field with this index is the number of its elements.
        Structures(of: Ref, count: usize),
        /// A CK_MECHANISM.
        Mechanism,
        /// An array of CK_ATTRIBUTE. The field with this index is the number of its elements.
        Template(count: usize),
        /// Bytes, or something else if another field has certain values.
        Tagged(tag: Tag),
    }
}

/// A pointer whose target depends on the value of another field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tag {
    /// The index of the field that tells the target.
    pub field: usize,
    /// The index of the field with the target's length in bytes.
    pub length: usize,
    /// What the pointer refers to, for some values of the field. For all others: bytes.
    pub cases: List<(u64, Case)>,
}

printable! {
    /// A target that depends on another field.
    pub enum Case {
        /// One CK_ULONG.
        Number,
        /// One handle of a key.
        Key,
        /// One structure of numbers.
        Structure(of: Ref),
    }
}

printable! {
    /// How long the bytes are that a pointer refers to.
    pub enum Extent {
        /// Always this many bytes.
        Fixed(size: usize),
        /// The field with this index is the number of bytes.
        Bytes(field: usize),
        /// The field with this index is the number of bits.
        Bits(field: usize),
        /// The field with this index points to the number of bytes.
        Pointee(field: usize),
        /// The field of this name, in the structure that points to this one, is the number of bits.
        OuterBits(name: &'static str),
    }
}

/// A slice that prints as the Rust expression for it.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct List<T: 'static>(pub &'static [T]);

impl<T: fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "List(&{:?})", self.0)
    }
}

/// A structure that prints as a reference to a static of its name.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Ref(pub &'static Layout);

impl fmt::Debug for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ref(&{})", self.0.name)
    }
}

/// The kind of function that a structure is the parameter of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// Every function that is not listed below.
    Operation,
    /// C_MessageEncryptInit, C_EncryptMessage and the other functions of messages.
    Message,
    /// C_WrapKey, C_UnwrapKey, C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated.
    Wrap,
}

impl Use {
    /// Every use, with the key that lists its mechanisms in the table.
    pub const ALL: [(Use, &'static str); 3] = [
        (Use::Operation, "mechanisms"),
        (Use::Message, "message_mechanisms"),
        (Use::Wrap, "wrap_mechanisms"),
    ];

    /// The key that lists its mechanisms in the table.
    pub fn key(self) -> &'static str {
        let row = Use::ALL.iter().find(|(usage, _)| *usage == self);
        row.map_or("", |(_, key)| key)
    }
}

/// A mechanism as the table names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Name {
    /// A name of the standard, such as CKM_AES_GCM.
    Standard(String),
    /// A number, for a vendor's mechanism.
    Number(u64),
}

/// One structure of the table, and the mechanisms that take it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The structure.
    pub layout: &'static Layout,
    /// Which mechanisms take it, each with the line that says so.
    pub mechanisms: Vec<(usize, Use, Name)>,
}

/// What is wrong with a table, and in which line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mistake {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

fn mistake<T>(line: usize, message: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake {
        line,
        message: message.into(),
    })
}

/// How deep structures may point to each other, templates and mechanisms included.
pub const DEEPEST: usize = 4;

/// Upper bound on the fields of a structure.
pub const MOST_FIELDS: usize = 64;

/// Upper bound on the length of a name, in bytes.
pub const LONGEST_NAME: usize = 64;

/// Reads a table. `known` are structures that it may refer to without declaring them.
///
/// The structures live until the end of the process: a parameter refers to its structure, and tables
/// are few.
pub fn parse(text: &str, known: &[&'static Layout]) -> Result<Vec<Row>, Mistake> {
    let mut rows: Vec<Row> = Vec::new();
    for section in sections::read(text)? {
        let row = section.row(known, &rows)?;
        rows.push(row);
    }
    Ok(rows)
}

impl Layout {
    /// Returns how many levels of structures, templates and mechanisms there are, the structure itself included.
    pub fn depth(&self) -> usize {
        let below = |field: &Field| match field.kind.target() {
            Some(Target::Structure(Ref(inner)) | Target::Structures(Ref(inner), _)) => {
                inner.depth()
            }
            Some(Target::Tagged(tag)) => {
                let depths = tag.cases.0.iter().map(|(_, case)| match case {
                    Case::Structure(Ref(inner)) => inner.depth(),
                    Case::Number | Case::Key => 0,
                });
                depths.max().unwrap_or(0)
            }
            Some(Target::Mechanism | Target::Template(_)) => 1,
            Some(
                Target::Unknown
                | Target::Ignored
                | Target::Bytes(_)
                | Target::Text
                | Target::Number
                | Target::Length
                | Target::Key,
            )
            | None => 0,
        };
        1 + self.fields.0.iter().map(below).max().unwrap_or(0)
    }
}

impl Kind {
    /// What it points to, if it is a pointer.
    pub fn target(self) -> Option<Target> {
        if let Kind::Pointer(target) = self {
            return Some(target);
        }
        None
    }
}

fn is_name(text: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_alphabetic())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    text.len() <= LONGEST_NAME && text.split('.').all(is_word)
}
