//! Decides whether the modules of a service come from a filter file, with rules, or from `libnames`, without.
//!
//! The options come from `checker`; [`crate::policy`] loads the filter file, or builds rules from `libnames` that
//! refuse nothing. `libnames` is `name:path;name:path;`, for sites that have built Caml Crush without its filter. The
//! original searches it with a regular expression that contains the client's name unescaped, so part of a name also
//! finds a module. Here the whole name has to match.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use config_file::{At, Fault, Place};
use filter::log::Printable;

use super::values::path;

/// Where the modules of a service, and the rules for them, are defined.
#[derive(Clone, Debug)]
pub enum RuleSource {
    /// `filter_config`: a filter file. A relative path is relative to the directory of the configuration file, or to
    /// `/` if the file exists only there.
    FilterFile(PathBuf),
    /// `libnames`: modules without rules.
    Libnames(Libnames),
}

impl RuleSource {
    /// Returns the filter file, if there is one.
    pub fn filter_file(&self) -> Option<&Path> {
        match self {
            RuleSource::FilterFile(file) => Some(file),
            RuleSource::Libnames(_) => None,
        }
    }
}

/// Chooses between `filter_config` and `libnames`. If both are given, the filter file counts, because rules that were
/// written have to apply. The original reads only one of them; which one is decided when it is built. `base` is the
/// directory of the configuration file.
pub(super) fn of(
    given: (Option<At<String>>, Option<At<String>>),
    section: &Place,
    base: &Path,
    warnings: &mut Vec<(Place, String)>,
) -> Result<RuleSource, Fault> {
    match given {
        (Some(filter_config), libnames) => {
            let file = filter_file(&filter_config, base)?;
            if let Some(libnames) = libnames {
                if !file.exists() {
                    return Err(filter_config.fault(
                        "there is no such file; to serve the modules of libnames without a filter, as \
                         Caml Crush does if it is built without its filter, remove this line",
                    ));
                }
                let text = "has no effect: modules are defined by filter_config";
                warnings.push((libnames.place, text.to_owned()));
            }
            Ok(RuleSource::FilterFile(file))
        }
        (None, Some(libnames)) => {
            let modules = Libnames::parse(&libnames)?;
            for name in modules.repeated() {
                let text = format!("the last module `{name}` counts, the others are never used");
                warnings.push((libnames.place.clone(), text));
            }
            Ok(RuleSource::Libnames(modules))
        }
        (None, None) => Err(section.fault(
            "`filter_config` is missing: write filter_config = \"/etc/pkcs11proxyd/filter.conf\"; or, for \
             no filter, libnames = \"NAME:/path/of/module.so;\";",
        )),
    }
}

/// Returns the path of a filter file. The original resolves a relative name against `/`. That is hardly intended, but
/// some sites may rely on it.
pub(super) fn filter_file(at: &At<String>, base: &Path) -> Result<PathBuf, Fault> {
    let beside = path(at, Some(base))?;
    let below_root = Path::new("/").join(&at.value);
    if !beside.exists() && below_root.exists() {
        Ok(below_root)
    } else {
        Ok(beside)
    }
}

/// Modules without rules.
#[derive(Clone, Debug)]
pub struct Libnames {
    /// The name by which clients ask for a module, which may be empty, and the module's path. Of entries with
    /// the same name the last one counts, as in the original.
    pub entries: Vec<(String, PathBuf)>,
    /// Where the option stands.
    pub place: Place,
}

impl Libnames {
    /// Parses the value. Blanks around names and paths are ignored, and the last `;` may be missing.
    fn parse(option: &At<String>) -> Result<Libnames, Fault> {
        const SYNTAX: &str = "libnames = \"NAME:/path/of/module.so;\";";
        let mut entries = Vec::new();
        for entry in option.value.split(';').map(str::trim) {
            if entry.is_empty() {
                continue;
            }
            let shown = Printable(entry.as_bytes());
            let Some((name, path)) = entry.split_once(':') else {
                let message =
                    format!("`{shown}` has no name with a colon in front: write {SYNTAX}");
                return Err(option.fault(message));
            };
            let (name, path) = (name.trim(), path.trim());
            if path.is_empty() || path.contains('\0') {
                return Err(option.fault(format!("`{shown}` has no path: write {SYNTAX}")));
            }
            entries.push((name.to_owned(), PathBuf::from(path)));
        }
        if entries.is_empty() {
            return Err(option.fault(format!("expected at least one module: write {SYNTAX}")));
        }
        Ok(Libnames {
            entries,
            place: option.place.clone(),
        })
    }

