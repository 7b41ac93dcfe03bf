#!/bin/sh
# install-packages.sh demo|check|suites|applications|recipes|opencryptoki|deb|packages: installs the Debian packages that
# `make demo`, `make check`, `make suites`, `make applications`, `make recipes`, `make opencryptoki`, `make deb` or
# `make packages-test` needs, and only those that are missing. For all but the last three: compiler, OpenSSL, SoftHSM, OpenSC. For the tests also GnuTLS,
# PyKCS11, HAProxy, systemd, logrotate, shellcheck and the like, and the original Caml Crush as the other side. For the
# suites also Go, Java, Python, NSS, and OpenSSL's provider and engine for PKCS#11. For the applications the servers and
# tools that tests/applications runs, and the original. For the recipes the servers and tools of docs/recipes, and
# systemd's containers. For Debian 12 and 13; the latter has no Caml Crush any more, so that its packages come from
# Debian 12's sources, and the former has the provider only in its backports.
# Asks nothing; run again it does nothing. Starts no service: caml-crush-server would otherwise listen on port 4444.
set -eu

fail() {
    echo "install-packages: $*" >&2
    exit 1
}

packages="build-essential pkg-config libssl-dev softhsm2 opensc"
# Packages that one of the two systems lacks, and the Debian suites that have them.
elsewhere=
source=
case "${1-}" in
demo) ;;
check)
    packages="$packages openssl gnutls-bin strace libengine-pkcs11-openssl libsofthsm2-dev python3-pykcs11"
    packages="$packages libnss3 libnss3-tools systemd systemd-container dbus curl haproxy iproute2 man-db"
    packages="$packages logrotate shellcheck python3-venv"
    elsewhere="caml-crush-server caml-crush-clients"
    source=bookworm
    ;;
suites)
    packages="$packages openssl libengine-pkcs11-openssl libnss3 libnss3-tools default-jdk-headless"
    packages="$packages golang-go golang-github-thalesignite-crypto11-dev golang-github-stretchr-testify-dev"
    packages="$packages python3 python3-dev python3-venv libclang-dev libsqlite3-dev"
    elsewhere=pkcs11-provider
    source=bookworm-backports
    ;;
applications)
    packages="$packages openssl libengine-pkcs11-openssl gnutls-bin p11-kit p11-kit-modules libp11-kit-dev nginx apache2 stunnel4"
    packages="$packages openssh-client openssh-server libnss3-tools osslsigncode strongswan-pki"
    packages="$packages libstrongswan-standard-plugins libstrongswan-extra-plugins default-jdk-headless golang-go"
    packages="$packages golang-github-thalesignite-crypto11-dev python3 python3-dev python3-venv libclang-dev"
    elsewhere="pkcs11-provider caml-crush-server"
    source="bookworm-backports bookworm"
    ;;
recipes)
    packages="$packages openssl libengine-pkcs11-openssl nginx apache2 stunnel4 openssh-client openssh-server curl python3"
    packages="$packages knot knot-dnsutils bind9-utils default-jdk-headless libbcpkix-java systemd systemd-container"
    packages="$packages util-linux iproute2 dbus"
    elsewhere=pkcs11-provider
    source=bookworm-backports
    ;;
opencryptoki) packages="opencryptoki opensc openssl iproute2 python3-pykcs11" ;;
deb) packages="dpkg-dev debhelper dh-apparmor python3" ;;
packages)
    packages="build-essential libsofthsm2-dev openssl debootstrap systemd-container lintian piuparts apparmor"
    ;;
*) fail "usage: install-packages.sh demo|check|suites|applications|recipes|opencryptoki|deb|packages" ;;
esac

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing_of() {
    for package in "$@"; do
        is_installed "$package" || printf ' %s' "$package"
    done
}

# shellcheck disable=SC2086 # lists
missing_packages() {
    missing=$(missing_of $packages)
    missing_elsewhere=$(missing_of $elsewhere)
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    fail "this is not a Debian system; needed are: $packages $elsewhere"
missing_packages
as_root=
if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
fi

# The tests read Caml Crush's configuration files, which only root and its own group may.
copy_configuration() {
    case " $elsewhere " in
    *" caml-crush-server "*) ;;
    *) return 0 ;;
    esac
    copies=${CARGO_TARGET_DIR:-target}/caml-crush
    for file in /etc/pkcs11proxyd/pkcs11proxyd.conf /etc/pkcs11proxyd/filter.conf; do
        [ -r "$file" ] || [ -r "$copies/${file##*/}" ] || {
            mkdir -p "$copies"
            $as_root cat "$file" >"$copies/copy" || fail "cannot read $file; run this as root, or with sudo"
            mv "$copies/copy" "$copies/${file##*/}"
        }
    done
}

if [ -z "$missing$missing_elsewhere" ]; then
    copy_configuration
    echo "install-packages: all there: $packages $elsewhere"
    exit 0
fi
echo "install-packages: missing:$missing$missing_elsewhere"
[ "$(id -u)" -eq 0 ] || [ -n "$as_root" ] ||
    fail "run this as root, or with a sudo that asks for no password, to install:$missing$missing_elsewhere"

work=$(mktemp -d)
# invoke-rc.d and deb-systemd-invoke ask this file whether a package may start its service; 101 is no.
# One that is there already, as in container images, is put back afterwards.
policy=/usr/sbin/policy-rc.d
saved=$policy.before-e2e
restore() {
    $as_root rm -f "$policy"
    if [ -e "$saved" ] || [ -L "$saved" ]; then
        $as_root mv -f "$saved" "$policy"
    fi
    rm -rf "$work"
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

is_available() {
    apt-cache show "$1" >/dev/null 2>&1
}

apt update || fail "apt-get update failed; are the package sources reachable?"
for package in $missing; do
    is_available "$package" ||
        fail "no package $package in the sources of this system ($(. /etc/os-release && echo "$PRETTY_NAME"))"
done
# What the system's sources lack is downloaded as apt downloads it, signatures checked, from $source; the
# system's own list of sources stays as it is.
for package in $missing_elsewhere; do
    if is_available "$package"; then
        missing="$missing $package"
        continue
    fi
    if [ ! -e "$work/sources" ]; then
        for suite in $source; do
            echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
${DEBIAN_MIRROR:-http://deb.debian.org/debian} $suite main"
        done >"$work/sources"
        mkdir -p "$work/lists/partial"
        apart="-o Dir::Etc::SourceList=$work/sources -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$work/lists"
        apart="$apart -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User="
        # shellcheck disable=SC2086 # a list
        apt-get -q $apart update || fail "the package sources of $source are not reachable"
    fi
    # shellcheck disable=SC2086 # a list
    (cd "$work" && apt-get -q $apart download "$package") || fail "cannot download $package of $source"
    for file in "$work/$package"_*.deb; do
        missing="$missing $file"
    done
done
# shellcheck disable=SC2086 # a list
apt install --no-install-recommends $missing || fail "apt-get install failed:$missing"

missing_packages
[ -z "$missing$missing_elsewhere" ] || fail "still missing:$missing$missing_elsewhere"
copy_configuration
echo "install-packages: done"
