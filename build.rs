//! Compiles the protocol files of both versions, `xdr/pkcs11_rpc_v4.x` and `xdr/pkcs11_rpc.x`, for the crate `xdr`.
//!
//! The types of the crate are those of version 4; version 3 is converted to and from them. The output in OUT_DIR is
//! mostly data, as macro calls with one row for each integer type, for each procedure, and for each structure whose
//! members all have types with a name. The rows of version 3's procedures also name the types of version 4. Structures
//! with arrays and byte strings go through xdrgen; bounds are added to them, and decoding uses `xdr::codec`. Unions,
//! enumerations and other typedefs are written by hand in the crate, and a test compares them with xdrgen's.

use std::collections::BTreeMap;
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

/// Structures that are written by hand: those that contain each other, and those that are not what they send.
const BY_HAND: [(&str, &str); 7] = [
    ("pkcs11_rpc_v4.x", "Attribute"),
    ("pkcs11_rpc_v4.x", "Wanted"),
    ("pkcs11_rpc_v4.x", "Answer"),
    ("pkcs11_rpc_v4.x", "Hello"),
    ("pkcs11_rpc_v4.x", "Mechanism"),
    ("pkcs11_rpc_v4.x", "ParameterStructure"),
    ("pkcs11_rpc.x", "Mechanism"),
];

fn main() {
    println!("cargo::rerun-if-changed=../build.rs");
    let current = Interface::read("pkcs11_rpc_v4.x");
    let former = Interface::read("pkcs11_rpc.x");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let write = |name: &str, content: String| {
        fs::write(Path::new(&out).join(name), content).expect("OUT_DIR is writable");
    };

    write("integers.rs", integer_rows(&current, &former));
    write("specification.rs", specification(&current));
    write("parameters.rs", parameter_table());
    write("types.rs", types(&current, |_| true));
    write("structures.rs", structure_rows(&current, |_| true));
    write("procedures.rs", procedure_rows(&current));
    // What version 3 declares in the same words is the same type.
    let differs = |structure: &Declaration| !current.declarations.contains(structure);
    write("types3.rs", types(&former, differs));
    write("structures3.rs", structure_rows(&former, differs));
    write("procedures3.rs", former_procedure_rows(&former, &current));
}

/// One declaration of an interface.
#[derive(PartialEq)]
enum Declaration {
    /// `typedef unsigned hyper NAME`.
    Integer(String),
    /// `const NAME = NUMBER`.
    Constant(String),
    /// `struct NAME { TYPE NAME; ... }`: the name, and each member as type and name.
    Structure(String, Vec<(String, String)>),
}

/// `REPLY NAME(ARGUMENTS) = NUMBER`.
struct Procedure {
    name: String,
    number: u32,
    arguments: Vec<String>,
    reply: String,
}

/// What a `.x` file says, as far as it becomes code.
struct Interface {
    file: &'static str,
    /// All before the program block, without comments.
    text: String,
    declarations: Vec<Declaration>,
    procedures: Vec<Procedure>,
    program: u32,
    version: u32,
}

impl Interface {
    fn read(file: &'static str) -> Interface {
        println!("cargo::rerun-if-changed={file}");
        let text = fs::read_to_string(file).expect("the interface is readable");
        let text = without_comments(&text);
        let (declarations, program) = text
            .split_once("program ")
            .expect("the interface has a program block");
        let (_, body) = program.split_once('{').expect("a program has a body");
        let (_, body) = body.split_once('{').expect("a version has a body");
        let (procedures, closing) = body.split_once('}').expect("a version is closed");
        Interface {
            file,
            text: declarations.to_owned(),
            declarations: statements(declarations)
                .filter_map(|text| declaration(file, text))
                .collect(),
            procedures: statements(procedures).map(procedure).collect(),
            version: number_after_equals(closing.split(';').next().unwrap_or_default()),
            program: number_after_equals(closing.split(['}', ';']).nth(2).unwrap_or_default()),
        }
    }

    fn integers(&self) -> impl Iterator<Item = &str> {
        self.declarations
            .iter()
            .filter_map(|declaration| match declaration {
                Declaration::Integer(name) => Some(name.as_str()),
                _ => None,
            })
    }

