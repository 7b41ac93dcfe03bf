//! Compiles `xdr/pkcs11_rpc.x` for the crate `xdr`.
//!
//! It writes three files to OUT_DIR. `types.rs` is what xdrgen makes of the structures, with
//! bounds added and decoding tied to `xdr::codec`. `integers.rs` and `procedures.rs` are data: one
//! macro call each, with a row for each integer type and for each procedure; `xdr/integers.rs` and
//! `xdr/call.rs` turn the rows into code.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

#[allow(dead_code)] // what reads a vendor's table uses the rest
#[path = "xdr/mechanism/notation.rs"]
mod notation;

/// Bound for a byte string that has none in the interface: 1 GiB. The decoder allocates nothing for an
/// announced length; the bound only keeps lengths within an `i32`.
const BYTES_BOUND: u32 = 1 << 30;

/// Elements of an array (attributes, slots, mechanisms, objects) in one record.
const ARRAY_BOUND: u32 = 1 << 16;

fn main() {
    let interface = Path::new("pkcs11_rpc.x");
    println!("cargo::rerun-if-changed={}", interface.display());
    println!("cargo::rerun-if-changed=../build.rs");
    let text = fs::read_to_string(interface).expect("xdr/pkcs11_rpc.x is readable");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let write = |name: &str, content: String| {
        fs::write(Path::new(&out).join(name), content).expect("OUT_DIR is writable");
    };

    let text = without_comments(&text);
    let (declarations, program) = text
        .split_once("program ")
        .expect("the interface ends with a program block");
    let (integers, structures) = split_integers(declarations);
    write("types.rs", types(&structures));
    write("integers.rs", integer_rows(&integers));
    write("procedures.rs", procedure_rows(program));
    write("parameters.rs", parameter_table());
}

/// Turns the table of mechanism parameters into one static for each structure, and a function that
/// maps a mechanism and its use to structures.
fn parameter_table() -> String {
    let table = "mechanism_parameters.toml";
    println!("cargo::rerun-if-changed={table}");
    println!("cargo::rerun-if-changed=mechanism/notation.rs");
    println!("cargo::rerun-if-changed=mechanism/notation");
    let text = fs::read_to_string(table).expect("xdr/mechanism_parameters.toml is readable");
    let rows = notation::parse(&text, &[])
        .unwrap_or_else(|mistake| panic!("xdr/{table}:{}: {}", mistake.line, mistake.message));

    let mut source = String::new();
    let mut names = Vec::new();
    let mut takers: Vec<(notation::Use, &str, Vec<&str>)> = Vec::new();
    for row in &rows {
        let name = row.layout.name;
        names.push(format!("&{name}"));
        writeln!(source, "static {name}: Layout = {:?};", row.layout).expect("a string grows");
        for (line, usage, mechanism) in &row.mechanisms {
            let notation::Name::Standard(mechanism) = mechanism else {
                panic!("xdr/{table}:{line}: expected the name of a mechanism");
            };
            match takers
                .iter_mut()
                .find(|(other_use, other, _)| (other_use, *other) == (usage, mechanism))
            {
                Some((_, _, structures)) => structures.push(name),
                None => takers.push((*usage, mechanism, vec![name])),
            }
        }
    }
    let names = names.join(", ");
    writeln!(source, "static STRUCTURES: &[&Layout] = &[{names}];").expect("a string grows");
    let mut arms = String::new();
    for (usage, mechanism, structures) in &takers {
        let list = format!("{}_OF_{}", usage.key().to_uppercase(), mechanism);
        let structures: Vec<String> = structures.iter().map(|name| format!("&{name}")).collect();
        let structures = structures.join(", ");
        writeln!(source, "static {list}: &[&Layout] = &[{structures}];").expect("a string grows");
        writeln!(
            arms,
            "        (cryptoki_sys::{mechanism}, Use::{usage:?}) => {list},"
        )
        .expect("a string grows");
    }
    source
        + "fn built_in(mechanism: CK_MECHANISM_TYPE, usage: Use) -> &'static [&'static Layout] {\n"
        + "    match (mechanism, usage) {\n"
        + &arms
        + "        _ => &[],\n    }\n}\n"
}

fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, comment)) = rest.split_once("/*") {
        kept.push_str(before);
        rest = comment.split_once("*/").expect("comments are closed").1;
    }
    kept + rest
}

/// Takes the `typedef unsigned hyper NAME;` lines out of the declarations.
fn split_integers(declarations: &str) -> (Vec<String>, String) {
    let mut names = Vec::new();
    let mut others = String::new();
    for line in declarations.lines() {
        match line.trim().strip_prefix("typedef unsigned hyper ") {
            Some(name) => names.push(name.trim().trim_end_matches(';').to_owned()),
            None => others.push_str(&(bounded(line) + "\n")),
        }
    }
    (names, others)
}

