//! Parses one section of the table: a structure with its fields, and the mechanisms that take it.

use super::kinds::FieldText;
use super::sections::{Entry, Item, Scalar, Section};
use super::{
    Case, DEEPEST, Direction, Extent, Field, Kind, Layout, List, MOST_FIELDS, Mistake, Name, Ref,
    Row, Target, Use, is_name, mistake,
};

impl Section {
    /// Reads the structure, which may refer to those of `rows` and `known`.
    pub(super) fn row(&self, known: &[&'static Layout], rows: &[Row]) -> Result<Row, Mistake> {
        let mut name = None;
        let mut fields = None;
        let mut mechanisms = Vec::new();
        for entry in &self.entries {
            let usage = Use::ALL.iter().find(|(_, key)| *key == entry.key);
            match (entry.key.as_str(), usage) {
                ("name", _) => name = Some(entry.name()?),
                ("fields", _) => fields = Some(entry),
                (_, Some((usage, _))) => {
                    for (line, mechanism) in entry.mechanisms()? {
                        mechanisms.push((line, *usage, mechanism));
                    }
                }
                _ => return mistake(entry.line, format!("unknown key {}", entry.key)),
            }
        }
        let Some((line, name)) = name else {
            return mistake(self.line, "the structure has no name");
        };
        if rows.iter().any(|row| row.layout.name == name) {
            return mistake(line, format!("{name} is declared twice"));
        }
        let declared = known.iter().find(|layout| layout.name == name);
        let layout: &'static Layout = match (declared, fields) {
            (Some(layout), None) => layout,
            (Some(_), Some(entry)) => {
                return mistake(
                    entry.line,
                    format!("{name} is in the standard: its fields cannot be given again"),
                );
            }
            (None, None) => return mistake(line, format!("{name} has no fields")),
            (None, Some(entry)) => {
                let find = |wanted: &str| {
                    let declared = rows.iter().map(|row| row.layout);
                    let mut all = known.iter().copied().chain(declared);
                    all.find(|layout| layout.name == wanted)
                };
                let fields = entry.fields(find)?;
                let name: &'static str = name.to_owned().leak();
                let fields = List(&*fields.leak());
                Box::leak(Box::new(Layout { name, fields }))
            }
        };
        if layout.depth() > DEEPEST {
            return mistake(line, format!("{name} nests more than {DEEPEST} deep"));
        }
        if let (Some((line, _, _)), Some(outer)) = (
            mechanisms.first(),
            layout.fields.0.iter().find_map(outer_name),
        ) {
            let message = format!("{name} needs the field {outer} of a structure around it");
            return mistake(*line, message);
        }
        Ok(Row { layout, mechanisms })
    }
}

impl Entry {
    fn name(&self) -> Result<(usize, &str), Mistake> {
        match self.items.as_slice() {
            [
                Item {
                    line,
                    value: Scalar::Text(name),
                },
            ] if !self.is_list && is_name(name) && !name.contains('.') => Ok((*line, name)),
            _ => mistake(self.line, "expected the name of a C structure"),
        }
    }

    fn list(&self) -> Result<&[Item], Mistake> {
        match self.is_list {
            true => Ok(&self.items),
            false => mistake(self.line, format!("expected an array for {}", self.key)),
        }
    }

    fn mechanisms(&self) -> Result<Vec<(usize, Name)>, Mistake> {
        let mechanism = |item: &Item| match &item.value {
            Scalar::Integer(number) => Ok((item.line, Name::Number(*number))),
            Scalar::Text(name) if name.starts_with("CKM_") && is_name(name) => {
                Ok((item.line, Name::Standard(name.clone())))
            }
            Scalar::Text(name) => mistake(
                item.line,
                format!("expected a mechanism, as CKM_NAME or as a number, found {name}"),
            ),
        };
        self.list()?.iter().map(mechanism).collect()
    }