    fn structures(&self) -> impl Iterator<Item = (&Declaration, &str, &[(String, String)])> {
        self.declarations
            .iter()
            .filter_map(|declaration| match declaration {
                Declaration::Structure(name, members) => {
                    Some((declaration, name.as_str(), members.as_slice()))
                }
                _ => None,
            })
    }
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

/// What stands before each semicolon that is in no braces, with single blanks.
fn statements(text: &str) -> impl Iterator<Item = String> {
    let mut depth = 0;
    let mut found = vec![String::new()];
    for character in text.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ';' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().expect("there is one").push(character);
    }
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    found.into_iter().map(words).filter(|text| !text.is_empty())
}

/// `None` for what is written by hand.
fn declaration(interface: &str, text: String) -> Option<Declaration> {
    if let Some(name) = text.strip_prefix("typedef unsigned hyper ") {
        return Some(Declaration::Integer(name.to_owned()));
    }
    if text.starts_with("const ") {
        return Some(Declaration::Constant(text));
    }
    let (name, members) = text.strip_prefix("struct ")?.split_once(" {")?;
    if BY_HAND.contains(&(interface, name)) {
        return None;
    }
    let members = members.trim_end_matches('}').split(';').map(str::trim);
    let members = members.filter(|member| !member.is_empty()).map(|member| {
        let (kind, name) = member.rsplit_once(' ').expect("a member has a type");
        (kind.to_owned(), name.to_owned())
    });
    Some(Declaration::Structure(name.to_owned(), members.collect()))
}

fn procedure(text: String) -> Procedure {
    let (declaration, number) = text.rsplit_once('=').expect("a procedure has a number");
    let (head, arguments) = declaration
        .split_once('(')
        .expect("a procedure has arguments");
    let (reply, name) = head.split_once(' ').expect("a procedure has a type");
    let arguments = arguments.trim().trim_end_matches(')').split(',');
    Procedure {
        name: name.trim().to_owned(),
        number: number.trim().parse().expect("a decimal number"),
        arguments: arguments
            .map(str::trim)
            .filter(|argument| *argument != "void")
            .map(str::to_owned)
            .collect(),
        reply: reply.to_owned(),
    }
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

fn is_simple((_, name): &(String, String)) -> bool {
    !name.contains(['<', '['])
}

fn integer_rows(current: &Interface, former: &Interface) -> String {
    let names: BTreeMap<&str, ()> = current
        .integers()
        .chain(former.integers())
        .map(|name| (name, ()))
        .collect();
    let rows: String = names.keys().map(|name| format!("    {name};\n")).collect();
    format!("define_integers! {{\n{rows}}}\n")
}

/// A row for each structure whose members are all of types with a name.
fn structure_rows(interface: &Interface, wanted: impl Fn(&Declaration) -> bool) -> String {
    let mut rows = String::new();
    for (declaration, name, members) in interface.structures() {
        if members.iter().all(is_simple) && wanted(declaration) {
            let members: Vec<String> = members
                .iter()
                .map(|(kind, name)| format!("{name}: {kind}"))
                .collect();
            rows.push_str(&format!("    {name} {{ {} }}\n", members.join(", ")));
        }
    }
    format!("define_structures! {{\n{rows}}}\n")
}

/// Gives each `<>` its bound: byte strings by their length, arrays by their elements.
fn bounded((kind, name): &(String, String)) -> String {
    let bound = if kind == "opaque" {
        BYTES_BOUND
    } else {
        ARRAY_BOUND
    };
    format!("{kind} {};\n", name.replace("<>", &format!("<{bound}>")))
}

/// Runs xdrgen on the structures with arrays, then changes three things in what it wrote: no derived
/// `Debug` (it would print PINs), the traits the crate needs, and lengths read by `codec`, which reserves
/// nothing ahead of the bytes and takes no short value as whole.
fn types(interface: &Interface, wanted: impl Fn(&Declaration) -> bool) -> String {
    let mut text = String::new();
    for declaration in &interface.declarations {
        match declaration {
            Declaration::Integer(_) => {}
            // Both versions need the bounds of their own structures.
            Declaration::Constant(constant) => text.push_str(&format!("{constant};\n")),
            Declaration::Structure(name, members) => {
                if !members.iter().all(is_simple) && wanted(declaration) {
                    let members: String = members.iter().map(bounded).collect();
                    text.push_str(&format!("struct {name} {{\n{members}}};\n"));
                }
            }
        }
    }
    let mut generated = Vec::new();
    xdrgen::generate(interface.file, text.as_bytes(), &mut generated)
        .expect("xdrgen takes the structures of the interface");
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
        types = types.replace(&theirs, &format!("crate :: codec :: {function}"));
    }
    types
}

