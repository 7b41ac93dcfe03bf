#!/bin/sh
# fresh-system.sh bookworm|trixie [COMMAND]: does what a newcomer does, on a system that has never seen this
# project: debootstraps Debian 12 or 13 into a directory, clones HEAD there and runs COMMAND, by default
# `make demo && make check`, as an ordinary user who may use sudo. Debian 13 brings its own Rust, the oldest
# that is supported; Debian 12's is too old, so that it gets a copy of this machine's.
#
# Needs root. Everything is removed at the end; mounts and processes live in namespaces that end with it.
set -eu

fail() {
    echo "fresh-system: $*" >&2
    exit 1
}

suite=${1-}
command=${2-make demo && make check}
packages="ca-certificates git make sudo"
case $suite in
trixie) packages="$packages rustc cargo" ;;
bookworm) ;;
*) fail "usage: fresh-system.sh bookworm|trixie [COMMAND]" ;;
esac
[ "$(id -u)" -eq 0 ] || fail "run this as root"
command -v debootstrap >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -q -y install debootstrap

project=$(cd "$(dirname "$0")/.." && git rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' HUP INT TERM
system=$work/system

quietly() {
    "$@" >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        fail "$1 failed"
    }
}

quietly debootstrap --variant=minbase "$suite" "$system" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
# Registries are reached, and trusted, as they are from here.
cp /etc/resolv.conf /etc/hosts "$system/etc/"
# shellcheck disable=SC2086 # a list
quietly chroot "$system" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y --no-install-recommends install $packages
cp -L /etc/ssl/certs/ca-certificates.crt "$system/etc/ssl/certs/"
if [ "$suite" = bookworm ]; then
    cp -a "$(rustc --print sysroot)" "$system/opt/rust"
    echo 'PATH=/opt/rust/bin:$PATH' >"$system/etc/profile.d/rust.sh"
fi
chroot "$system" useradd --create-home --shell /bin/bash newcomer
echo 'newcomer ALL=(ALL) NOPASSWD: ALL' >"$system/etc/sudoers.d/newcomer"
git -c advice.detachedHead=false clone -q "$project" "$system/home/newcomer/project"
chroot "$system" chown -R newcomer: /home/newcomer/project

# shellcheck disable=SC2016 # the inner shell's variables
unshare --mount --pid --fork --kill-child sh -c '
    mount -t proc proc "$1/proc"
    mount --rbind /sys "$1/sys"
    mount --rbind /dev "$1/dev"
    exec chroot "$1" su - newcomer -c "cd project && { $2; }"' sh "$system" "$command"
