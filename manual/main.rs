//! Writes the man pages, `manual man DIRECTORY`, or the documents of docs/ that have the same texts, `manual docs DIRECTORY`.
//!
//! Names, types and command lines come from the parsers' own tables, explanations from the comments in etc/, and the rest from
//! manual/pages. It is no part of what is installed: `make man` and `make docs` run it.

mod annotated;
mod markdown;
mod pages;
mod reference;
mod roff;
mod text;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let written = match arguments.as_slice() {
        [what, directory] if what == "man" => man(Path::new(directory)),
        [what, directory] if what == "docs" => docs(Path::new(directory)),
        _ => Err(vec!["expected man or docs, and a directory".to_owned()]),
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

fn man(directory: &Path) -> Result<(), Vec<String>> {
    for page in pages::PAGES {
        let file = directory.join(format!("{}.{}", page.0, page.1));
        write(&file, &pages::man(*page)?)?;
    }
    Ok(())
}

fn docs(directory: &Path) -> Result<(), Vec<String>> {
    for (file, title, pages) in pages::DOCUMENTS {
        write(&directory.join(file), &pages::document(title, pages)?)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<(), Vec<String>> {
    std::fs::write(file, text).map_err(|error| vec![format!("{}: {error}", file.display())])
}

#[cfg(test)]
mod tests;
