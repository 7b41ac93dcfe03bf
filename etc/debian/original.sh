#!/bin/sh
# original.sh DIRECTORY: puts three files of Debian 12's package caml-crush-server into DIRECTORY, which the package
# pkcs11proxyd-server has byte for byte, so that dpkg keeps what a site made of them. They are part of no source of this
# project. They come from this machine, if the package is installed and they were not edited; else from the
# package, which is downloaded from Debian, or which ORIGINAL names. Their SHA-256 is compared in any case.
set -eu

version=1.0.12-1.1
deb=pool/main/c/caml-crush/caml-crush-server_${version}_amd64.deb
sums="\
1eb8899440ecd88f20f3e44916fe03cc86a263fe6c96d818097218406d004556  init.d/caml-crush-server
875e493a9a499dce9e155129d71306e86d6a94be75330ab552f2f151a7a64a95  pkcs11proxyd/filter.conf
b6920be92f287f84919927561ef8b4b7fd1a36fa100233949bacd48d4304a404  pkcs11proxyd/pkcs11proxyd.conf"
deb_sum=9cb0b4b8ebd869c21b8dcd453edb30b294853ed03fa2c183c8d81ec57e874672

fail() {
    echo "original: $*" >&2
    exit 1
}

[ $# -eq 1 ] || fail "usage: original.sh DIRECTORY"
if [ "$1" = --version ]; then
    echo $version
    exit
fi
directory=$1

are_there() {
    (cd "$1" 2>/dev/null && echo "$sums" | sha256sum --check --status 2>/dev/null)
}

take() {
    for file in init.d/caml-crush-server pkcs11proxyd/filter.conf pkcs11proxyd/pkcs11proxyd.conf; do
        mkdir -p "$directory/${file%/*}"
        cat "$1/$file" >"$directory/$file"
    done
}

if are_there "$directory"; then
    exit
fi
if [ -z "${ORIGINAL-}" ] && are_there /etc; then
    take /etc
    exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "${ORIGINAL-}" ]; then
    cp "$ORIGINAL" "$work/original.deb"
else
    url=${DEBIAN_MIRROR:-http://deb.debian.org/debian}/$deb
    /usr/lib/apt/apt-helper download-file "$url" "$work/original.deb" "SHA256:$deb_sum" >"$work/log" 2>&1 || {
        tail -n 3 "$work/log" >&2
        fail "cannot download $url, whose three configuration files belong into the package; fetch it elsewhere, and" \
            "name it: make deb ORIGINAL=caml-crush-server_${version}_amd64.deb"
    }
fi
dpkg-deb -x "$work/original.deb" "$work/files" || fail "$ORIGINAL is no Debian package"
are_there "$work/files/etc" || fail "${ORIGINAL:-$url} is not caml-crush-server $version: its files are others"
take "$work/files/etc"
