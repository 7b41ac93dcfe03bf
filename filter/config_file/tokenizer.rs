//! Splits a configuration file into tokens, as OCaml's Genlex does, with the caller's set of keywords.
//!
//! The bytes of a file come in; tokens with their lines go to `filter::config::syntax` (filter.conf) and
//! `server::netplex` (pkcs11proxyd.conf). Genlex stops without an error at an unclosed comment or string; this
//! tokenizer fails with the line where it began.

use thiserror::Error;

/// A lexical unit of a configuration file.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// One of the keywords the lexer was made with.
    Keyword(&'static str),
    /// A bare word, or a run of operator bytes that is no keyword.
    Word(Vec<u8>),
    /// `"..."`, its escapes resolved.
    Text(Vec<u8>),
    /// `'c'`.
    Char(u8),
    /// A decimal integer.
    Integer(i64),
    /// A number with a point or an exponent.
    Float(f64),
}

impl Token {
    /// Describes the token in words, for an error message. Text is not shown, because it may be a key.
    pub fn describe(&self) -> String {
        match self {
            Token::Keyword(keyword) => format!("`{keyword}`"),
            Token::Word(word) => format!("the word `{}`", String::from_utf8_lossy(word)),
            Token::Text(_) => "a string".into(),
            Token::Char(_) => "a character".into(),
            Token::Integer(_) => "an integer".into(),
            Token::Float(_) => "a number with a decimal point".into(),
        }
    }
}

/// Why a file has no next token, and the line where the offending token begins.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("{message}")]
pub struct Error {
    /// Line of the token's first byte, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

/// Cuts a file into tokens, with one token of look-ahead.
pub struct Lexer<'a> {
    input: &'a [u8],
    position: usize,
    line: u32,
    keywords: &'static [&'static str],
    peeked: Option<Option<(Token, u32)>>,
    dropped: Vec<(u32, u8)>,
}

/// Genlex's integers are OCaml's, which have 63 bits.
const INTEGERS: std::ops::RangeInclusive<i64> = -(1 << 62)..=(1 << 62) - 1;

