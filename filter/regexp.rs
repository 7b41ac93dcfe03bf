//! Translates the patterns of filter.conf from the dialect of OCaml's Str library to that of the regex crate.
//!
//! A pattern comes from `filter::config` as bytes; module names, labels and identifiers are matched against it. The
//! original appends `$` to the text of the pattern and anchors it only at the start. So an ungrouped alternation
//! matches prefixes there, and `$` matches before any newline. Here the whole subject must match. [`Regexp::applies`]
//! also matches the original's reading, for rules that forbid, so that they forbid no less than they did.
//!
//! Back references are refused, and so is a trailing backslash, which in the original quotes the `$`.

use regex::bytes::{Regex, RegexBuilder};
use std::fmt::Write;
use thiserror::Error;

/// Upper bound on the length of a pattern, in bytes. A longer one is a mistake, and its cost would have no bound.
const LONGEST: usize = 4096;

/// Upper bound on the memory for one compiled pattern, in bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Regexp {
    text: Vec<u8>,
    matcher: Matcher,
    /// Whether the pattern asks for word boundaries, see [`Regexp::is_match`].
    boundaries: bool,
    warnings: Vec<&'static str>,
    capital: bool,
}

/// How a pattern is matched.
#[derive(Clone, Debug)]
enum Matcher {
    /// Each byte stands for itself. A worker that matches such a pattern needs no memory for it.
    Text,
    /// Compiled as we read the pattern, and as the original reads it.
    Compiled { strict: Regex, original: Regex },
}

/// The bytes that have a special meaning somewhere in a pattern.
const SPECIAL: &[u8] = b"$^.*+?[]\\";

/// Why a pattern cannot be used.
#[derive(Clone, Debug, Error, PartialEq)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("longer than {LONGEST} bytes")]
    Long,
    #[error("a backslash at the end; to match a backslash, write four")]
    TrailingBackslash,
    #[error("`\\{0}` is a back reference, which is not supported")]
    BackReference(char),
    #[error("a group `\\(` without its `\\)`")]
    OpenGroup,
    #[error("a `\\)` without its `\\(`")]
    OpenEnd,
    #[error("a set `[` without its `]`")]
    OpenSet,
    #[error("the pattern is too large")]
    Large,
}

impl Regexp {
    /// Compiles a pattern of the Str dialect.
    pub fn new(pattern: &[u8]) -> Result<Regexp, Error> {
        if pattern.len() > LONGEST {
            return Err(Error::Long);
        }
        let translation = translate(pattern)?;
        let matcher = if pattern.iter().any(|byte| SPECIAL.contains(byte)) {
            let mut appended = pattern.to_vec();
            appended.push(b'$');
            Matcher::Compiled {
                strict: compile(&format!("\\A(?:{})\\z", translation.regex))?,
                original: compile(&format!("\\A(?:{})", translate(&appended)?.regex))?,
            }
        } else {
            Matcher::Text
        };
        Ok(Regexp {
            text: pattern.to_vec(),
            matcher,
            boundaries: translation.boundaries,
            warnings: translation.warnings(),
            capital: translation.capital,
        })
    }

    /// Compiles a pattern that only this text matches.
    pub fn literal(text: &[u8]) -> Result<Regexp, Error> {
        let mut pattern = Vec::new();
        for byte in text {
            if SPECIAL.contains(byte) {
                pattern.push(b'\\');
            }
            pattern.push(*byte);
        }
        Regexp::new(&pattern)
    }

    /// Whether the whole subject matches: for rules that allow.
    ///
    /// Str's words include the letters of Latin-1, the regex crate's do not. A pattern with `\b`
    /// therefore does not match a subject that has some.
    pub fn is_match(&self, subject: &[u8]) -> bool {
        !self.uncertain(subject) && self.is_whole(subject)
    }

    /// Whether the whole subject matches, or the original would say that it does: for rules that
    /// forbid.
    pub fn applies(&self, subject: &[u8]) -> bool {
        self.uncertain(subject) || self.is_whole(subject) || self.original_matches(subject)
    }

