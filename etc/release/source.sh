#!/bin/sh
# source.sh DIRECTORY: writes the committed sources to a new directory, with all crates in vendor/, so that they build
# without network. cargo finds the crates by .cargo/config.toml, which is written there, too.
set -eu

fail() {
    echo "source: $*" >&2
    exit 1
}

directory=${1-}
[ -n "$directory" ] || fail "usage: source.sh DIRECTORY"
[ ! -e "$directory" ] || fail "$directory exists already"
project=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$directory/.cargo"
git -C "$project" archive HEAD | tar -x -C "$directory" || fail "git archive"
cd "$directory"
"${CARGO:-cargo}" vendor --locked --versioned-dirs vendor >.cargo/config.toml 2>cargo-vendor.log ||
    { cat cargo-vendor.log >&2; fail "cargo vendor"; }
rm cargo-vendor.log
# Binary libraries of crates for Windows, 100 MB. No build on Linux reads these crates.
rm -rf vendor/winapi-*-pc-windows-gnu-*/lib
