//! Parses the type of a field in the notation of the table, such as `bytes(ulIvLen) inout`.

use super::{Case, Direction, Extent, Kind, Layout, List, Ref, Tag, Target, is_name};

/// Upper bound on a fixed number of bytes.
const LONGEST_FIXED: usize = 4096;

/// The kind of a field as the table writes it.
pub(super) struct FieldText<'a> {
    pub(super) text: &'a str,
    /// The names of all fields of the structure.
    pub(super) names: &'a [&'a str],
}

impl FieldText<'_> {
    /// Parses the text. `find` returns the structure of a name. The error says what is wrong.
    pub(super) fn read(
        &self,
        find: &dyn Fn(&str) -> Option<&'static Layout>,
    ) -> Result<(Kind, Direction), String> {
        let (text, direction) = match self.text.rsplit_once(' ') {
            Some((text, "out")) => (text.trim(), Direction::Out),
            Some((text, "inout")) => (text.trim(), Direction::InOut),
            _ => (self.text, Direction::In),
        };
        let structure = |name: &str| {
            find(name)
                .map(Ref)
                .ok_or_else(|| format!("{name} is not declared above"))
        };
        let pointer = |target| Ok((Kind::Pointer(target), direction));
        let plain = |kind| Ok((kind, direction));
        match text {
            "number" => return plain(Kind::Number),
            "mechanism" => return plain(Kind::Mechanism),
            "key" => return plain(Kind::Key),
            "length" => return plain(Kind::Length),
            "flag" => return plain(Kind::Flag),
            "byte" => return plain(Kind::Byte),
            "text*" => return pointer(Target::Text),
            "unknown*" => return pointer(Target::Unknown),
            "ignored*" => return pointer(Target::Ignored),
            "number*" => return pointer(Target::Number),
            "length*" => return pointer(Target::Length),
            "key*" => return pointer(Target::Key),
            "CK_MECHANISM*" => return pointer(Target::Mechanism),
            _ => {}
        }
        if let Some(size) = text
            .strip_prefix("bytes[")
            .and_then(|t| t.strip_suffix(']'))
        {
            return plain(Kind::Bytes(fixed(size)?));
        }
        if let Some((target, tag)) = text.split_once(" by ") {
            return pointer(self.tagged(target, tag, &structure)?);
        }
        if let Some(extent) = arguments(text, "bytes") {
            return pointer(Target::Bytes(self.extent(extent)?));
        }
        if let Some((target, count)) = text.split_once("*(") {
            let count = count.strip_suffix(')').ok_or("expected )")?;
            let count = self.index(count)?;
            return match target {
                "CK_ATTRIBUTE" => pointer(Target::Template(count)),
                _ => pointer(Target::Structures(structure(target)?, count)),
            };
        }
        match text.strip_suffix('*') {
            Some(name) => pointer(Target::Structure(structure(name)?)),
            None => Err(format!("unknown kind {text}")),
        }
    }

    fn index(&self, name: &str) -> Result<usize, String> {
        let found = self.names.iter().position(|other| *other == name.trim());
        found.ok_or_else(|| format!("the structure has no field {name}"))
    }

    /// Parses `8`, `ulLen`, `ulBits bits`, `*pulLen` or `^ulBits bits`.
    fn extent(&self, text: &str) -> Result<Extent, String> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return fixed(text).map(Extent::Fixed);
        }
        if let Some(name) = text.strip_prefix('*') {
            return self.index(name).map(Extent::Pointee);
        }
        match text.strip_suffix(" bits") {
            Some(name) => match name.strip_prefix('^') {
                Some(name) if is_name(name) => Ok(Extent::OuterBits(name.to_owned().leak())),
                _ => self.index(name).map(Extent::Bits),
            },
            None => self.index(text).map(Extent::Bytes),
        }
    }

    /// Parses `bytes(ulLen)` by `type: 1 CK_STRUCTURE, 2 number, 3 key`.
    fn tagged(
        &self,
        target: &str,
        tag: &str,
        structure: &dyn Fn(&str) -> Result<Ref, String>,
    ) -> Result<Target, String> {
        let length = arguments(target, "bytes").ok_or("expected bytes(LENGTH) before by")?;
        let (field, texts) = tag.split_once(':').ok_or("expected FIELD: after by")?;
        let mut cases: Vec<(u64, Case)> = Vec::new();
        for text in texts.split(',') {
            let (value, case) = text
                .trim()
                .split_once(' ')
                .ok_or("expected VALUE KIND after by")?;
            let value = value
                .parse()
                .map_err(|_| format!("expected a number, found {value}"))?;
            let case = match case.trim() {
                "number" => Case::Number,
                "key" => Case::Key,
                name => Case::Structure(structure(name)?),
            };
            if cases.iter().any(|(other, _)| *other == value) {
                return Err(format!("the value {value} is given twice"));
            }
            cases.push((value, case));
        }
        Ok(Target::Tagged(Tag {
            field: self.index(field)?,
            length: self.index(length)?,
            cases: List(&*cases.leak()),
        }))
    }
}

/// Returns the text in the brackets, such as those of `bytes(...)`.
fn arguments<'a>(text: &'a str, function: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(function)?.strip_prefix('(')?;
    rest.strip_suffix(')').map(str::trim)
}

fn fixed(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (1..=LONGEST_FIXED).contains(&size) => Ok(size),
        _ => Err(format!("expected a number from 1 to {LONGEST_FIXED}")),
    }
}
