//! Divides a text into blocks: headings, paragraphs, lists and code.
//!
//! Texts are the comments in etc/ and the files in manual/pages; blocks go to `roff` and `markdown`. A text is what a comment
//! looks like anyway:
//!
//! - `# ` and `## ` begin headings, and lines between lines of three backquotes are code, as in Markdown;
//! - lines that begin with `- ` are a list;
//! - indented lines with two blanks or more behind a term are a list of terms and what they mean;
//! - a line `@name` is replaced by what is generated.

/// A part of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Its level, from 1, and its text.
    Heading(usize, String),
    Paragraph(String),
    Bullets(Vec<String>),
    /// Terms and what they mean.
    Terms(Vec<(String, String)>),
    Code(Vec<String>),
    /// What is to be generated here.
    Insert(String),
}

/// Divides a text. Its lines have no indentation of their own.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim_end).peekable();
    while let Some(line) = lines.next() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if content.is_empty() {
            continue;
        }
        // What belongs to the line before it.
        let mut more = |than: usize| {
            let mut text = String::new();
            while let Some(next) = lines.next_if(|next| {
                let content = next.trim_start();
                !content.is_empty() && next.len() - content.len() > than
            }) {
                text.push(' ');
                text.push_str(next.trim_start());
            }
            text
        };
        if let Some(heading) = line.strip_prefix('#') {
            let deeper = heading.trim_start_matches('#');
            let level = 1 + heading.len() - deeper.len();
            blocks.push(Block::Heading(level, deeper.trim().to_owned()));
        } else if let Some(name) = line.strip_prefix('@') {
            blocks.push(Block::Insert(name.to_owned()));
        } else if line.starts_with("```") {
            let code = lines.by_ref().take_while(|line| !line.starts_with("```"));
            blocks.push(Block::Code(code.map(str::to_owned).collect()));
        } else if let Some(bullet) = content.strip_prefix("- ") {
            let bullet = bullet.to_owned() + &more(indent);
            match blocks.last_mut() {
                Some(Block::Bullets(bullets)) => bullets.push(bullet),
                _ => blocks.push(Block::Bullets(vec![bullet])),
            }
        } else if indent > 0 {
            let (term, meaning) = content.split_once("  ").unwrap_or((content, ""));
            let meaning = meaning.trim_start().to_owned() + &more(indent);
            let row = (term.to_owned(), meaning.trim_start().to_owned());
            match blocks.last_mut() {
                Some(Block::Terms(terms)) => terms.push(row),
                _ => blocks.push(Block::Terms(vec![row])),
            }
        } else {
            let mut paragraph = line.to_owned();
            while let Some(next) = lines.next_if(|next| {
                !next.is_empty()
                    && !next.starts_with([' ', '#', '@'])
                    && !next.starts_with("- ")
                    && !next.starts_with("```")
            }) {
                paragraph.push(' ');
                paragraph.push_str(next);
            }
            blocks.push(Block::Paragraph(paragraph));
        }
    }
    blocks
}

/// A part of a line.
#[derive(Debug, PartialEq)]
pub enum Span<'a> {
    Plain(&'a str),
    /// What is written as it is: a name, an option, a value.
    Literal(&'a str),
}

/// Finds literals in a line: what is in backquotes or quotes, and words that can be nothing else, such as names with an
/// underscore, paths and options.
pub fn spans(line: &str) -> Vec<Span<'_>> {
    let mut spans = Vec::new();
    // Where plain text begins that is not in the list yet, and the place that is looked at.
    let (mut plain, mut place) = (0, 0);
    while let Some(first) = line[place..].chars().next() {
        let here = &line[place..];
        let closing = here[first.len_utf8()..].find(first);
        // The literal, and where the line goes on behind it.
        let literal = match (first, closing) {
            ('`', Some(length)) => Some((&here[1..=length], length + 2)),
            ('"', Some(length)) => Some((&here[..length + 2], length + 2)),
            (' ' | '(', _) => None,
            _ => {
                let end = here.find([' ', '"', '`']).unwrap_or(here.len());
                let word = here[..end].trim_end_matches(['.', ',', ';', ':', ')', '?']);
                is_literal(word).then_some((word, word.len()))
            }
        };
        if let Some((text, length)) = literal {
            spans.push(Span::Plain(&line[plain..place]));
            spans.push(Span::Literal(text));
            place += length;
            plain = place;
        } else if matches!(first, ' ' | '(') {
            place += 1;
        } else {
            let end = here.find([' ', '"', '`']).unwrap_or(here.len());
            place += end.max(first.len_utf8());
        }
    }
    spans.push(Span::Plain(&line[plain..]));
    spans.retain(|span| *span != Span::Plain(""));
    spans
}

fn is_literal(word: &str) -> bool {
    let mut letters = word.chars();
    let starts = (letters.next(), letters.next());
    word.contains(['_', '*', '\\', '{', '}', '<'])
        || matches!(starts, (Some('/' | '$' | '~' | '-'), Some(next)) if next != '-' && !next.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_becomes_blocks() {
        let text = "One two\nthree.\n  \"a\"  first,\n       and more\n  long_term\n       second\n- x\n  y\n- z\n\n```\n  code\n```\n## Head\n@options";
        let expected = [
            Block::Paragraph("One two three.".into()),
            Block::Terms(vec![
                ("\"a\"".into(), "first, and more".into()),
                ("long_term".into(), "second".into()),
            ]),
            Block::Bullets(vec!["x y".into(), "z".into()]),
            Block::Code(vec!["  code".into()]),
            Block::Heading(2, "Head".into()),
            Block::Insert("options".into()),
        ];
        assert_eq!(blocks(text), expected);
    }

    #[test]
    fn literals_are_found() {
        use Span::{Literal, Plain};
        let expected = [
            Plain("See "),
            Literal("max_level"),
            Plain(" ("),
            Literal("-check"),
            Plain("), "),
            Literal("\"a b\""),
            Plain(" and "),
            Literal("user"),
            Plain(", PKCS#11 or -1."),
        ];
        let line = "See max_level (-check), \"a b\" and `user`, PKCS#11 or -1.";
        assert_eq!(spans(line), expected);
    }
}