    fn fields(
        &self,
        find: impl Fn(&str) -> Option<&'static Layout>,
    ) -> Result<Vec<Field>, Mistake> {
        let mut texts = Vec::new();
        for item in self.list()? {
            let Scalar::Text(text) = &item.value else {
                return mistake(item.line, "expected a field, as \"NAME: KIND\"");
            };
            let Some((name, kind)) = text.split_once(':') else {
                return mistake(item.line, format!("expected \"NAME: KIND\", found {text}"));
            };
            let name = name.trim();
            if !is_name(name) {
                return mistake(
                    item.line,
                    format!("expected the name of a field, found {name}"),
                );
            }
            if texts.iter().any(|(_, other, _)| *other == name) {
                return mistake(item.line, format!("the field {name} is given twice"));
            }
            texts.push((item.line, name, kind.trim()));
        }
        if texts.is_empty() || texts.len() > MOST_FIELDS {
            return mistake(
                self.line,
                format!("a structure has 1 to {MOST_FIELDS} fields"),
            );
        }
        let names: Vec<&str> = texts.iter().map(|(_, name, _)| *name).collect();
        let mut fields = Vec::new();
        for (line, name, text) in &texts {
            let (kind, direction) = FieldText {
                text,
                names: &names,
            }
            .read(&find)
            .map_err(|message| Mistake {
                line: *line,
                message: format!("{name}: {message}"),
            })?;
            fields.push(Field {
                name: (*name).to_owned().leak(),
                kind,
                direction,
            });
        }
        check(&fields).map_err(|(index, message)| {
            let (line, name) = texts
                .get(index)
                .map_or((self.line, ""), |(line, name, _)| (*line, *name));
            Mistake {
                line,
                message: format!("{name}: {message}"),
            }
        })?;
        Ok(fields)
    }
}

/// Checks that fields refer to fields of the right kind. The error is the index of the wrong field, and
/// what is wrong.
fn check(fields: &[Field]) -> Result<(), (usize, String)> {
    let kind = |index: usize| fields.get(index).map(|field| field.kind);
    let is_length = |index| matches!(kind(index), Some(Kind::Length | Kind::Number));
    for (index, field) in fields.iter().enumerate() {
        let wrong = |message: &str| Err((index, message.to_owned()));
        let Some(target) = field.kind.target() else {
            let written = field.direction != Direction::In;
            if written && !matches!(field.kind, Kind::Number | Kind::Key) {
                return wrong(
                    "the module writes numbers and keys only, beside what pointers refer to",
                );
            }
            continue;
        };
        match target {
            Target::Bytes(Extent::Bytes(length) | Extent::Bits(length)) if !is_length(length) => {
                return wrong("its length is not of the kind length or number");
            }
            Target::Bytes(Extent::Pointee(length))
                if kind(length) != Some(Kind::Pointer(Target::Length)) =>
            {
                return wrong("its length is not of the kind length*");
            }
            Target::Structures(_, count) | Target::Template(count) if !is_length(count) => {
                return wrong("its count is not of the kind length or number");
            }
            Target::Tagged(tag) => {
                if kind(tag.field) != Some(Kind::Number) {
                    return wrong("what tells its kind is not a number");
                }
                if kind(tag.length) != Some(Kind::Length) {
                    return wrong("its length is not of the kind length");
                }
                let flat = tag.cases.0.iter().all(|(_, case)| match case {
                    Case::Structure(Ref(inner)) => inner.fields.0.iter().all(|field| {
                        field.direction == Direction::In && field.kind.target().is_none()
                    }),
                    Case::Number | Case::Key => true,
                });
                if !flat {
                    return wrong("a structure that depends on a field consists of numbers only");
                }
            }
            Target::Structure(Ref(inner)) | Target::Structures(Ref(inner), _) => {
                for name in inner.fields.0.iter().filter_map(outer_name) {
                    let outer = fields.iter().find(|field| field.name == name);
                    if !outer.is_some_and(|field| matches!(field.kind, Kind::Length | Kind::Number))
                    {
                        let name = format!("{} needs a number {name} here", inner.name);
                        return wrong(&name);
                    }
                }
            }
            Target::Unknown
            | Target::Ignored
            | Target::Bytes(_)
            | Target::Text
            | Target::Number
            | Target::Length
            | Target::Key
            | Target::Mechanism
            | Target::Template(_) => {}
        }
        let may_be_written = matches!(
            target,
            Target::Bytes(_) | Target::Number | Target::Length | Target::Key
        );
        if field.direction != Direction::In && !may_be_written {
            return wrong("the module cannot write what this points to");
        }
        if field.direction == Direction::Out && !matches!(target, Target::Bytes(_)) {
            return wrong("only bytes can be out; a number is inout");
        }
    }
    Ok(())
}

fn outer_name(field: &Field) -> Option<&'static str> {
    let Some(Target::Bytes(Extent::OuterBits(name))) = field.kind.target() else {
        return None;
    };
    Some(name)
}
