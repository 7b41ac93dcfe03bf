#!/bin/sh
# Installs the Debian packages that the tests need, and only those that are missing: compiler, OpenSSL,
# SoftHSM, OpenSC, GnuTLS, and the original Caml Crush as the other side. For Debian 12 and 13; asks nothing;
# run again it does nothing. Starts no service: caml-crush-server would otherwise listen on port 4444.
set -eu

packages="build-essential pkg-config libssl-dev openssl gnutls-bin strace libengine-pkcs11-openssl softhsm2 libsofthsm2-dev opensc caml-crush-server caml-crush-clients"

fail() {
    echo "install-packages: $*" >&2
    exit 1
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing_packages() {
    missing=
    for package in $packages; do
        is_installed "$package" || missing="$missing $package"
    done
    missing=${missing# }
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    fail "this is not a Debian system; needed are: $packages"
missing_packages
if [ -z "$missing" ]; then
    echo "install-packages: all there: $packages"
    exit 0
fi
echo "install-packages: missing: $missing"

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    fail "run this as root, or with a sudo that asks for no password, to install: $missing"
fi

# invoke-rc.d and deb-systemd-invoke ask this file whether a package may start its service; 101 is no.
# One that is there already, as in container images, is put back afterwards.
policy=/usr/sbin/policy-rc.d
saved=$policy.before-e2e
restore() {
    $as_root rm -f "$policy"
    if [ -e "$saved" ] || [ -L "$saved" ]; then
        $as_root mv -f "$saved" "$policy"
    fi
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
if [ -e "$policy" ] || [ -L "$policy" ]; then
    # An earlier run that was killed left its own policy: what it saved is the one to keep.
    [ -e "$saved" ] || [ -L "$saved" ] || $as_root mv "$policy" "$saved"
fi
printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
$as_root chmod 755 "$policy"

apt() {
    # shellcheck disable=SC2086 # as_root is two words
    $as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y \
        -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold "$@" </dev/null
}

apt update || fail "apt-get update failed; are the package sources reachable?"
for package in $missing; do
    apt-cache show "$package" >/dev/null 2>&1 ||
        fail "no package $package in the sources of this system ($(. /etc/os-release && echo "$PRETTY_NAME"))"
done
# shellcheck disable=SC2086 # a list
apt install --no-install-recommends $missing || fail "apt-get install failed: $missing"

missing_packages
[ -z "$missing" ] || fail "still missing: $missing"
echo "install-packages: done"
