//! Encodes and decodes the record of a call, which a worker sends to the auditor.
//!
//! A record has two parts. The first says which function is called on which objects, and is made before the call. The
//! second says how the call ended, and is appended when the call has its result. Numbers are little-endian; the length
//! of a text is in front of it. Decoded texts borrow from the record. The auditor does not trust the worker: it refuses
//! anything that does not decode exactly.

use std::sync::Arc;

/// Upper bound on the bytes of a record.
pub const LONGEST: usize = 16 << 10;

/// Upper bound on the bytes of a label, identifier or module's name. A longer label or identifier is not recorded; a
/// longer name is cut off.
pub const LONGEST_NAME: usize = 256;

/// Upper bound on the bytes of a file's name. A longer one is cut off.
const LONGEST_PATH: usize = 4096;

/// Upper bound on the objects of a record.
pub const MOST_OBJECTS: usize = 8;

/// Upper bound on the attribute types of a record.
pub const MOST_ATTRIBUTES: usize = 64;

// The other fields of the largest record take less than the rest.
const _: () = assert!(
    2 * MOST_OBJECTS * LONGEST_NAME + MOST_ATTRIBUTES * 8 + 2 * LONGEST_PATH < LONGEST - 1024
);

/// An object that a call names, or that a template describes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Object<T> {
    /// Its handle, if there is one.
    pub handle: Option<u64>,
    /// CKA_LABEL.
    pub label: Option<T>,
    /// CKA_ID.
    pub id: Option<T>,
    /// CKA_CLASS.
    pub class: Option<u64>,
}

/// What is known of a call before it is made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Begun<M, O> {
    /// Its number on this connection, from 1.
    pub call: u64,
    /// When it began: milliseconds since 1970.
    pub began: u64,
    /// The number of the function.
    pub function: u32,
    /// The alias of the module.
    pub module: M,
    /// The session that it was made in.
    pub session: Option<u64>,
    /// The mechanism of its operation.
    pub mechanism: Option<u64>,
    /// The objects that it works on.
    pub objects: Vec<O>,
    /// The types of the attributes in its templates.
    pub attributes: Vec<u64>,
}

/// The first part of a record, as the worker builds it.
pub type Call = Begun<Arc<[u8]>, Arc<Object<Vec<u8>>>>;

/// The first part of a record, as the auditor decodes it.
pub type BegunRecord<'a> = Begun<&'a [u8], Object<&'a [u8]>>;

/// How a call ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ended<'a> {
    /// The CK_RV; none if there was an internal error.
    pub rv: Option<u64>,
    /// What refused it; none if it was not refused.
    pub refused: Option<RefusedBy<'a>>,
}

/// What refused a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefusedBy<'a> {
    /// Neither a rule nor a limit; the template was malformed, for example.
    Nothing,
    /// A rule of filter.conf.
    Rule {
        /// The option.
        option: &'a [u8],
        /// The file.
        file: &'a [u8],
        /// The line in it.
        line: u32,
    },
    /// The limit of this name in pkcs11proxyd.conf.
    Limit(&'a [u8]),
}

const NOTHING: u8 = 1;
const RULE: u8 = 2;
const LIMIT: u8 = 3;

struct Encoder(Vec<u8>);

impl Encoder {
    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn optional(&mut self, number: Option<u64>) {
        self.0.push(number.is_some().into());
        if let Some(number) = number {
            self.number(number);
        }
    }

    /// Appends a text, cut off after `most` bytes. `most` is less than 65536.
    fn text(&mut self, text: &[u8], most: usize) {
        let text = text.get(..most).unwrap_or(text);
        let length = u16::try_from(text.len()).unwrap_or(0);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(text);
    }

    fn name(&mut self, name: Option<&[u8]>) {
        let name = name.filter(|name| name.len() <= LONGEST_NAME);
        self.0.push(name.is_some().into());
        if let Some(name) = name {
            self.text(name, LONGEST_NAME);
        }
    }
}

