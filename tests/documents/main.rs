//! Checks the project's pages: links lead somewhere, tests that are named exist, examples of filter.conf load.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use filter::{Compatibility, Rules};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below the project's directory with this extension, without what was built or downloaded.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let kind = entry.file_type().expect("a kind of file");
            if kind.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A page's lines with their numbers, without those of blocks of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            return None;
        }
        (!in_block).then_some((index + 1, line))
    })
}

/// What a link to a heading says behind `#`: lower case, without punctuation, with `-` for blanks.
fn anchors(text: &str) -> HashSet<String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading
                .chars()
                .filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'))
                .map(|it| if it == ' ' { '-' } else { it })
                .collect()
        })
        .collect()
}

/// The targets of the links of a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_in_it() {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in files("md") {
        let text = read(&page);
        for (number, line) in prose(&text) {
            for link in links(line).filter(|link| !link.contains("://")) {
                count += 1;
                let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = match path {
                    "" => page.clone(),
                    path => page.with_file_name("").join(path),
                };
                let leads = match anchor {
                    "" => target.exists(),
                    anchor => fs::read_to_string(&target)
                        .is_ok_and(|text| anchors(&text).contains(anchor)),
                };
                if !leads {
                    broken.push(format!("{}:{number}: {link}", page.display()));
                }
            }
        }
    }
    assert!(count > 50, "only {count} links were found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let sources: String = files("rs").iter().map(|file| read(file)).collect();
    let page = read(&root().join("docs/threat-model.md"));
    let tests = prose(&page)
        .filter(|(_, line)| line.starts_with('|'))
        .filter_map(|(_, line)| line.trim_end_matches('|').rsplit('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let mut count = 0;
    for test in tests {
        count += 1;
        assert!(
            sources.contains(&format!("fn {test}()")),
            "docs/threat-model.md names {test}, which is no test"
        );
    }
    assert!(count > 20, "only {count} tests are named");
}

#[test]
fn the_filters_examples_load() {
    let page = read(&root().join("docs/filter.md"));
    let mut count = 0;
    for block in page.split("```ocaml\n").skip(1) {
        let (example, _) = block.split_once("```").expect("the end of a block");
        let rules = Rules::parse(
            example.as_bytes(),
            Path::new("docs/filter.md"),
            &Compatibility::default(),
        );
        rules.unwrap_or_else(|error| panic!("{error}\n{example}"));
        count += 1;
    }
    assert!(count > 2, "only {count} examples were found");
}