impl<'a> Lexer<'a> {
    /// Makes a lexer over `input`; `keywords` are single punctuation characters.
    pub fn new(input: &'a [u8], keywords: &'static [&'static str]) -> Self {
        Lexer {
            input,
            position: 0,
            line: 1,
            keywords,
            peeked: None,
            dropped: Vec::new(),
        }
    }

    /// Returns the lines and characters of the escapes so far that have no meaning. Their backslash was dropped from
    /// the text.
    pub fn dropped_escapes(&self) -> &[(u32, u8)] {
        &self.dropped
    }

    /// The line reached so far: where the last token ends that was returned or peeked at.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Returns the next token and its line without consuming it; `None` at the end of the file.
    pub fn peek(&mut self) -> Result<Option<&(Token, u32)>, Error> {
        let token = match self.peeked.take() {
            Some(token) => token,
            None => self.read()?,
        };
        Ok(self.peeked.insert(token).as_ref())
    }

    /// Consumes and returns the next token and its line; `None` at the end of the file.
    #[allow(
        clippy::should_implement_trait,
        reason = "fallible, so not an Iterator"
    )]
    pub fn next(&mut self) -> Result<Option<(Token, u32)>, Error> {
        match self.peeked.take() {
            Some(token) => Ok(token),
            None => self.read(),
        }
    }

    fn read(&mut self) -> Result<Option<(Token, u32)>, Error> {
        loop {
            let line = self.line;
            let fail = |message: String| Err(Error { line, message });
            let Some(byte) = self.bump() else {
                return Ok(None);
            };
            let token = match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b'\x0c' | b'\x1a' => continue,
                b'(' if self.look() == Some(b'*') => {
                    self.bump();
                    self.comment(line)?;
                    continue;
                }
                b'"' => Token::Text(self.text(line)?),
                b'\'' => Token::Char(self.character(line)?),
                b'0'..=b'9' => self.number(line)?,
                b'-' if matches!(self.look(), Some(b'0'..=b'9')) => self.number(line)?,
                b'A'..=b'Z' | b'a'..=b'z' | b'_' | 0xC0..=0xFF => self.run(is_word_byte),
                byte if is_operator_byte(byte) => self.run(is_operator_byte),
                byte => match self.keyword(&[byte]) {
                    Some(keyword) => Token::Keyword(keyword),
                    None if byte.is_ascii_graphic() => {
                        return fail(format!("illegal character `{}`", char::from(byte)));
                    }
                    None => return fail(format!("illegal byte 0x{byte:02x}")),
                },
            };
            return Ok(Some((token, line)));
        }
    }

    fn look(&self) -> Option<u8> {
        self.input.get(self.position).copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let byte = self.look()?;
        self.position += 1;
        if byte == b'\n' {
            self.line = self.line.saturating_add(1);
        }
        Some(byte)
    }

    fn keyword(&self, word: &[u8]) -> Option<&'static str> {
        self.keywords
            .iter()
            .copied()
            .find(|keyword| keyword.as_bytes() == word)
    }

    /// Reads the rest of a word whose first byte is consumed.
    fn run(&mut self, belongs: fn(u8) -> bool) -> Token {
        let start = self.position.saturating_sub(1);
        while self.look().is_some_and(belongs) {
            self.bump();
        }
        let word = self.since(start);
        match self.keyword(word) {
            Some(keyword) => Token::Keyword(keyword),
            None => Token::Word(word.to_vec()),
        }
    }

    fn since(&self, start: usize) -> &'a [u8] {
        self.input.get(start..self.position).unwrap_or_default()
    }

    /// Reads a number whose first byte, a digit or the sign, is consumed.
    fn number(&mut self, line: u32) -> Result<Token, Error> {
        let start = self.position.saturating_sub(1);
        let fail = |message: &str| {
            Err(Error {
                line,
                message: message.into(),
            })
        };
        self.digits();
        let mut float = false;
        if self.look() == Some(b'.') {
            float = true;
            self.bump();
            self.digits();
        }
        if matches!(self.look(), Some(b'e' | b'E')) {
            float = true;
            self.bump();
            if matches!(self.look(), Some(b'+' | b'-')) {
                self.bump();
            }
            self.digits();
        }
        let text = String::from_utf8_lossy(self.since(start));
        if float {
            return match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Token::Float(value)),
                _ => fail("a malformed number"),
            };
        }
        match text.parse::<i64>() {
            Ok(value) if INTEGERS.contains(&value) => Ok(Token::Integer(value)),
            _ => fail("an integer beyond 63 bits"),
        }
    }

    fn digits(&mut self) {
        while matches!(self.look(), Some(b'0'..=b'9')) {
            self.bump();
        }
    }

    /// Reads a string whose opening quote is consumed.
    fn text(&mut self, line: u32) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        loop {
            match self.bump() {
                Some(b'"') => return Ok(text),
                Some(b'\\') => text.push(self.escape(line)?),
                Some(byte) => text.push(byte),
                None => {
                    return Err(Error {
                        line,
                        message: "a string without a closing quote".into(),
                    });
                }
            }
        }
    }

    /// Reads a character literal whose opening quote is consumed.
    fn character(&mut self, line: u32) -> Result<u8, Error> {
        let byte = match self.bump() {
            Some(b'\\') => Some(self.escape(line)?),
            other => other,
        };
        match (byte, self.bump()) {
            (Some(byte), Some(b'\'')) => Ok(byte),
            _ => Err(Error {
                line,
                message: "a character literal without a closing quote".into(),
            }),
        }
    }

    /// Reads an escape sequence whose backslash is consumed. Any character without a special meaning stands for itself.
    fn escape(&mut self, line: u32) -> Result<u8, Error> {
        let malformed = || Error {
            line,
            message: "an escape `\\ddd` that is not three decimal digits up to 255".into(),
        };
        match self.bump() {
            Some(b'n') => Ok(b'\n'),
            Some(b'r') => Ok(b'\r'),
            Some(b't') => Ok(b'\t'),
            Some(first @ b'0'..=b'9') => {
                let mut value = u32::from(first - b'0');
                for _ in 0..2 {
                    match self.bump() {
                        Some(digit @ b'0'..=b'9') => value = value * 10 + u32::from(digit - b'0'),
                        _ => return Err(malformed()),
                    }
                }
                u8::try_from(value).map_err(|_| malformed())
            }
            Some(byte) => {
                if !matches!(byte, b'\\' | b'"' | b'\'') {
                    self.dropped.push((self.line, byte));
                }
                Ok(byte)
            }
            None => Err(Error {
                line,
                message: "a string without a closing quote".into(),
            }),
        }
    }

    /// Skips a comment whose opening is consumed. Comments nest, and quotes have no meaning inside.
    ///
    /// As in Genlex, a `(` swallows the byte after it unless that is `*`: `((*` opens nothing.
    fn comment(&mut self, line: u32) -> Result<(), Error> {
        let mut depth = 1_usize;
        let mut byte = self.bump();
        loop {
            match byte {
                Some(b'(') => {
                    if self.bump() == Some(b'*') {
                        depth += 1;
                    }
                    byte = self.bump();
                }
                Some(b'*') => match self.bump() {
                    Some(b')') => {
                        depth -= 1;
                        if depth == 0 {
                            return Ok(());
                        }
                        byte = self.bump();
                    }
                    Some(b'*') => byte = Some(b'*'),
                    Some(_) => byte = self.bump(),
                    None => byte = None,
                },
                Some(_) => byte = self.bump(),
                None => {
                    return Err(Error {
                        line,
                        message: "a comment without its closing `*)`".into(),
                    });
                }
            }
        }
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'\'' | 0xC0..=0xFF)
}