/// What xdrgen makes of all types, unions and recursive structures included. The crate has types of its own;
/// its tests compare them with these.
fn specification(interface: &Interface) -> String {
    let mut text = String::new();
    for line in interface.text.lines() {
        let bound = if line.contains("opaque") {
            BYTES_BOUND
        } else {
            ARRAY_BOUND
        };
        text.push_str(&line.replace("<>", &format!("<{bound}>")));
        text.push('\n');
    }
    let mut generated = Vec::new();
    xdrgen::generate(interface.file, text.as_bytes(), &mut generated)
        .expect("xdrgen takes the types of the interface");
    String::from_utf8(generated).expect("xdrgen writes UTF-8")
}

fn named_arguments(types: &[String]) -> String {
    let arguments: Vec<String> = types
        .iter()
        .enumerate()
        .map(|(position, kind)| format!("a{position}: {kind}"))
        .collect();
    arguments.join(", ")
}

/// `C_Name = NUMBER (a0: TYPE, a1: TYPE) -> REPLY;`.
fn procedure_rows(interface: &Interface) -> String {
    let rows: String = interface
        .procedures
        .iter()
        .map(|procedure| {
            let arguments = named_arguments(&procedure.arguments);
            let (name, number, reply) = (&procedure.name, procedure.number, &procedure.reply);
            format!("    {name} = {number} ({arguments}) -> {reply};\n")
        })
        .collect();
    let (program, version) = (interface.program, interface.version);
    format!(
        "/// The RPC program number.\npub const PROGRAM: u32 = {program};\n\
         /// The newest version of the program that is spoken.\npub const VERSION: u32 = {version};\n\
         /// Upper bound on the elements of a list in one record.\n\
         pub const MOST_ELEMENTS: u64 = {ARRAY_BOUND};\n\
         /// Upper bound on the length of a byte string in one record, in bytes.\n\
         pub const LONGEST_BYTES: u64 = {BYTES_BOUND};\n\
         define_calls! {{\n{rows}}}\n"
    )
}

/// The rows of the older version, with the types of the newer one beside their own and the arguments that
/// only the newer one has: `C_Name (a0: TYPE => TYPE, ...) + (a1: TYPE) -> REPLY => REPLY;`.
fn former_procedure_rows(former: &Interface, current: &Interface) -> String {
    let mut rows = String::new();
    for procedure in &former.procedures {
        let newer = current
            .procedures
            .iter()
            .find(|newer| newer.name == procedure.name);
        let newer = newer.expect("version 4 has every procedure of version 3");
        assert_eq!(procedure.number, newer.number, "{}", procedure.name);
        let known = procedure.arguments.len();
        let arguments: Vec<String> = procedure
            .arguments
            .iter()
            .zip(&newer.arguments)
            .enumerate()
            .map(|(position, (older, newer))| format!("a{position}: {older} => {newer}"))
            .collect();
        let added: Vec<String> = (known..newer.arguments.len())
            .map(|position| format!("a{position}"))
            .collect();
        rows.push_str(&format!(
            "    {} ({}) + ({}) -> {} => {};\n",
            procedure.name,
            arguments.join(", "),
            added.join(", "),
            procedure.reply,
            newer.reply
        ));
    }
    let version = former.version;
    format!(
        "/// The version of the program that the original speaks.\npub const VERSION: u32 = {version};\n\
         define_former_calls! {{\n{rows}}}\n"
    )
}
