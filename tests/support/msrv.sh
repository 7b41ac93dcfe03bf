#!/bin/sh
# msrv.sh: checks that everything builds with the oldest Rust that Cargo.toml promises (rust-version),
# tests and benchmarks too. That compiler is the system's own where it is of that version, as on Debian 13.
# Elsewhere it comes from the packages rustc-web and cargo-web of Debian 12's main section, which apt
# downloads with signatures checked; they are unpacked below the target directory, and neither the
# system's packages nor its list of sources change. Run again it downloads nothing.
set -eu

fail() {
    echo "msrv: $*" >&2
    exit 1
}

version=$(sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' Cargo.toml)
[ -n "$version" ] || fail "no rust-version in Cargo.toml; run this in the project's directory"
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
toolchain=$target/tools/rust-$version

is_version() {
    case "$("$1" --version 2>/dev/null)" in
    *" $version."*) ;;
    *) return 1 ;;
    esac
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# An apt of its own: Debian 12's main section, nothing installed. Not its security section, whose
# rustc-web is newer.
download() {
    apt=$toolchain.apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
${DEBIAN_MIRROR:-http://deb.debian.org/debian} bookworm main" >"$apt/sources"
    cat >"$apt/configuration" <<END
Dir::Etc::SourceList "$apt/sources"; Dir::Etc::SourceParts "/dev/null"; Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$apt"; Dir::State::Lists "$apt/lists"; Dir::State::status "$apt/status"; Dir::Cache "$apt";
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; APT::Sandbox::User ""; APT::Install-Recommends "false";
Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "1";
END
    export APT_CONFIG="$apt/configuration"
    apt-get -q update || fail "the package sources of Debian 12 are not reachable"
    # What these packages need besides, unless the system has it.
    needed=$(LC_ALL=C apt-get -q -y --print-uris install rustc-web cargo-web |
        sed -n "s/^'[^']*' \([^_ ]*\)_.*/\1/p")
    for package in $needed; do
        is_installed "$package" || missing="${missing-} $package"
    done
    # shellcheck disable=SC2086 # a list
    (cd "$apt/archives" && apt-get -q download ${missing-rustc-web cargo-web}) ||
        fail "cannot download these packages of Debian 12:${missing-}"
    rm -rf "$toolchain.draft"
    for file in "$apt"/archives/*.deb; do
        dpkg -x "$file" "$toolchain.draft" || fail "cannot unpack $file"
    done
    mv "$toolchain.draft" "$toolchain"
    rm -rf "$apt"
    unset APT_CONFIG
}

if is_version /usr/bin/rustc && is_version /usr/bin/cargo; then
    bin=/usr/bin
else
    bin=$toolchain/usr/bin
    if [ ! -d "$toolchain" ]; then
        command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
            fail "this is not a Debian system; put Rust $version at $bin"
        download
    fi
    for directory in "$toolchain"/usr/lib/*-linux-gnu "$toolchain"/lib/*-linux-gnu; do
        LD_LIBRARY_PATH=$directory${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    done
    export LD_LIBRARY_PATH
fi
is_version "$bin/rustc" || fail "$bin/rustc is not Rust $version: $("$bin/rustc" --version 2>&1 || :)"
is_version "$bin/cargo" || fail "$bin/cargo is not of Rust $version: $("$bin/cargo" --version 2>&1 || :)"
echo "msrv: $("$bin/rustc" --version)"
RUSTC=$bin/rustc CARGO_TARGET_DIR=$target/msrv \
    "$bin/cargo" check --workspace --all-targets --locked
echo "msrv: everything builds with Rust $version"
