//! Checks whether a module can be loaded, by reading its file: none of its code runs.
//!
//! Paths come from [`crate::policy`]; faults are logged at start, and reported by `-check`. A library that passes may
//! still fail to load, for example because a library that it needs is missing. The format is ELF, as the System V ABI
//! describes it ("Object Files" and "Dynamic Linking").

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bindings::sys::fork_child;
use nix::sys::wait::{WaitStatus, waitpid};

use crate::config::Identity;
use crate::worker::{become_user, take_groups};

/// The offsets and sizes of fields, in bytes, in ELF files of the host's class (32 or 64 bits).
struct Layout {
    word: usize,
    header: usize,
    segments_at: usize,
    sections_at: usize,
    /// The size and the number of segment headers, then the size and the number of section headers, 2 bytes each.
    counts_at: usize,
    segment_offset: usize,
    segment_size: usize,
    section_offset: usize,
    section_size: usize,
    section_link: usize,
    symbol: usize,
    symbol_section: usize,
}

const HOST: Layout = if cfg!(target_pointer_width = "64") {
    Layout {
        word: 8,
        header: 64,
        segments_at: 32,
        sections_at: 40,
        counts_at: 54,
        segment_offset: 8,
        segment_size: 32,
        section_offset: 24,
        section_size: 32,
        section_link: 40,
        symbol: 24,
        symbol_section: 6,
    }
} else {
    Layout {
        word: 4,
        header: 52,
        segments_at: 28,
        sections_at: 32,
        counts_at: 42,
        segment_offset: 4,
        segment_size: 16,
        section_offset: 16,
        section_size: 20,
        section_link: 24,
        symbol: 16,
        symbol_section: 14,
    }
};

/// The size of the part with EI_CLASS, EI_DATA, e_type and e_machine, in bytes. It precedes all fields whose offset
/// depends on the class.
const IDENT: usize = 20;

const ET_DYN: u64 = 3;
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const SHT_DYNSYM: u64 = 11;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_PIE: u64 = 0x0800_0000;

/// Upper bound on the size of a table that is read, in bytes. Larger ones are not examined.
const LARGEST: u64 = 64 << 20;

const ENTRY: &[u8] = b"C_GetFunctionList";

/// Examines a module's file. An error says why it cannot be loaded; a remark says what is probably wrong.
pub fn examine(module: &Path) -> Result<Option<&'static str>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}{}", successor(module));
    // Checked first, because opening a FIFO would block until it has a writer.
    if !fs::metadata(module).map_err(unreadable)?.is_file() {
        return Err("expected a library file".to_owned());
    }
    let file = File::open(module).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length == 0 {
        return Err("is empty: expected a shared library".to_owned());
    }
    let own = std::env::current_exe().and_then(File::open);
    let own = own.ok().and_then(|own| read(&own, 0, IDENT).ok());
    let ident = read(&file, 0, IDENT).map_err(unreadable)?;
    if !ident.starts_with(b"\x7fELF") || ident.len() < IDENT {
        return Err("is no shared library: it is no ELF file".to_owned());
    }
    if let Some(own) = own {
        other_machine(&ident, &own)?;
    }
    let header = read(&file, 0, HOST.header).map_err(unreadable)?;
    let elf = Elf {
        file: &file,
        length,
    };
    elf.check(&header)
}

/// Returns advice if the path is that of SoftHSM 1, which the original's files name, and SoftHSM 2 is installed.
fn successor(missing: &Path) -> String {
    const SOFTHSM_2: &str = "/usr/lib/softhsm/libsofthsm2.so";
    if missing.ends_with("libsofthsm.so") && Path::new(SOFTHSM_2).exists() {
        return format!("; write \"{SOFTHSM_2}\" for SoftHSM 2");
    }
    String::new()
}

/// Checks that a user can open a module's file, in a child process that becomes that user.
pub fn readable_by(identity: &Identity, module: &Path) -> Result<(), String> {
    const NOT_TRIED: i32 = 255;
    let user = &identity.user;
    let child = fork_child(io::stdin(), &[], |_| {
        let became = take_groups(identity).and_then(|()| become_user(identity));
        if became.is_err() {
            return NOT_TRIED;
        }
        match File::open(module) {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap_or(NOT_TRIED),
        }
    });
    let ended = child.and_then(|child| Ok(waitpid(child, None)?));
    match ended {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        Ok(WaitStatus::Exited(_, code)) if code != NOT_TRIED => {
            let error = io::Error::from_raw_os_error(code);
            Err(format!("cannot be read by the user {user}: {error}"))
        }
        Ok(_) => Err(format!("whether the user {user} can read it is unknown")),
        Err(error) => Err(format!(
            "whether the user {user} can read it is unknown: {error}"
        )),
    }
}

/// Returns an error if the module is for another kind of machine than this program.
fn other_machine(ident: &[u8], own: &[u8]) -> Result<(), String> {
    let byte = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
    let (class, data) = (byte(ident, 4), byte(ident, 5));
    if class != byte(own, 4) {
        let bits = |class| if class == 1 { 32 } else { 64 };
        let (module, daemon) = (bits(class), bits(byte(own, 4)));
        return Err(format!(
            "is a library of {module} bits, and this daemon has {daemon}"
        ));
    }
    if data != byte(own, 5) {
        return Err("is for machines with the other byte order".to_owned());
    }
    let (module, daemon) = (number(ident, 18, 2), number(own, 18, 2));
    if module != daemon {
        let (module, daemon) = (machine(module), machine(daemon));
        return Err(format!("is for {module}, and this daemon is for {daemon}"));
    }
    Ok(())
}

