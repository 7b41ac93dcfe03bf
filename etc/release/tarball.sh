#!/bin/sh
# tarball.sh DIRECTORY: packs the committed sources with all crates into DIRECTORY/pkcs11proxyd-VERSION.tar.xz, whose
# bytes follow from the commit alone, and prints that name.
set -eu

fail() {
    echo "tarball: $*" >&2
    exit 1
}

directory=${1-}
[ -n "$directory" ] || fail "usage: tarball.sh DIRECTORY"
project=$(cd "$(dirname "$0")/../.." && pwd)
version=$("$project/etc/release/version.sh")
name=pkcs11proxyd-$version
time=$(git -C "$project" show --no-patch --format=%ct HEAD)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

umask 022
"$project/etc/release/source.sh" "$work/$name"
mkdir -p "$directory"
tar -C "$work" --format=gnu --sort=name --mtime="@$time" --owner=0 --group=0 --numeric-owner --mode=u+rw,go+r-w \
    -cf "$work/$name.tar" "$name" || fail "cannot pack $name"
# With one thread, as the number of threads changes the bytes.
xz --threads=1 <"$work/$name.tar" >"$directory/$name.tar.xz.new" || fail "cannot compress $name"
mv "$directory/$name.tar.xz.new" "$directory/$name.tar.xz"
echo "$directory/$name.tar.xz"