fn is_operator_byte(byte: u8) -> bool {
    b"!%&$#+-/:<=>?@\\~^|*".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYWORDS: &[&str] = &["{", "}", "=", ";"];

    fn tokens(input: &[u8]) -> Result<Vec<(Token, u32)>, Error> {
        let mut lexer = Lexer::new(input, KEYWORDS);
        let mut tokens = Vec::new();
        while let Some(token) = lexer.next()? {
            tokens.push(token);
        }
        Ok(tokens)
    }

    fn kinds(input: &[u8]) -> Vec<Token> {
        tokens(input)
            .unwrap()
            .into_iter()
            .map(|(token, _)| token)
            .collect()
    }

    fn word(text: &str) -> Token {
        Token::Word(text.as_bytes().to_vec())
    }

    #[test]
    fn reads_a_parameter_and_its_lines() {
        let expected = [
            (word("a"), 2),
            (Token::Keyword("="), 2),
            (Token::Integer(3), 3),
            (Token::Keyword(";"), 3),
        ];
        assert_eq!(tokens(b"\n a =\n3;").unwrap(), expected);
    }

    #[test]
    fn takes_an_operator_run_as_one_word() {
        assert_eq!(kinds(b"a=-1"), [word("a"), word("=-"), Token::Integer(1)]);
        assert_eq!(
            kinds(b"a = -1"),
            [word("a"), Token::Keyword("="), Token::Integer(-1)]
        );
        assert_eq!(kinds(b"== - x'1"), [word("=="), word("-"), word("x'1")]);
    }

    #[test]
    fn knows_only_decimal_numbers() {
        assert_eq!(
            kinds(b"0x1 007"),
            [Token::Integer(0), word("x1"), Token::Integer(7)]
        );
        let floats = [
            Token::Float(60.0),
            Token::Float(6.0),
            Token::Float(10.0),
            Token::Float(-0.5),
        ];
        assert_eq!(kinds(b"60.0 6. 1e1 -5E-1"), floats);
        assert!(tokens(b"4611686018427387904").is_err());
        assert_eq!(kinds(b"-4611686018427387904"), [Token::Integer(-(1 << 62))]);
        for malformed in ["1e", "1e+", "1e999"] {
            assert!(tokens(malformed.as_bytes()).is_err(), "{malformed}");
        }
    }

    #[test]
    fn resolves_escapes() {
        let text = br#""a\n\r\t\065\q\"\\b" '\n' '('"#;
        let expected = [
            Token::Text(b"a\n\r\tAq\"\\b".to_vec()),
            Token::Char(b'\n'),
            Token::Char(b'('),
        ];
        assert_eq!(kinds(text), expected);
        for malformed in [
            r#""\256""#,
            r#""\1""#,
            r#""\12x""#,
            "'ab'",
            "'a",
            r#""\"#,
            "\"a",
        ] {
            assert!(tokens(malformed.as_bytes()).is_err(), "{malformed}");
        }
    }

    #[test]
    fn skips_nested_comments_and_ignores_quotes_in_them() {
        assert_eq!(
            kinds(b"(* a (* \"*) *) 1 (*) **) 2 (***) 3"),
            [1, 2, 3].map(Token::Integer)
        );
        // Measured on the original: the second parenthesis is swallowed, so one end is enough.
        assert_eq!(kinds(b"(* ((* *) 1"), [Token::Integer(1)]);
    }

    #[test]
    fn reports_an_open_comment_or_string_where_it_begins() {
        assert_eq!(tokens(b"1\n(* a\n\n").unwrap_err().line, 2);
        assert_eq!(tokens(b"1\n\n\"a\n\n").unwrap_err().line, 3);
    }

    #[test]
    fn refuses_other_characters() {
        for illegal in ["[", "]", "(", ")", ",", ".", "`", "\u{7f}", "\u{1}"] {
            assert!(tokens(illegal.as_bytes()).is_err(), "{illegal:?}");
        }
        assert!(tokens(b"\x80").is_err());
        assert_eq!(kinds(b"\xc3\xe9"), [Token::Word(vec![0xc3, 0xe9])]);
        assert!(
            tokens(b"\xc3\xa9").is_err(),
            "0xa9 is not a letter of Latin-1"
        );
    }
}