    fn is_whole(&self, subject: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Text => subject == self.text,
            Matcher::Compiled { strict, .. } => strict.is_match(subject),
        }
    }

    /// Whether the pattern matches as the original reads it.
    fn original_matches(&self, subject: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Text => {
                let rest = subject.strip_prefix(self.text.as_slice());
                rest.is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'\n'))
            }
            Matcher::Compiled { original, .. } => original.is_match(subject),
        }
    }

    /// The pattern as it was given.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Returns warnings about parts of the pattern that probably do not mean what its author had in mind.
    pub fn warnings(&self) -> &[&'static str] {
        &self.warnings
    }

    /// Whether the pattern asks for a capital letter, outside of sets.
    pub fn has_capital(&self) -> bool {
        self.capital
    }

    fn uncertain(&self, subject: &[u8]) -> bool {
        self.boundaries && subject.iter().any(|byte| matches!(byte, 0xC0..=0xFF))
    }
}

fn compile(regex: &str) -> Result<Regex, Error> {
    RegexBuilder::new(regex)
        .unicode(false)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(SIZE_LIMIT)
        .build()
        .map_err(|_| Error::Large)
}

/// A pattern in the syntax of the regex crate.
#[derive(Default)]
struct Translation {
    regex: String,
    boundaries: bool,
    top_level_alternation: bool,
    literal_grouping: bool,
    foreign: bool,
    capital: bool,
}

impl Translation {
    fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.top_level_alternation {
            warnings.push(
                "an alternation without a group: in Caml Crush, all alternatives but the last also \
                 match longer names; here each must match the whole name",
            );
        }
        if self.literal_grouping {
            warnings.push(
                "`|`, `(` and `)` match themselves; alternatives and groups are written \
                 \\\\|, \\\\( and \\\\) with two backslashes",
            );
        }
        if self.foreign {
            warnings.push(
                "`\\d` and the like, and counts in braces, match these characters literally; for a \
                 digit write [0-9], for a count repeat the pattern",
            );
        }
        warnings
    }

    fn literal(&mut self, byte: u8) {
        push(&mut self.regex, format_args!("\\x{byte:02x}"));
    }
}

/// Writing to a `String` does not fail.
fn push(regex: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = regex.write_fmt(text);
}

fn translate(pattern: &[u8]) -> Result<Translation, Error> {
    let mut out = Translation::default();
    let mut groups = Vec::new();
    // Where the last atom begins in `out.regex`; none after `\(`, `\|` and at the start, where an
    // operator is a literal.
    let mut atom: Option<usize> = None;
    let mut rest = pattern;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if let (b'*' | b'+' | b'?', Some(start)) = (byte, atom) {
            // Grouped each time: `a+?` is an optional `a+` and not a lazy one.
            out.regex.insert_str(start, "(?:");
            push(&mut out.regex, format_args!("){}", char::from(byte)));
            continue;
        }
        let start = out.regex.len();
        atom = Some(start);
        match byte {
            b'\\' => {
                let Some((&escaped, after)) = rest.split_first() else {
                    return Err(Error::TrailingBackslash);
                };
                rest = after;
                match escaped {
                    b'(' => {
                        groups.push(start);
                        out.regex.push_str("(?:");
                        atom = None;
                    }
                    b')' => {
                        atom = Some(groups.pop().ok_or(Error::OpenEnd)?);
                        out.regex.push(')');
                    }
                    b'|' => {
                        out.top_level_alternation |= groups.is_empty();
                        out.regex.push('|');
                        atom = None;
                    }
                    b'b' => {
                        out.boundaries = true;
                        out.regex.push_str("\\b");
                    }
                    b'1'..=b'9' => return Err(Error::BackReference(char::from(escaped))),
                    other => {
                        out.foreign |= other.is_ascii_alphanumeric();
                        out.literal(other);
                    }
                }
            }
            b'.' => out.regex.push_str("[^\\n]"),
            b'^' => out.regex.push_str("(?m:^)"),
            b'$' => out.regex.push_str("(?m:$)"),
            b'[' => rest = set(rest, &mut out.regex)?,
            other => {
                out.literal_grouping |= matches!(other, b'|' | b'(' | b')');
                out.foreign |= other == b'{' && rest.first().is_some_and(u8::is_ascii_digit);
                out.capital |= other.is_ascii_uppercase();
                out.literal(other);
            }
        }
    }
    if groups.is_empty() {
        Ok(out)
    } else {
        Err(Error::OpenGroup)
    }
}