impl Call {
    /// Encodes the first part of a record.
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder(Vec::with_capacity(256));
        encoder.number(self.call);
        encoder.number(self.began);
        encoder.0.extend_from_slice(&self.function.to_le_bytes());
        encoder.text(&self.module, LONGEST_NAME);
        encoder.optional(self.session);
        encoder.optional(self.mechanism);
        let objects = self.objects.get(..MOST_OBJECTS).unwrap_or(&self.objects);
        encoder.0.push(u8::try_from(objects.len()).unwrap_or(0));
        for object in objects {
            encoder.optional(object.handle);
            encoder.name(object.label.as_deref());
            encoder.name(object.id.as_deref());
            encoder.optional(object.class);
        }
        let attributes = self.attributes.get(..MOST_ATTRIBUTES);
        let attributes = attributes.unwrap_or(&self.attributes);
        encoder.0.push(u8::try_from(attributes.len()).unwrap_or(0));
        for attribute in attributes {
            encoder.number(*attribute);
        }
        encoder.0
    }
}

impl Ended<'_> {
    /// Appends the second part of a record to the first.
    pub fn encode(&self, record: &mut Vec<u8>) {
        let mut encoder = Encoder(std::mem::take(record));
        encoder.optional(self.rv);
        match self.refused {
            None => encoder.0.push(0),
            Some(RefusedBy::Nothing) => encoder.0.push(NOTHING),
            Some(RefusedBy::Rule { option, file, line }) => {
                encoder.0.push(RULE);
                encoder.text(option, LONGEST_NAME);
                encoder.text(file, LONGEST_PATH);
                encoder.0.extend_from_slice(&line.to_le_bytes());
            }
            Some(RefusedBy::Limit(limit)) => {
                encoder.0.push(LIMIT);
                encoder.text(limit, LONGEST_NAME);
            }
        }
        *record = encoder.0;
    }
}

struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        let [byte] = self.bytes()?;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// Reads whether an optional value is present.
    fn is_there(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn optional(&mut self) -> Option<Option<u64>> {
        match self.is_there()? {
            true => self.number().map(Some),
            false => Some(None),
        }
    }

    fn text(&mut self, most: usize) -> Option<&'a [u8]> {
        let length = usize::from(u16::from_le_bytes(self.bytes()?));
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        (length <= most).then_some(text)
    }

    fn name(&mut self) -> Option<Option<&'a [u8]>> {
        match self.is_there()? {
            true => self.text(LONGEST_NAME).map(Some),
            false => Some(None),
        }
    }

    /// Reads a count of at most `most`.
    fn count(&mut self, most: usize) -> Option<usize> {
        let count = usize::from(self.byte()?);
        (count <= most).then_some(count)
    }

    fn begun(&mut self) -> Option<BegunRecord<'a>> {
        let mut begun = Begun {
            call: self.number()?,
            began: self.number()?,
            function: u32::from_le_bytes(self.bytes()?),
            module: self.text(LONGEST_NAME)?,
            session: self.optional()?,
            mechanism: self.optional()?,
            objects: Vec::new(),
            attributes: Vec::new(),
        };
        for _ in 0..self.count(MOST_OBJECTS)? {
            begun.objects.push(Object {
                handle: self.optional()?,
                label: self.name()?,
                id: self.name()?,
                class: self.optional()?,
            });
        }
        for _ in 0..self.count(MOST_ATTRIBUTES)? {
            begun.attributes.push(self.number()?);
        }
        Some(begun)
    }

    fn ended(&mut self) -> Option<Ended<'a>> {
        let rv = self.optional()?;
        let refused = match self.byte()? {
            0 => None,
            NOTHING => Some(RefusedBy::Nothing),
            RULE => Some(RefusedBy::Rule {
                option: self.text(LONGEST_NAME)?,
                file: self.text(LONGEST_PATH)?,
                line: u32::from_le_bytes(self.bytes()?),
            }),
            LIMIT => Some(RefusedBy::Limit(self.text(LONGEST_NAME)?)),
            _ => return None,
        };
        Some(Ended { rv, refused })
    }
}

