#!/bin/sh
# reproducible.sh TARBALL DIRECTORY: builds everything twice from the sources in TARBALL, in two folders, with two homes,
# time zones and locales, and without network. All programs and libraries have to have the same bytes. Their SHA-256
# sums go to DIRECTORY/programs.sha256, with the compiler and the linker that give them. Each crate that they name, in
# messages of panics, has to be among those whose licences linked.py prints. Takes two release builds.
set -eu

fail() {
    echo "reproducible: $*" >&2
    exit 1
}

tarball=${1-} directory=${2-}
[ -f "$tarball" ] && [ -d "$directory" ] || fail "usage: reproducible.sh TARBALL DIRECTORY"
tarball=$(readlink -f "$tarball")
directory=$(readlink -f "$directory")
# Root can take the network away; others have cargo's promise not to use it.
without_network=
[ "$(id -u)" -ne 0 ] || without_network="unshare --net"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# build FOLDER TARGET TIMEZONE LOCALE: all that `make` builds, and its sums.
build() {
    mkdir -p "$work/$1" "$work/home-$4"
    tar -xJf "$tarball" -C "$work/$1" --strip-components=1
    # shellcheck disable=SC2086 # two words, or none
    (cd "$work/$1" && $without_network env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS CARGO_HOME="$work/home-$4" \
        CARGO_NET_OFFLINE=true CARGO_TARGET_DIR="$work/$1/$2" TZ="$3" LC_ALL="$4" make --silent) ||
        fail "the sources do not build in a folder of their own"
    for file in "$work/$1/$2"/release/pkcs11proxyd "$work/$1/$2"/release/pkcs11proxyctl \
        "$work/$1/$2"/release/p11client-doctor "$work/$1/$2"/release/libp11client*.so; do
        ! grep -aqF "$work" "$file" || fail "${file##*/} names a folder of this machine"
    done
    (cd "$work/$1/$2/release" && sha256sum pkcs11proxyd pkcs11proxyctl p11client-doctor libp11client*.so) >"$work/$4.sums"
}

build one target UTC C
build another/folder built Asia/Tokyo C.UTF-8
if ! cmp -s "$work/C.sums" "$work/C.UTF-8.sums"; then
    diff "$work/C.sums" "$work/C.UTF-8.sums" >&2 || :
    fail "two builds differ"
fi
(cd "$work/one" && CARGO_NET_OFFLINE=true CARGO_HOME="$work/home-C" python3 etc/release/linked.py licences) >"$work/licences" ||
    fail "linked.py does not work without network"
grep -aohE '/crates/[A-Za-z0-9_.+-]+/' "$work"/one/target/release/pkcs11proxy* "$work"/one/target/release/libp11client*.so |
    sort -u | sed -E 's|/crates/([A-Za-z0-9_-]+)-([0-9]+\.[0-9]+\.[0-9].*)/|\1 \2:|' >"$work/crates"
[ -s "$work/crates" ] || fail "the programs name no crate"
while read -r crate; do
    grep -qF "  $crate" "$work/licences" || fail "the licence of $crate is missing"
done <"$work/crates"
{
    echo "# $(rustc --version), $(ld --version | head -n 1)"
    cat "$work/C.sums"
} >"$directory/programs.sha256"
echo "reproducible: two builds in two folders have the same $(wc -l <"$work/C.sums") programs and libraries"