    /// Returns the names that more than one entry has.
    fn repeated(&self) -> Vec<Printable<'_>> {
        let mut seen = BTreeSet::new();
        let names = self.entries.iter().map(|(name, _)| name.as_str());
        let repeated: BTreeSet<&str> = names.filter(|name| !seen.insert(*name)).collect();
        let repeated = repeated.into_iter();
        repeated.map(|name| Printable(name.as_bytes())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> Result<Vec<(String, String)>, String> {
        let option = At {
            value: value.to_owned(),
            place: Place::default(),
        };
        let libnames = Libnames::parse(&option).map_err(|fault| fault.to_string())?;
        let entries = libnames.entries.into_iter();
        Ok(entries
            .map(|(name, path)| (name, path.display().to_string()))
            .collect())
    }

    #[test]
    fn reads_what_the_original_reads() {
        let pair = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        let both = [pair("softhsm", "/a/b.so"), pair("open", "/c:d.so")];
        for value in [
            "softhsm:/a/b.so;open:/c:d.so;",
            "softhsm:/a/b.so;open:/c:d.so",
            "softhsm:/a/b.so; open:/c:d.so;\n",
            ";softhsm : /a/b.so;;open:/c:d.so",
        ] {
            assert_eq!(parsed(value).unwrap(), both, "{value}");
        }
        assert_eq!(parsed(":/a;").unwrap(), [pair("", "/a")]);
    }

    #[test]
    fn a_filter_file_counts_and_has_to_be_there() {
        let option = |value: &str| {
            let place = Place {
                line: 7,
                option: "o".into(),
            };
            let value = value.to_owned();
            Some(At { value, place })
        };
        let decide = |filter_config, libnames| {
            let mut warnings = Vec::new();
            let base = Path::new(env!("CARGO_MANIFEST_DIR"));
            let source = of(
                (filter_config, libnames),
                &Place::default(),
                base,
                &mut warnings,
            );
            let source = source.map_err(|fault| fault.to_string());
            let warnings = warnings.into_iter().map(|(_, text)| text);
            (source, warnings.collect::<Vec<_>>())
        };
        let (source, warnings) = decide(option("etc/filter.conf"), option("a:/x;"));
        let file = source.unwrap().filter_file().unwrap().to_owned();
        assert!(file.ends_with("etc/filter.conf"));
        assert_eq!(
            warnings,
            ["has no effect: modules are defined by filter_config"]
        );
        let (source, _) = decide(option("etc/none.conf"), option("a:/x;"));
        assert!(
            source
                .unwrap_err()
                .starts_with("7: o: there is no such file; to serve")
        );
        let (source, _) = decide(option("etc/none.conf"), None);
        assert!(source.is_ok(), "the filter says that it cannot read it");
        let (source, warnings) = decide(None, option("a:/x;b:/y;a:/z;"));
        assert!(source.unwrap().filter_file().is_none());
        assert_eq!(
            warnings,
            ["the last module `a` counts, the others are never used"]
        );
        let (source, _) = decide(None, None);
        assert!(source.unwrap_err().contains("`filter_config` is missing"));
    }

    #[test]
    fn refuses_what_names_no_module() {
        for (value, expected) in [
            ("", "expected at least one module"),
            (" ; ;", "expected at least one module"),
            ("/usr/lib/p11.so;", "`/usr/lib/p11.so` has no name"),
            ("a:/x;b:;", "`b:` has no path"),
            ("a:/x\0;", "has no path"),
        ] {
            let message = parsed(value).unwrap_err();
            assert!(message.contains(expected), "{value}: {message}");
            assert!(message.ends_with("write libnames = \"NAME:/path/of/module.so;\";"));
        }
    }
}