/// Decodes a record; returns `None` if it is malformed. A record without a second part is of a call in flight.
pub fn decode(record: &[u8]) -> Option<(BegunRecord<'_>, Option<Ended<'_>>)> {
    let mut decoder = Decoder(record);
    let begun = decoder.begun()?;
    if decoder.0.is_empty() {
        return Some((begun, None));
    }
    let ended = decoder.ended()?;
    decoder.0.is_empty().then_some((begun, Some(ended)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        let object = Object {
            handle: Some(7),
            label: Some(b"a label\n".to_vec()),
            id: Some(vec![0, 255]),
            class: Some(3),
        };
        Call {
            call: 5,
            began: 1_800_000_000_000,
            function: 42,
            module: Arc::from(&b"softhsm"[..]),
            session: Some(u64::MAX),
            mechanism: Some(0x40),
            objects: vec![Arc::new(object), Arc::default()],
            attributes: vec![0x11, 0],
        }
    }

    #[test]
    fn a_record_is_decoded_as_it_was_encoded_with_its_end_and_without() {
        let call = call();
        let begun = call.encode();
        let (decoded, ended) = decode(&begun).unwrap();
        assert_eq!(ended, None);
        assert_eq!(
            (decoded.call, decoded.began, decoded.function),
            (5, call.began, 42)
        );
        assert_eq!(decoded.module, b"softhsm");
        assert_eq!(
            (decoded.session, decoded.mechanism),
            (Some(u64::MAX), Some(0x40))
        );
        assert_eq!(decoded.objects[0].label, Some(&b"a label\n"[..]));
        assert_eq!(decoded.objects[0].id, Some(&[0, 255][..]));
        assert_eq!(decoded.objects[1], Object::default());
        assert_eq!(decoded.attributes, [0x11, 0]);
        let rule = RefusedBy::Rule {
            option: b"allowed_labels",
            file: b"/etc/filter.conf",
            line: 7,
        };
        for refused in [
            None,
            Some(RefusedBy::Nothing),
            Some(rule),
            Some(RefusedBy::Limit(b"max_sessions")),
        ] {
            for rv in [None, Some(0)] {
                let ended = Ended { rv, refused };
                let mut record = begun.clone();
                ended.encode(&mut record);
                assert_eq!(decode(&record).unwrap().1, Some(ended));
            }
        }
    }

    #[test]
    fn what_is_cut_off_changed_or_too_much_is_no_record_and_does_no_harm() {
        let mut record = call().encode();
        let begun = record.len();
        Ended {
            rv: Some(0),
            refused: Some(RefusedBy::Limit(b"x")),
        }
        .encode(&mut record);
        for end in 0..record.len() {
            assert_eq!(decode(&record[..end]).is_some(), end == begun, "{end}");
        }
        record.push(0);
        assert!(decode(&record).is_none());
        record.pop();
        for position in 0..record.len() {
            for bit in 0..8 {
                record[position] ^= 1 << bit;
                // Whatever it decodes to is bounded.
                if let Some((begun, _)) = decode(&record) {
                    assert!(begun.objects.len() <= MOST_OBJECTS);
                }
                record[position] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn the_largest_record_is_not_too_long_and_nothing_longer_is_encoded() {
        let name = vec![b'x'; LONGEST_NAME];
        let object = Arc::new(Object {
            handle: Some(1),
            label: Some(name.clone()),
            id: Some(name.clone()),
            class: Some(1),
        });
        let mut call = Call {
            module: vec![b'x'; 10 * LONGEST_NAME].into(),
            session: Some(1),
            mechanism: Some(1),
            objects: vec![object; 3 * MOST_OBJECTS],
            attributes: vec![1; 1000],
            ..Call::default()
        };
        let long = vec![b'x'; 100_000];
        let encode = |call: &Call| {
            let mut record = call.encode();
            Ended {
                rv: Some(0),
                refused: Some(RefusedBy::Rule {
                    option: &long,
                    file: &long,
                    line: 1,
                }),
            }
            .encode(&mut record);
            assert!(record.len() <= LONGEST, "{}", record.len());
            assert!(decode(&record).is_some());
            record
        };
        let record = encode(&call);
        assert_eq!(decode(&record).unwrap().0.objects.len(), MOST_OBJECTS);
        call.objects = vec![Arc::new(Object {
            label: Some(long.clone()),
            ..Object::default()
        })];
        let record = encode(&call);
        assert_eq!(decode(&record).unwrap().0.objects[0].label, None);
    }
}
