//! Tests of the loggers: files, pipes and terminals that nobody reads, and a system logger.

use super::*;
use std::fs;
use std::time::Duration;

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
fn matches_with_stars_only() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("", "", true),
        ("", "x", false),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*a", "a", false),
        ("*b*d", "abcd", true),
        ("*bd*", "abcd", false),
        ("a.c", "abc", false),
        ("**", "x", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
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

/// What a pipe holds; its reader does not wait.
fn content(mut reader: &File) -> String {
    let mut bytes = Vec::new();
    let _ = io::Read::read_to_end(&mut reader, &mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_reader_who_stops_reading_loses_lines_and_stops_nobody() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    nix::fcntl::fcntl(&reader, nix::fcntl::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let (reader, mut writer) = (File::from(reader), File::from(writer));
    let lost = AtomicU64::new(0);
    let line = format!("{}\n", "x".repeat(2 * PIECE));
    for _ in 0..1000 {
        write_patiently(&mut writer, &line, &lost);
    }
    let count = lost.load(Ordering::Relaxed);
    assert!((900..1000).contains(&count), "{count}");
    let mut start = [0; PIECE];
    io::Read::read_exact(&mut &reader, &mut start).unwrap();
    assert!(line.as_bytes().starts_with(&start));
    // Room for that many were lost, not for a line more.
    write_patiently(&mut writer, &line, &lost);
    assert_eq!(lost.load(Ordering::Relaxed), 1);
    let told = format!("{count} lines were lost here: nobody read them\n");
    assert!(content(&reader).contains(&told));
    write_patiently(&mut writer, "next\n", &lost);
    let expected = "1 lines were lost here: nobody read them\nnext\n";
    assert_eq!(content(&reader), expected);
    drop(reader);
    write_patiently(&mut writer, "for nobody\n", &lost);
    assert_eq!(lost.load(Ordering::Relaxed), 0);
}

/// There poll has room for a byte, and a write waits until the whole line has some.
#[test]
fn a_terminal_that_nobody_reads_loses_lines_and_stops_nobody() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let (reader, writer) = (File::from(terminal.master), File::from(terminal.slave));
    let mut reopened = reopened_terminal(&writer).unwrap();
    let lost = AtomicU64::new(0);
    for length in (1..1000).cycle().take(2000) {
        write_patiently(&mut reopened, &format!("{:>length$}\n", "x"), &lost);
    }
    let count = lost.load(Ordering::Relaxed);
    assert!((1000..2000).contains(&count), "{count}");
    nix::fcntl::fcntl(&reader, nix::fcntl::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    assert!(content(&reader).starts_with("x\r\n x\r\n"));
    assert!(reopened_terminal(&File::open("/dev/null").unwrap()).is_none());
}

#[test]
fn a_pipe_that_nobody_reads_is_no_log_file() {
    let directory = directory("pipe");
    let path = directory.join("log");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let file = LogFile::new(&path);
    assert!(file.reopen().is_err());
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)
        .unwrap();
    file.reopen().unwrap();
    file.write("line\n");
    assert_eq!(content(&reader), "line\n");
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

#[test]
fn speaks_to_the_system_logger_as_the_original_does() {
    let directory = directory("syslog");
    let path = directory.join("log");
    let receiver = UnixDatagram::bind(&path).unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let receive = |socket: &UnixDatagram| {
        let mut buffer = [0; 9000];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let now = "2026-11-02T08:07:11[UTC]".parse().unwrap();
    let mut syslog = Syslog::new(&path, "", Facility::USER);
    syslog.program = "pkcs11proxyd".into();
    syslog.write(&record(Severity::Info, ""), &now);
    assert_eq!(receive(&receiver), "<14>Nov  2 08:07:11 pkcs11proxyd: text");

    // After a restart of the system logger.
    fs::remove_file(&path).unwrap();
    let restarted = UnixDatagram::bind(&path).unwrap();
    drop(receiver);
    syslog.prefix = "id: ".into();
    syslog.facility = Facility::from_name("local7").unwrap();
    let message = "é".repeat(LONGEST_DATAGRAM);
    let long = Record {
        message: &message,
        ..record(Severity::Emerg, "")
    };
    syslog.write(&long, &now);
    let received = receive(&restarted);
    assert!(received.starts_with("<184>Nov  2 08:07:11 pkcs11proxyd: id: éé"));
    assert!(received.len() <= LONGEST_DATAGRAM);
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn knows_the_facilities() {
    assert_eq!(Facility::from_name("Default"), Some(Facility::USER));
    assert_eq!(Facility::from_name("local0"), Some(Facility(16)));
    for unknown in ["", "local", "local8", "local-1", "local00", "auth"] {
        assert_eq!(Facility::from_name(unknown), None, "{unknown}");
    }
}
