//! Reads the sections `logging` of `controller`.
//!
//! Sections come from `sections`, with their places; a [`LoggerConfig`] goes to the checker. Opens no file.

use config_file::{At, Fault};

use super::checker::Checker;
use super::sections::{FileOption, LoggingSection};
use super::values::{default_format, level, only, path, required};
use crate::logging::Severity;
use crate::logging::line_format::{self, LineFormat};
use crate::logging::settings::{Facility, LogFileConfig, LoggerConfig, LoggerKind, Selection};

impl Checker<'_> {
    pub(super) fn logger(&mut self, section: At<LoggingSection>) -> Result<LoggerConfig, Fault> {
        let At {
            value: section,
            place,
        } = section;
        let format = match section.format {
            Some(format) => self.format(format)?,
            None => default_format(&place)?,
        };
        let allowed: &[&str] = match section.r#type.value.as_str() {
            "stderr" => &[],
            "file" => &["file"],
            "multi_file" => &["file", "directory"],
            "syslog" => &["identifier", "facility"],
            _ => {
                return Err(section
                    .r#type
                    .fault("expected stderr, file, multi_file or syslog"));
            }
        };
        only(
            &section.r#type,
            allowed,
            &[
                ("file", section.file.as_ref().map(|at| &at.place)),
                ("directory", section.directory.as_ref().map(|at| &at.place)),
                (
                    "identifier",
                    section.identifier.as_ref().map(|at| &at.place),
                ),
                ("facility", section.facility.as_ref().map(|at| &at.place)),
            ],
        )?;
        let kind = match section.r#type.value.as_str() {
            "file" => match required(section.file, "file", &place)? {
                At {
                    value: FileOption::Name(value),
                    place,
                } => LoggerKind::File(path(&At { value, place }, None)?),
                At { place, .. } => return Err(place.fault("expected a string")),
            },
            "multi_file" => {
                let directory = path(&required(section.directory, "directory", &place)?, None)?;
                let sections = match section.file {
                    None => Vec::new(),
                    Some(At {
                        value: FileOption::Sections(sections),
                        ..
                    }) => sections,
                    Some(At { place, .. }) => return Err(place.fault("expected sections `file`")),
                };
                let mut files = Vec::new();
                for At { value: file, .. } in sections {
                    files.push(LogFileConfig {
                        path: path(&file.file, Some(&directory))?,
                        format: match file.format {
                            Some(own) => self.format(own)?,
                            None => format.clone(),
                        },
                        selection: selection(file.component, file.subchannel, file.max_level)?,
                    });
                }
                LoggerKind::MultiFile(files)
            }
            "syslog" => LoggerKind::Syslog {
                identifier: section.identifier.map_or_else(String::new, |at| at.value),
                facility: match section.facility {
                    None => Facility::USER,
                    Some(at) => Facility::from_name(&at.value)
                        .ok_or_else(|| at.fault("expected a syslog facility such as daemon"))?,
                },
            },
            _ => LoggerKind::Stderr,
        };
        Ok(LoggerConfig {
            kind,
            format,
            selection: selection(section.component, section.subchannel, section.max_level)?,
            place,
        })
    }

    fn format(&mut self, format: At<String>) -> Result<LineFormat, Fault> {
        let template = LineFormat::parse(&format.value).map_err(|error| format.fault(error))?;
        for name in template.unknown() {
            let message = format!("unknown variable `{}`", line_format::escape(name));
            self.warn(&format.place, &message);
        }
        Ok(template)
    }
}

/// Checks which records a logger or a file takes.
pub(super) fn selection(
    component: Option<String>,
    subchannel: Option<String>,
    max_level: Option<At<String>>,
) -> Result<Selection, Fault> {
    Ok(Selection {
        component: component.unwrap_or_else(|| "*".into()),
        subchannel: subchannel.unwrap_or_else(|| "*".into()),
        max_level: level(max_level, Severity::Debug)?,
    })
}