/// Gives each `<>` its bound: byte strings by their length, arrays by their elements.
fn bounded(line: &str) -> String {
    line.split_inclusive(';')
        .map(|declaration| {
            let bound = if declaration.contains("opaque") {
                BYTES_BOUND
            } else {
                ARRAY_BOUND
            };
            declaration.replace("<>", &format!("<{bound}>"))
        })
        .collect()
}

/// Runs xdrgen, then changes three things in what it wrote: no derived `Debug` (it would print
/// PINs), the traits the crate needs, and lengths read by `codec`, which reserves nothing ahead of
/// the bytes and takes no short value as whole.
fn types(structures: &str) -> String {
    let mut generated = Vec::new();
    xdrgen::generate("pkcs11_rpc.x", structures.as_bytes(), &mut generated)
        .expect("xdrgen takes the declarations of pkcs11_rpc.x");
    let generated = String::from_utf8(generated).expect("xdrgen writes UTF-8");
    let mut types = String::new();
    for line in generated.lines() {
        let line = match line.split_once("] pub struct") {
            Some((derive, rest)) if derive.starts_with("#[derive") => format!("pub struct{rest}"),
            _ => line.to_owned(),
        };
        if line.starts_with("pub struct Version ") {
            // xdr/wire_types.rs writes its Default: an empty number would be no version.
            types.push_str("#[derive(Clone, Eq, PartialEq)]\n");
        } else if line.starts_with("pub struct") {
            types.push_str("#[derive(Clone, Default, Eq, PartialEq)]\n");
        }
        types.push_str(&line);
        types.push('\n');
    }
    for function in ["unpack_opaque_flex", "unpack_flex"] {
        let theirs = format!("xdr_codec :: {function}");
        assert!(types.contains(&theirs), "xdrgen no longer calls {theirs}");
        types = types.replace(&theirs, &format!("crate :: codec :: {function}"));
    }
    types
}

fn integer_rows(names: &[String]) -> String {
    assert!(!names.is_empty(), "the interface has integer types");
    let rows: String = names.iter().map(|name| format!("    {name};\n")).collect();
    format!("define_integers! {{\n{rows}}}\n")
}

/// `REPLY C_Name(TYPE, TYPE) = NUMBER;` becomes `C_Name = NUMBER (a0: TYPE, a1: TYPE) -> REPLY;`.
fn procedure_rows(program: &str) -> String {
    let (_, body) = program.split_once('{').expect("a program has a body");
    let (_, body) = body.split_once('{').expect("a version has a body");
    let (procedures, closing) = body.split_once('}').expect("a version is closed");
    let version = number_after_equals(closing.split(';').next().unwrap_or_default());
    let program = number_after_equals(closing.split('}').nth(1).unwrap_or_default());

    let mut rows = String::new();
    for line in procedures
        .split(';')
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let (declaration, number) = line.rsplit_once('=').expect("a procedure has a number");
        let (head, arguments) = declaration
            .split_once('(')
            .expect("a procedure has arguments");
        let (reply, name) = head
            .split_once(char::is_whitespace)
            .expect("a procedure has a type");
        let arguments: Vec<String> = arguments
            .trim()
            .trim_end_matches(')')
            .split(',')
            .map(str::trim)
            .filter(|argument| *argument != "void")
            .enumerate()
            .map(|(position, argument)| format!("a{position}: {argument}"))
            .collect();
        let (name, number) = (name.trim(), number.trim());
        let arguments = arguments.join(", ");
        rows.push_str(&format!(
            "    {name} = {number} ({arguments}) -> {reply};\n"
        ));
    }
    format!(
        "/// The RPC program number.\npub const PROGRAM: u32 = {program};\n\
         /// The one version of the program that is spoken.\npub const VERSION: u32 = {version};\n\
         /// Upper bound on the elements of a list in one record.\n\
         pub const MOST_ELEMENTS: u64 = {ARRAY_BOUND};\n\
         /// Upper bound on the length of a byte string in one record, in bytes.\n\
         pub const LONGEST_BYTES: u64 = {BYTES_BOUND};\n\
         define_calls! {{\n{rows}}}\n"
    )
}

fn number_after_equals(text: &str) -> u32 {
    let digits = text.split_once('=').expect("a number follows").1;
    digits
        .trim()
        .trim_end_matches(';')
        .trim()
        .parse()
        .expect("a decimal number")
}
