//! Finds the alias of the module that the daemon is asked for.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::SettingsError;
use super::sources::{Environment, Found, Origin, Sections};

/// The file in the user's home directory that names the module.
const ALIAS_FILE: &str = ".camlcrushlibname";

/// The longest alias in the file, in bytes; a variable can have any length.
pub(super) const LONGEST_ALIAS: usize = 32;

/// Returns the first of these that is set: the variable, even if empty; the settings file; the compiled-in name; the
/// alias file. If none is, returns the empty name, which a site gives to the module that clients get by default. A
/// library of the original that is built with an empty name asks for that one too.
pub(super) fn alias(
    environment: &Environment<'_>,
    sections: &Sections,
) -> Result<Found<Vec<u8>>, SettingsError> {
    const LIBNAME: &str = "PKCS11PROXY_LIBNAME";
    if let Some(alias) = (environment.variable)(LIBNAME) {
        let (value, origin) = (alias.into_encoded_bytes(), Origin::Variable(LIBNAME));
        return Ok(Found { value, origin });
    }
    if let Some(alias) = sections.alias() {
        return Ok(alias.map(String::into_bytes));
    }
    if let Some(alias) = environment.built_in.libname {
        let (value, origin) = (alias.as_bytes().to_vec(), Origin::Built);
        return Ok(Found { value, origin });
    }
    let unnamed = Found {
        value: Vec::new(),
        origin: Origin::Default,
    };
    let Some(home) = (environment.variable)("HOME") else {
        return Ok(unnamed);
    };
    // Concatenated as in the original: with an empty HOME this is not the working directory.
    let mut path = home;
    path.push("/");
    path.push(ALIAS_FILE);
    let path = PathBuf::from(path);
    let content = match (environment.file)(&path) {
        Ok(content) => content,
        // NotADirectory: the HOME of a service's user may be /dev/null.
        Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(unnamed);
        }
        Err(cause) => return Err(SettingsError::AliasFile(path, cause)),
    };
    if content.is_empty() {
        return Err(SettingsError::AliasFileEmpty(path));
    }
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > LONGEST_ALIAS {
        return Err(SettingsError::AliasTooLong(path));
    }
    let value = line.to_vec();
    Ok(Found {
        value,
        origin: Origin::File(path, 1),
    })
}
