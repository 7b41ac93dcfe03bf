//! Writes blocks as Markdown.

use std::fmt::Write as _;

use crate::pages::Document;
use crate::text::{Block, Span, spans};

/// A part of a document.
pub struct Markdown {
    text: String,
    /// How much deeper headings are than in the text.
    depth: usize,
    /// The list in which everything stands.
    indent: &'static str,
}

impl Markdown {
    /// Begins a part whose headings are this much deeper.
    pub fn new(depth: usize) -> Markdown {
        Markdown {
            text: String::new(),
            depth,
            indent: "",
        }
    }

    fn list(&mut self, rows: impl Iterator<Item = String>) {
        for row in rows {
            let _ = writeln!(self.text, "{}- {row}", self.indent);
        }
        self.text.push('\n');
    }
}

impl Document for Markdown {
    fn block(&mut self, block: &Block) {
        let indent = self.indent;
        match block {
            Block::Heading(level, words) => {
                let marks = "#".repeat(level + self.depth);
                let words = match *level {
                    // Man pages have these in capitals.
                    1 => sentence_case(words),
                    _ => words.clone(),
                };
                let _ = writeln!(self.text, "{marks} {words}\n");
            }
            Block::Paragraph(words) => {
                let _ = writeln!(self.text, "{indent}{}\n", inline(words));
            }
            Block::Bullets(bullets) => self.list(bullets.iter().map(|bullet| inline(bullet))),
            Block::Terms(terms) => self.list(terms.iter().map(|(term, meaning)| {
                let separator = if meaning.is_empty() { "" } else { ": " };
                format!("`{term}`{separator}{}", inline(meaning))
            })),
            Block::Code(lines) => {
                let _ = writeln!(self.text, "{indent}```text");
                for line in lines {
                    let _ = writeln!(self.text, "{}", format!("{indent}{line}").trim_end());
                }
                let _ = writeln!(self.text, "{indent}```\n");
            }
            Block::Insert(_) => {}
        }
    }

    fn entry(&mut self, names: &[&str], lines: &[String], body: &[Block]) {
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        let mut lines = lines.iter().map(|line| inline(line));
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(self.text, "- **{}**: {first}", names.join(", "));
        for line in lines {
            let _ = writeln!(self.text, "  <br>{line}");
        }
        self.text.push('\n');
        self.indent = "  ";
        for block in body {
            self.block(block);
        }
        self.indent = "";
    }

    fn finish(self: Box<Self>) -> String {
        self.text
    }
}

fn sentence_case(words: &str) -> String {
    if words.chars().any(char::is_lowercase) {
        return words.to_owned();
    }
    let (first, rest) = words.split_at(words.len().min(1));
    first.to_owned() + &rest.to_lowercase()
}

fn inline(words: &str) -> String {
    let spans = spans(words).into_iter();
    let written = spans.map(|span| match span {
        Span::Plain(text) => text.replace('[', "\\["),
        Span::Literal(text) => format!("`{text}`"),
    });
    written.collect()
}
