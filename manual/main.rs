//! Writes the man pages, docs/man, and the documents of docs/ that have the same texts: `manual docs`.
//!
//! Names, types and command lines come from the parsers' own tables, explanations from the comments in etc/, and the rest from
//! manual/pages. It is no part of what is installed: `make docs` runs it.

mod annotated;
mod markdown;
mod pages;
mod reference;
mod roff;
mod text;

use std::process::ExitCode;

fn main() -> ExitCode {
    let written = match std::env::args().nth(1) {
        Some(directory) => write(&directory),
        None => Err(vec!["expected the directory docs".to_owned()]),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => {
            for error in errors {
                eprintln!("manual: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &str) -> Result<(), Vec<String>> {
    for (name, text) in pages::files()? {
        let file = format!("{directory}/{name}");
        std::fs::write(&file, text).map_err(|error| vec![format!("{file}: {error}")])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
