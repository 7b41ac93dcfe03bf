//! Writes log records with the original's logger types: standard error, files, and syslog.
//!
//! The controller creates [`Loggers`] from the settings, and writes the records of all processes. A message that cannot
//! be delivered goes to standard error: it must not be lost, and logging must not stop the service.

use std::path::{Path, PathBuf};

use config_file::{Error, Place};
use jiff::Zoned;

use super::line_format::LineFormat;
use super::log_file::LogFile;
use super::record::{Record, Route, Severity};
use super::settings::{LogFileConfig, LoggerConfig, LoggerKind, Selection};
use super::stderr::to_stderr;
use super::syslog::{SYSLOG_SOCKET, Syslog};

/// All loggers of the configuration.
pub struct Loggers {
    configuration: PathBuf,
    max_level: Severity,
    loggers: Vec<Logger>,
}

struct Logger {
    selection: Selection,
    sink: Sink,
}

enum Sink {
    Stderr(LineFormat),
    File(LineFormat, LogFile, Place),
    MultiFile(Vec<(Selection, LineFormat, LogFile)>),
    Syslog(Syslog),
}

impl Loggers {
    /// Opens the log files. Those of a `multi_file` logger, and syslog, are opened when they are first needed.
    /// `max_level` is that of the controller; `configuration` is the configuration file, for messages.
    pub fn open(
        configuration: &Path,
        max_level: Severity,
        loggers: &[LoggerConfig],
    ) -> Result<Loggers, Error> {
        let loggers = Loggers {
            configuration: configuration.to_owned(),
            max_level,
            loggers: loggers.iter().map(Logger::new).collect(),
        };
        loggers.reopen()?;
        Ok(loggers)
    }

    /// Hands a record to every logger that takes it.
    pub fn write(&self, record: &Record<'_>) {
        if record.severity > self.max_level {
            return;
        }
        let mut now = None;
        for logger in &self.loggers {
            if logger.selection.takes(record) {
                logger
                    .sink
                    .write(record, now.get_or_insert_with(Zoned::now));
            }
        }
    }

    /// Opens the log files again, after they were rotated. If one cannot be opened, the old one stays in use; the
    /// others are opened nevertheless.
    pub fn reopen(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for logger in &self.loggers {
            match &logger.sink {
                Sink::File(_, file, place) => {
                    if let Err(error) = file.reopen() {
                        let message = format!("cannot open {}: {error}", file.path.display());
                        result = result.and(Err(place.fault(message).in_file(&self.configuration)));
                    }
                }
                Sink::MultiFile(files) => files.iter().for_each(|(_, _, file)| file.close()),
                Sink::Stderr(_) | Sink::Syslog(_) => {}
            }
        }
        result
    }
}

impl Route for Loggers {
    fn record(&self, record: &Record<'_>) {
        self.write(record);
    }

    fn max_level(&self) -> Severity {
        let finest = self
            .loggers
            .iter()
            .map(|logger| logger.selection.max_level)
            .max();
        self.max_level.min(finest.unwrap_or(Severity::Emerg))
    }
}

impl Logger {
    fn new(config: &LoggerConfig) -> Logger {
        let template = config.format.clone();
        let sink = match &config.kind {
            LoggerKind::Stderr => Sink::Stderr(template),
            LoggerKind::File(path) => {
                Sink::File(template, LogFile::new(path), config.place.clone())
            }
            LoggerKind::MultiFile(files) => {
                let file = |file: &LogFileConfig| {
                    let log_file = LogFile::new(&file.path);
                    (file.selection.clone(), file.format.clone(), log_file)
                };
                Sink::MultiFile(files.iter().map(file).collect())
            }
            LoggerKind::Syslog {
                identifier,
                facility,
            } => Sink::Syslog(Syslog::new(Path::new(SYSLOG_SOCKET), identifier, *facility)),
        };
        Logger {
            selection: config.selection.clone(),
            sink,
        }
    }
}

impl Sink {
    fn write(&self, record: &Record<'_>, now: &Zoned) {
        match self {
            Sink::Stderr(template) => to_stderr(record.severity, &template.render(record, now)),
            Sink::File(template, file, _) => file.write(&template.render(record, now)),
            Sink::MultiFile(files) => {
                let mut written: Vec<&Path> = Vec::new();
                for (selection, template, file) in files {
                    if selection.takes(record) && !written.contains(&file.path.as_path()) {
                        file.write(&template.render(record, now));
                        written.push(&file.path);
                    }
                }
            }
            Sink::Syslog(syslog) => syslog.write(record, now),
        }
    }
}

#[cfg(test)]
mod tests;