/// Returns the name of an architecture (e_machine).
fn machine(number: u64) -> String {
    match number {
        3 => "x86".to_owned(),
        8 => "MIPS".to_owned(),
        20 => "PowerPC".to_owned(),
        21 => "64-bit PowerPC".to_owned(),
        22 => "s390".to_owned(),
        40 => "ARM".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        258 => "LoongArch".to_owned(),
        other => format!("machine {other}"),
    }
}

/// An ELF file of the host's class and byte order.
struct Elf<'a> {
    file: &'a File,
    length: u64,
}

impl Elf<'_> {
    fn check(&self, header: &[u8]) -> Result<Option<&'static str>, String> {
        let broken = || "is damaged: its headers cannot be read".to_owned();
        if number(header, 16, 2) != ET_DYN {
            return Err("is no shared library, but a program or an object file".to_owned());
        }
        let table = |at, counts: usize| {
            let (size, count) = (number(header, counts, 2), number(header, counts + 2, 2));
            let bytes = self.bytes(number(header, at, HOST.word), size * count)?;
            let size = usize::try_from(size).ok()?;
            let entries = bytes.chunks_exact(size.max(1)).map(<[u8]>::to_vec);
            Some(entries.collect::<Vec<_>>())
        };
        let segments = table(HOST.segments_at, HOST.counts_at).ok_or_else(broken)?;
        let mut dynamic = None;
        for segment in &segments {
            let at = number(segment, HOST.segment_offset, HOST.word);
            let size = number(segment, HOST.segment_size, HOST.word);
            let end = at.saturating_add(size);
            match number(segment, 0, 4) {
                PT_LOAD if end > self.length => {
                    let missing = end - self.length;
                    return Err(format!("is cut off: at least {missing} bytes are missing"));
                }
                PT_DYNAMIC => dynamic = self.bytes(at, size),
                _ => {}
            }
        }
        let Some(dynamic) = dynamic else {
            return Err("is no shared library: it has no dynamic section".to_owned());
        };
        let is_program = dynamic.chunks_exact(2 * HOST.word).any(|entry| {
            let value = number(entry, HOST.word, HOST.word);
            number(entry, 0, HOST.word) == DT_FLAGS_1 && value & DF_1_PIE != 0
        });
        if is_program {
            return Err("is no shared library, but a program".to_owned());
        }
        // The loader needs no sections, so a file without them is no fault.
        let Some(sections) = table(HOST.sections_at, HOST.counts_at + 4) else {
            return Ok(None);
        };
        Ok(match self.exports(ENTRY, &sections) {
            Some(false) => Some(
                "does not export C_GetFunctionList: it is probably no PKCS#11 module; if no library that it \
                 needs has the function, clients cannot load it",
            ),
            _ => None,
        })
    }

    /// Whether the library itself defines a symbol of this name; `None` if it has no symbol table.
    fn exports(&self, name: &[u8], sections: &[Vec<u8>]) -> Option<bool> {
        let content = |section: &[u8]| {
            let at = number(section, HOST.section_offset, HOST.word);
            self.bytes(at, number(section, HOST.section_size, HOST.word))
        };
        let mut of_symbols = sections.iter();
        let symbols = of_symbols.find(|section| number(section, 4, 4) == SHT_DYNSYM)?;
        let link = usize::try_from(number(symbols, HOST.section_link, 4)).ok()?;
        let (symbols, names) = (content(symbols)?, content(sections.get(link)?)?);
        let found = symbols.chunks_exact(HOST.symbol).any(|symbol| {
            let at = usize::try_from(number(symbol, 0, 4)).ok();
            let found = at.and_then(|at| CStr::from_bytes_until_nul(names.get(at..)?).ok());
            let defined = number(symbol, HOST.symbol_section, 2) != 0;
            defined && found.is_some_and(|found| found.to_bytes() == name)
        });
        Some(found)
    }

    /// Returns bytes of the file, or `None` if the file is shorter or they are more than [`LARGEST`].
    fn bytes(&self, at: u64, length: u64) -> Option<Vec<u8>> {
        if length > LARGEST || at.checked_add(length)? > self.length {
            return None;
        }
        let length = usize::try_from(length).ok()?;
        let bytes = read(self.file, at, length).ok()?;
        (bytes.len() == length).then_some(bytes)
    }
}

/// Reads up to `length` bytes; fewer at the end of the file.
fn read(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Returns a number of up to 8 bytes in the host's byte order, or 0 if it is beyond the end.
fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let field = bytes.get(at..).and_then(|rest| rest.get(..size));
    let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    field.map_or(0, |field| {
        if cfg!(target_endian = "little") {
            field.iter().rev().fold(0, add)
        } else {
            field.iter().fold(0, add)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries prefixes of a file, and changes of single bytes of its header.
    #[test]
    fn survives_damaged_files() {
        let own = std::env::current_exe().unwrap();
        let whole = fs::read(own).unwrap();
        let directory = std::env::temp_dir();
        let path = directory.join(format!("pkcs11proxyd-{}-elf", std::process::id()));
        let start = whole.get(..4096).unwrap();
        for end in (0..start.len()).step_by(7) {
            fs::write(&path, &start[..end]).unwrap();
            assert!(examine(&path).is_err(), "{end} bytes");
        }
        for at in 0..HOST.header {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut changed = start.to_vec();
                changed[at] = byte;
                fs::write(&path, &changed).unwrap();
                let _any = examine(&path);
            }
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn this_program_is_no_library() {
        let message = examine(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(message.starts_with("is no shared library, but a program"));
    }
}
