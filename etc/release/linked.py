#!/usr/bin/env python3
"""Tells what is linked into the programs and libraries: linked.py licences|sbom, on standard output.

`licences` prints the licence texts of all crates that are linked, and of Rust's standard library. `sbom` prints a
software bill of materials in CycloneDX 1.6 (JSON). Both follow from what cargo says: not from crates that only build
scripts, macros, tests or other systems use. Everything is printed in the same order with the same bytes each time.
Needs the crates, as `cargo fetch` or `cargo vendor` leave them, but no network.
"""

import functools
import html
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

PROJECT = pathlib.Path(__file__).resolve().parents[2]
# What the programs and libraries are made of: the daemon with pkcs11proxyctl, and the client library with its doctor.
ROOTS = ["pkcs11proxyd", "client"]
# Linked when a program starts, so that they are the system's; a bill of materials names them all the same.
SYSTEM = [("openssl", "Apache-2.0", "the system's libssl.so.3 and libcrypto.so.3"),
          ("glibc", "LGPL-2.1-or-later", "the system's libc.so.6")]
# Where there is a choice, the first of these. deny.toml allows no others.
PREFERENCE = ["MIT", "ISC", "Unicode-3.0", "Apache-2.0"]
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|unlicense)", re.IGNORECASE)
NOTICE_FILE = re.compile(r"(notice|copyright)", re.IGNORECASE)
# Parts of the names of files that contain one licence only.
NAMED_AFTER = {"MIT": "mit", "Apache-2.0": "apache", "ISC": "isc", "Unicode-3.0": "unicode"}


def fail(message):
    sys.exit(f"linked: {message}")


def run(*command):
    return subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True).stdout


def cargo(*arguments):
    return run(os.environ.get("CARGO", "cargo"), *arguments, "--locked", "--offline")


@functools.cache
def host():
    return re.search(r"^host: (.*)$", run("rustc", "-vV"), re.MULTILINE).group(1)


def packages():
    """All packages of the workspace and below, by name and version."""
    metadata = json.loads(cargo("metadata", "--format-version", "1"))
    return {(package["name"], package["version"]): package for package in metadata["packages"]}


def graph():
    """Each linked package with those that it needs itself, as names and versions."""
    roots = [argument for root in ROOTS for argument in ("--package", root)]
    lines = cargo("tree", "--edges", "normal,no-proc-macro", "--target", host(), "--prefix", "depth", "--no-dedupe",
                  "--format", "{p}", *roots)
    needs, above = {}, []
    for line in filter(None, lines.splitlines()):
        depth, name, version = re.match(r"(\d+)(\S+) v(\S+)", line).groups()
        package = name, version
        del above[int(depth):]
        if above:
            needs[above[-1]].add(package)
        needs.setdefault(package, set())
        above.append(package)
    return needs


def chosen(expression):
    """The licences of an expression that count here."""
    expression = expression.replace("/", " OR ")
    parts = [part.strip(" ()") for part in re.split(r" AND (?![^(]*\))", expression)]
    found = []
    for part in parts:
        choice = part.split(" OR ")
        found.append(next((name for name in PREFERENCE if name in choice), None))
    if None in found:
        fail(f"no known licence in {expression}")
    return found


def texts(files, licences, where):
    """Of files, as pairs of name and text, those that belong to these licences."""
    selected = [text for name, text in files if NOTICE_FILE.search(name)]
    for licence in licences:
        named = [text for name, text in files if LICENCE_FILE.search(name) and NAMED_AFTER[licence] in name.lower()]
        plain = [text for name, text in files if LICENCE_FILE.search(name)
                 and not any(part in name.lower() for part in [*NAMED_AFTER.values(), "unlicense", "zlib", "bsd"])]
        if not named and not plain:
            return None
        selected += named or plain
    return selected


def normal(text):
    lines = [line.rstrip() for line in text.replace("\r", "").replace("\t", "    ").strip("\n").splitlines()]
    return "\n".join(lines) + "\n"


def of_crates():
    """Each linked crate that is not ours: title, licence, home, texts; None for texts if it comes without."""
    known = packages()
    for key in sorted(graph()):
        package = known[key]
        if package["source"] is None:
            continue
        folder = pathlib.Path(package["manifest_path"]).parent
        licences = chosen(package["license"])
        files = [(path.name, path.read_text(errors="replace")) for path in sorted(folder.iterdir()) if path.is_file()
                 and (LICENCE_FILE.search(path.name) or NOTICE_FILE.search(path.name)) and path.suffix != ".rs"]
        found = texts(files, licences, key)
        authors = "" if found else ", ".join(package["authors"])
        yield " ".join(key), package["license"], package["repository"] or "", found, authors


