//! Tests of the loggers: which record goes where, and what happens when a file is rotated.

use super::*;
use std::fs;

fn record(severity: Severity, subchannel: &'static str) -> Record<'static> {
    Record {
        severity,
        component: "svc",
        subchannel,
        message: "text",
    }
}

/// A directory of the test's own.
fn directory(name: &str) -> PathBuf {
    let directory =
        std::env::temp_dir().join(format!("pkcs11proxyd-{}-{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn selection(component: &str, subchannel: &str, max_level: Severity) -> Selection {
    Selection {
        component: component.into(),
        subchannel: subchannel.into(),
        max_level,
    }
}

fn template() -> LineFormat {
    LineFormat::parse("$level $message").unwrap()
}

fn loggers(max_level: Severity, selection: Selection, sink: Sink) -> Loggers {
    let loggers = vec![Logger { selection, sink }];
    Loggers {
        configuration: "/etc/p.conf".into(),
        max_level,
        loggers,
    }
}

#[test]
fn applies_both_levels_and_the_selection() {
    let taken = selection("s*", "", Severity::Warning);
    assert!(taken.takes(&record(Severity::Warning, "")));
    assert!(!taken.takes(&record(Severity::Info, "")));
    assert!(!taken.takes(&record(Severity::Err, "filter")));
    let all = loggers(Severity::Err, taken, Sink::Stderr(template()));
    assert_eq!(Route::max_level(&all), Severity::Err);
}

#[test]
fn appends_to_a_file_and_opens_it_again() {
    let directory = directory("file");
    let path = directory.join("log");
    fs::write(&path, "old\n").unwrap();
    let file = Sink::File(template(), LogFile::new(&path), Place::default());
    let loggers = loggers(Severity::Info, selection("*", "*", Severity::Debug), file);
    loggers.write(&record(Severity::Info, ""));
    loggers.write(&record(Severity::Debug, ""));
    fs::rename(&path, directory.join("rotated")).unwrap();
    loggers.write(&record(Severity::Err, ""));
    loggers.reopen().unwrap();
    loggers.write(&record(Severity::Crit, ""));
    let rotated = fs::read_to_string(directory.join("rotated")).unwrap();
    assert_eq!(rotated, "old\ninfo text\nerr text\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "crit text\n");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn refuses_a_file_it_cannot_open() {
    let place = Place {
        line: 7,
        option: "netplex.controller.logging[0]".into(),
    };
    let file = Sink::File(
        template(),
        LogFile::new(Path::new("/nonexistent/log")),
        place,
    );
    let loggers = loggers(Severity::Info, selection("*", "*", Severity::Debug), file);
    let message = loggers.reopen().unwrap_err().to_string();
    let expected = "/etc/p.conf:7: netplex.controller.logging[0]: cannot open /nonexistent/log";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn writes_to_every_matching_file_once() {
    let directory = directory("multi");
    let file = |name: &str, subchannel: &str, level| {
        let selection = selection("*", subchannel, level);
        (selection, template(), LogFile::new(&directory.join(name)))
    };
    let files = Sink::MultiFile(vec![
        file("all", "*", Severity::Debug),
        file("all", "*", Severity::Err),
        file("filter", "filter", Severity::Debug),
        file("unused", "x", Severity::Debug),
    ]);
    let loggers = loggers(Severity::Debug, selection("*", "*", Severity::Debug), files);
    loggers.write(&record(Severity::Err, "filter"));
    loggers.write(&record(Severity::Info, ""));
    assert_eq!(
        fs::read_to_string(directory.join("all")).unwrap(),
        "err text\ninfo text\n"
    );
    assert_eq!(
        fs::read_to_string(directory.join("filter")).unwrap(),
        "err text\n"
    );
    assert!(!directory.join("unused").exists());
    fs::remove_dir_all(directory).unwrap();
}