/// Translates a set whose `[` is consumed. Returns what follows its `]`. A backslash is a member like any other.
fn set<'a>(pattern: &'a [u8], regex: &mut String) -> Result<&'a [u8], Error> {
    let (negated, mut rest) = match pattern.split_first() {
        Some((b'^', rest)) => (true, rest),
        _ => (false, pattern),
    };
    let mut members = [negated; 256];
    let mut first = true;
    loop {
        rest = match rest {
            [] => return Err(Error::OpenSet),
            [b']', rest @ ..] if !first => {
                push_members(&members, regex);
                return Ok(rest);
            }
            [from, b'-', to, rest @ ..] if *to != b']' => {
                // A reversed range is empty.
                for member in members
                    .iter_mut()
                    .take(usize::from(*to) + 1)
                    .skip((*from).into())
                {
                    *member = !negated;
                }
                rest
            }
            [member, rest @ ..] => {
                for slot in members.iter_mut().skip((*member).into()).take(1) {
                    *slot = !negated;
                }
                rest
            }
        };
        first = false;
    }
}

fn push_members(members: &[bool; 256], regex: &mut String) {
    if !members.contains(&true) {
        // A set without members matches no byte.
        regex.push_str("[^\\x00-\\xff]");
        return;
    }
    regex.push('[');
    for (byte, member) in members.iter().enumerate() {
        if *member {
            push(regex, format_args!("\\x{byte:02x}"));
        }
    }
    regex.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(pattern: &[u8], subject: &[u8]) -> bool {
        Regexp::new(pattern).unwrap().is_match(subject)
    }

    fn original(pattern: &[u8], subject: &[u8]) -> bool {
        Regexp::new(pattern).unwrap().original_matches(subject)
    }

    /// Pattern, subject, whether the original matches (observed), whether we match.
    const MATCHES: &[(&[u8], &[u8], bool, bool)] = &[
        (b"abc", b"abc", true, true),
        (b"abc", b"abcd", false, false),
        (b"abc", b"xabc", false, false),
        (b"abc", b"ABC", false, false),
        (b"abc", b"abc\ndef", true, false),
        (b".*", b"anything", true, true),
        (b".*", b"any\nthing", true, false),
        (b"a\\|b", b"a", true, true),
        (b"a\\|b", b"b", true, true),
        (b"a\\|b", b"ax", true, false),
        (b"a\\|b", b"bx", false, false),
        (b"\\(a\\|b\\)", b"a", true, true),
        (b"\\(a\\|b\\)", b"ax", false, false),
        (b"", b"", true, true),
        (b"", b"\n", true, false),
        (b"", b"\nfoo", true, false),
        (b"", b"a", false, false),
        (b"a|b", b"a|b", true, true),
        (b"a|b", b"a", false, false),
        (b"(a)", b"(a)", true, true),
        (b"(a)", b"a", false, false),
        (b"a{2}", b"a{2}", true, true),
        (b"a{2}", b"aa", false, false),
        (b"a.c", b"a\nc", false, false),
        (b"a.c", b"a\xe9c", true, true),
        (b"a.c", b"a\xc3\xa9c", false, false),
    ];

    #[test]
    fn matches_as_observed_but_for_prefixes_and_newlines() {
        for (pattern, subject, observed, ours) in MATCHES {
            let shown = (
                String::from_utf8_lossy(pattern),
                String::from_utf8_lossy(subject),
            );
            assert_eq!(original(pattern, subject), *observed, "original {shown:?}");
            assert_eq!(strict(pattern, subject), *ours, "strict {shown:?}");
            let regexp = Regexp::new(pattern).unwrap();
            assert_eq!(
                regexp.applies(subject),
                *observed || *ours,
                "applies {shown:?}"
            );
        }
    }

    #[test]
    fn a_literal_matches_itself_only() {
        for text in [&b""[..], b"a.b", b"$^.*+?[]\\|()\\b{2}", b"a\\|b"] {
            let literal = Regexp::literal(text).unwrap();
            assert!(literal.is_match(text), "{}", text.escape_ascii());
            for other in [&b"axb"[..], b"a", b"b", b"x"] {
                assert!(!literal.is_match(other), "{}", text.escape_ascii());
            }
        }
        assert!(Regexp::literal(&[b'a'; LONGEST + 1]).is_err());
    }

    #[test]
    fn a_text_is_matched_as_if_it_were_compiled() {
        for text in ["", "a", "ab|c", "(x){2}", "p\n"] {
            let plain = Regexp::new(text.as_bytes()).unwrap();
            assert!(matches!(plain.matcher, Matcher::Text));
            let compiled = Regexp::new(format!("\\({text}\\)").as_bytes()).unwrap();
            assert!(matches!(compiled.matcher, Matcher::Compiled { .. }));
            for end in ["", "\n", "\nx", "x", " \n"] {
                let subject = [text, end].concat();
                let subject = subject.as_bytes();
                assert_eq!(plain.is_match(subject), compiled.is_match(subject));
                assert_eq!(plain.applies(subject), compiled.applies(subject));
            }
        }
    }

    #[test]
    fn translates_the_dialect() {
        for (pattern, subject, expected) in [
            // Operators may be stacked, and are literal where a (sub)expression begins.
            (b"a**b".as_slice(), b"aab".as_slice(), true),
            (b"a+?b", b"b", true),
            (b"a+?b", b"aab", true),
            (b"*a", b"*a", true),
            (b"\\(+a\\)", b"+a", true),
            (b"x\\|?a", b"?a", true),
            (b"\\(ab\\)*c", b"ababc", true),
            (b"\\(ab\\)*c", b"abac", false),
            // Sets.
            (b"[abc]+", b"cab", true),
            (b"[a-c]+", b"d", false),
            (b"[]a]+", b"]a", true),
            (b"[^]a]", b"]", false),
            (b"[a-]+", b"-a", true),
            (b"[-a]+", b"-a", true),
            (b"[^a]", b"\n", true),
            (b"[^a]", b"a", false),
            (b"[\\d]+", b"\\d", true),
            (b"[\\]", b"\\", true),
            (b"[a&&b~~[]+", b"&~[ab", true),
            (b"[c-a]", b"b", false),
            (b"[^c-a]", b"b", true),
            (b"[\xe0-\xff]", b"\xe9", true),
            // Anchors are special everywhere.
            (b"^a$", b"a", true),
            (b"a^b", b"a^b", false),
            (b"a$b", b"a$b", false),
            (b"[^x]*$[^x]*", b"a\nb", true),
            (b"a[^x]^b", b"a\nb", true),
            // A backslash makes any other byte a literal.
            (b"\\d\\w\\n\\.\\*\\{\\$\\^\\[", b"dwn.*{$^[", true),
            (b"\\.", b"a", false),
            (b"\xc3\xa9", b"\xc3\xa9", true),
            (b"a\\bb", b"ab", false),
            (b"a\\b.b", b"a-b", true),
        ] {
            let shown = (
                String::from_utf8_lossy(pattern),
                String::from_utf8_lossy(subject),
            );
            assert_eq!(strict(pattern, subject), expected, "{shown:?}");
        }
    }

    #[test]
    fn does_not_decide_word_boundaries_beside_latin_letters() {
        let regexp = Regexp::new(b"a\\b.*").unwrap();
        assert!(regexp.is_match(b"a b"));
        assert!(!regexp.is_match(b"a\xe9") && regexp.applies(b"a\xe9"));
    }

    #[test]
    fn refuses_what_it_cannot_translate() {
        for (pattern, error) in [
            ("a\\", Error::TrailingBackslash),
            ("\\(a\\)\\1", Error::BackReference('1')),
            ("\\(a", Error::OpenGroup),
            ("a\\)", Error::OpenEnd),
            ("[a", Error::OpenSet),
            ("[]", Error::OpenSet),
            ("[^]", Error::OpenSet),
        ] {
            assert_eq!(
                Regexp::new(pattern.as_bytes()).unwrap_err(),
                error,
                "{pattern}"
            );
        }
    }

    #[test]
    fn bounds_what_a_pattern_may_cost() {
        assert_eq!(Regexp::new(&[b'a'; 4097]).unwrap_err(), Error::Long);
        assert_eq!(
            Regexp::new("\\(".repeat(2048).as_bytes()).unwrap_err(),
            Error::OpenGroup
        );
        let nested = ["\\(".repeat(1000), "\\)".repeat(1000)].concat();
        assert_eq!(Regexp::new(nested.as_bytes()).unwrap_err(), Error::Large);
        assert!(Regexp::new(["a", &"*+?".repeat(1365)].concat().as_bytes()).is_err());
    }

    #[test]
    fn warns_of_likely_mistakes() {
        let count = |pattern: &str| Regexp::new(pattern.as_bytes()).unwrap().warnings().len();
        assert_eq!(count("a\\|b"), 1);
        assert_eq!(count("(a|b)"), 1);
        assert_eq!(count("\\(a\\|b\\)"), 0);
        assert_eq!(count("soft.*"), 0);
        for foreign in ["web\\d+", "\\w", "a{3}", "[a-z]{2,4}"] {
            assert_eq!(count(foreign), 1, "{foreign}");
        }
        for plain in ["\\.\\*", "\\bweb\\b", "{web}", "[\\d]"] {
            assert_eq!(count(plain), 0, "{plain}");
        }
    }
}
