#!/bin/sh
# deny.sh: checks the dependencies as deny.toml says, with cargo-deny, which is built below the target
# directory the first time. Licences, sources and banned crates are always checked. Advisories are checked
# against a snapshot of RustSec's database: a tar.xz at ADVISORY_DB, by default
# ../shared/design/advisory-db.tar.xz; without one this says that they were not checked.
set -eu

# Builds with Rust 1.88.
cargo_deny_version=0.20.2
# The name that cargo-deny derives from the database's address.
database_name=advisory-db-3157b0e258782691

fail() {
    echo "deny: $*" >&2
    exit 1
}

snapshot=${ADVISORY_DB:-../shared/design/advisory-db.tar.xz}
cargo=${CARGO:-cargo}
[ -f deny.toml ] || fail "no deny.toml here; run this in the project's directory"
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/tools"
tools=$(cd "$target/tools" && pwd)

# It runs for a second or two, so that optimising it would take longer than it saves.
case "$("$tools/bin/cargo-deny" --version 2>/dev/null)" in
"cargo-deny $cargo_deny_version") ;;
*)
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_TARGET_DIR=$tools/build "$cargo" install --quiet --locked --root "$tools" \
        --version "$cargo_deny_version" cargo-deny || fail "cannot build cargo-deny $cargo_deny_version"
    rm -rf "$tools/build"
    ;;
esac

"$cargo" fetch --quiet --locked || fail "cannot download the dependencies"
checks="bans licenses sources"
if [ -f "$snapshot" ]; then
    ADVISORY_DBS=$tools/advisory-dbs
    export ADVISORY_DBS
    database=$ADVISORY_DBS/$database_name
    rm -rf "$ADVISORY_DBS"
    # The time of this file is taken for that of the last download, and an old one refused.
    mkdir -p "$database/.git"
    : >"$database/.git/FETCH_HEAD"
    tar -xJf "$snapshot" -C "$database" || fail "cannot unpack $snapshot"
    checks="$checks advisories"
else
    echo "deny: advisories are not checked: no database at $snapshot"
fi
# shellcheck disable=SC2086 # a list
"$tools/bin/cargo-deny" --offline check --deny warnings $checks