def of_standard_library():
    """Rust's standard library, and the crates in it, from what comes with the compiler."""
    version = run("rustc", "--version").split()[1]
    sysroot = pathlib.Path(run("rustc", "--print", "sysroot").strip())
    page = sysroot / "share/doc/rust/COPYRIGHT-library.html"
    home = "https://github.com/rust-lang/rust"
    if not page.exists():
        # Debian's compiler.
        pages = sorted(pathlib.Path("/usr/share/doc").glob("libstd-rust-*dev/copyright"))
        if not pages:
            fail(f"neither {page} nor the copyright file of Debian's libstd-rust-dev is there")
        yield f"Rust's standard library {version}", "MIT OR Apache-2.0", home, [pages[0].read_text()], ""
        return
    # The page is about all systems; these are the crates for this one.
    there = {library.name.removeprefix("lib").rsplit("-", 1)[0]
             for library in (sysroot / "lib/rustlib" / host() / "lib").glob("*.rlib")}
    for section in page.read_text().split("<h3>")[1:]:
        title = re.sub(r"^\W+", "", html.unescape(section.split("</h3>")[0]))
        if re.match(r"(.*?)-\d", title).group(1).replace("-", "_") not in there:
            continue
        licence = html.unescape(re.search(r"<b>License:</b> (.*?)</p>", section).group(1))
        found = [(name, html.unescape(text)) for name, text in
                 re.findall(r"<summary><code>(.*?)</code></summary>\s*<pre>\n?(.*?)</pre>", section, re.DOTALL)]
        yield f"{title} (in Rust's standard library)", licence, "", [text for _, text in found], ""
    yield f"Rust's standard library {version}", "MIT OR Apache-2.0", home, None, "The Rust Project Developers"


def licences():
    entries = [*of_crates(), *of_standard_library()]
    # A crate without a file is under the Apache License if it may be: its text is the same for all.
    apache = next(text for _, _, _, found, _ in entries for text in found or []
                  if "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text)
    users = {}
    print("The programs and libraries of pkcs11proxyd contain code of these projects. OpenSSL and the C library are\n"
          "the system's: they are linked when a program starts, and are no part of it.\n")
    for title, licence, home, found, authors in entries:
        print(f"  {title}: {licence}" + (f"  {home}" if home else ""))
        if not found:
            if "Apache-2.0" not in licence:
                fail(f"{title} comes without its licence")
            print(f"    by {authors}; it comes without a file, so under the Apache License")
            found = [apache]
        for text in found:
            users.setdefault(normal(text), []).append(title)
    for text, titles in users.items():
        print("\n" + "=" * 100)
        for title in titles:
            print(title)
        print("=" * 100 + "\n")
        print(text, end="")


def reference(key):
    return f"pkg:cargo/{key[0]}@{key[1].replace('+', '%2B')}"


def sbom():
    known, needs = packages(), graph()
    checksums = {(package["name"], package["version"]): package.get("checksum")
                 for package in tomllib.loads((PROJECT / "Cargo.lock").read_text())["package"]}
    compiler = run("rustc", "--version").split()[1]
    components = []
    for key in sorted(needs):
        package = known[key]
        component = {"type": "library", "bom-ref": reference(key), "name": key[0], "version": key[1],
                     "scope": "required", "licenses": [{"expression": package["license"].replace("/", " OR ")}]}
        if package["description"]:
            component["description"] = " ".join(package["description"].split())
        if package["source"] is not None:
            component["purl"] = reference(key)
            component["hashes"] = [{"alg": "SHA-256", "content": checksums[key]}]
            if package["repository"]:
                component["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        components.append(component)
    standard = {"type": "library", "bom-ref": "rust-std", "name": "rust-std", "version": compiler, "scope": "required",
                "description": "Rust's standard library, linked statically",
                "licenses": [{"expression": "MIT OR Apache-2.0"}]}
    system = [{"type": "library", "bom-ref": name, "name": name, "scope": "required", "description": description,
               "licenses": [{"expression": licence}]} for name, licence, description in SYSTEM]
    roots = [(root, known_key[1]) for root in ROOTS for known_key in needs if known_key[0] == root]
    version = roots[0][1]
    product = {"type": "application", "bom-ref": "product", "name": "pkcs11proxyd", "version": version,
               "description": known[roots[0]]["description"], "licenses": [{"expression": "MIT"}]}
    everywhere = ["rust-std", "glibc"]
    dependencies = [{"ref": "product", "dependsOn": [*map(reference, roots), *everywhere]}]
    for key in sorted(needs):
        below = [reference(need) for need in sorted(needs[key])]
        dependencies.append({"ref": reference(key),
                             "dependsOn": below + (["openssl"] if key[0] == "openssl-sys" else [])})
    dependencies += [{"ref": other["bom-ref"]} for other in [standard, *system]]
    commit = run("git", "show", "--no-patch", "--format=%cd %H", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "HEAD")
    time, commit = commit.split()
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
           "metadata": {"timestamp": time, "component": product,
                        "properties": [{"name": "git:commit", "value": commit},
                                       {"name": "rust:target", "value": host()}]},
           "components": [*components, standard, *system], "dependencies": dependencies}
    # The same contents have the same number.
    bom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True)).urn
    print(json.dumps(bom, indent=2))


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    match sys.argv[1:]:
        case ["licences"]:
            licences()
        case ["sbom"]:
            sbom()
        case _:
            fail("usage: linked.py licences|sbom")
