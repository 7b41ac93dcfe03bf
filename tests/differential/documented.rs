//! Compares the rows of DIFFERENCES.md with the tests that they name.

/// Every row of DIFFERENCES.md and of docs/bounds.md names a test that exists, and every test that allows a difference has
/// its row.
#[test]
fn differences_are_documented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect(name);
    let documented = read("DIFFERENCES.md");
    let bounds = read("docs/bounds.md");
    let ours = read("tests/differential/calls.rs") + &read("tests/differential/messages.rs");
    let mut sources = String::new();
    for folder in [
        "tests/differential",
        "tests/e2e",
        "tests/daemon",
        "tests/tls",
        "server",
        "filter",
        "client",
        "bindings",
        "xdr",
    ] {
        collect(&root.join(folder), &mut sources);
    }
    let rows: Vec<&str> = documented
        .lines()
        .filter(|line| line.starts_with("| D-"))
        .collect();
    assert!(rows.len() >= 10, "only {} rows", rows.len());
    let bounds = bounds.lines().filter(|line| line.ends_with("` |"));
    for row in rows.iter().copied().chain(bounds) {
        let test = row
            .split('`')
            .rev()
            .nth(1)
            .expect("a row ends with its test");
        assert!(
            sources.contains(&format!("fn {test}(")),
            "no test {test}, of {row}"
        );
    }
    for line in ours.lines().filter_map(|line| {
        line.trim()
            .strip_prefix("/// D-")
            .or_else(|| line.trim().strip_prefix("// D-"))
    }) {
        let number = line.split(':').next().expect("a number");
        assert!(
            rows.iter()
                .any(|row| row.starts_with(&format!("| D-{number} "))),
            "D-{number}"
        );
    }
}

fn collect(folder: &std::path::Path, into: &mut String) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).expect("a source"));
        }
    }
}
