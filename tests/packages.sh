#!/bin/sh
# packages.sh bookworm|trixie|files DIRECTORY [quick]: proves the packages that `make deb` put into DIRECTORY. With the name of
# a Debian suite, on a new system of Debian 12 or 13:
#
#   site    a site that runs Caml Crush, under systemd: our packages replace the original's, and the other way round
#   sysv    the same without systemd, by the init script alone
#   shared  the files that both packages have, whatever is done to the packages
#   fresh   a machine that had neither: it starts and signs; it is upgraded while a client is connected; it is purged
#   piuparts (not with `quick`)
#
# With `files`: lintian finds nothing, AppArmor's parser reads the profile, and a second build, by a user who is not root, gives the
# same bytes. It is made of BUILT, by default DIRECTORY/../release.
#
# tests/packages/ has what runs inside of the system. Needs root and `make packages-test`'s packages. SYSTEM names a
# system that an earlier run made with KEEP=SYSTEM; it is not changed. Everything else is removed at the end.
set -eu

fail() {
    echo "packages: $*" >&2
    exit 1
}

suite=${1-} directory=${2-} quick=${3-}
usage="usage: packages.sh bookworm|trixie|files DIRECTORY [quick]"
case $suite in
bookworm | trixie | files) ;;
*) fail "$usage" ;;
esac
[ -z "$quick" ] || [ "$quick" = quick ] || fail "$usage"
for package in server clients; do
    set -- "$directory/pkcs11proxyd-$package"_*.deb
    [ $# -eq 1 ] && [ -e "$1" ] || fail "expected one pkcs11proxyd-$package in $directory; run make deb first"
done
[ "$(id -u)" -eq 0 ] || fail "run this as root"

here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/.." && pwd)
directory=$(cd "$directory" && pwd)
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' HUP INT TERM
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

check_files() {
    lintian --allow-root --fail-on error,warning "$directory"/pkcs11proxyd_*.changes || fail "lintian"
    apparmor_parser --skip-kernel-load --skip-cache "$project/etc/debian/usr.bin.pkcs11proxyd" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; fail "AppArmor does not read the profile"; }
    # What debhelper adds would restart the service at each upgrade.
    dpkg-deb -e "$directory"/pkcs11proxyd-server_*.deb "$work/server"
    ! grep -l deb-systemd-invoke "$work"/server/postinst "$work"/server/prerm || fail "debhelper controls the service"
    dpkg-deb -x "$directory"/pkcs11proxyd-clients_*.deb "$work/clients"
    for library in "$work"/clients/usr/lib/*/caml-crush/*.so; do
        readelf -d "$library" | grep -q "SONAME.*\[${library##*/}\]" || fail "${library##*/} has another SONAME"
    done
    built=$(cd "${BUILT:-$directory/../release}" && pwd)
    # The other user may not be able to read this project.
    mkdir "$work/again" "$work/built"
    for file in THIRD-PARTY-LICENSES pkcs11proxyd pkcs11proxyctl p11client-doctor libp11client.so libp11clienttcp.so libp11clienttcpssl.so \
        libp11clientunix.so; do
        cp "$built/$file" "$work/built/"
    done
    mkdir "$work/project"
    (cd "$project" && git ls-files -z --cached --others --exclude-standard | tar -c --null -T -) | tar -x -C "$work/project"
    : "${SOURCE_DATE_EPOCH:=$(git -C "$project" log -1 --format=%ct)}"
    export SOURCE_DATE_EPOCH
    chmod -R a+rX "$work"
    chown nobody: "$work/again"
    setpriv --reuid nobody --regid nogroup --clear-groups \
        sh -c 'umask 027; exec "$0" "$1" "$2"' "$work/project/etc/debian/build.sh" "$work/built" "$work/again" >/dev/null ||
        fail "a user who is not root cannot build"
    for package in "$directory"/pkcs11proxyd-*.deb; do
        cmp "$package" "$work/again/${package##*/}" || fail "a second build gives other bytes"
    done
}

if [ "$suite" = files ]; then
    check_files
    echo "packages: lintian finds nothing, the profile is read, a second build by another user gives the same bytes"
    exit
fi

# original SUM NAME: Debian 12's package of Caml Crush.
original() {
    /usr/lib/apt/apt-helper download-file "$mirror/pool/main/c/caml-crush/$2_1.0.12-1.1_amd64.deb" \
        "$repository/$2.deb" "SHA256:$1" >>"$work/log" 2>&1 || fail "cannot download $2"
}

# in_system COMMAND...: in the new system, with this machine's network.
in_system() {
    chroot "$system" env DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@" </dev/null >>"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; fail "$*"; }
}

# The system has all that the originals need, a repository with the originals and SoftHSM, and no other.
make_system() {
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,adduser,procps,iproute2,opensc,openssl,p11-kit \
        "$suite" "$system" "$mirror" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "debootstrap failed"; }
    repository=$system/repository
    mkdir "$repository"
    original 9cb0b4b8ebd869c21b8dcd453edb30b294853ed03fa2c183c8d81ec57e874672 caml-crush-server
    original ad56679fb1bb45c019296863570a5794bcac1a3752ef524266cc30de7c61b36b caml-crush-clients
    printf '#!/bin/sh\nexit 101\n' >"$system/usr/sbin/policy-rc.d"
    chmod 755 "$system/usr/sbin/policy-rc.d"
    in_system apt-get -y --no-install-recommends install lsb-base libgnutls30 libnettle8 libtirpc3 softhsm2
    in_system sh -c "cd /repository && apt-get download softhsm2 libsofthsm2 softhsm2-common"
    rm "$system/usr/sbin/policy-rc.d"
    (cd "$repository" && dpkg-scanpackages . >Packages 2>/dev/null)
    rm -rf "$system/etc/apt/sources.list" "$system/etc/apt/sources.list.d"
    echo "deb [trusted=yes] file:/repository ./" >"$system/etc/apt/sources.list"
    in_system apt-get update
    in_system apt-get clean
    ln -sf /lib/systemd/system/multi-user.target "$system/etc/systemd/system/default.target"
    # A system without one boots for the first time, and starts every service that is there.
    tr -d - </proc/sys/kernel/random/uuid >"$system/etc/machine-id"
}

system=${SYSTEM:-${KEEP:-$work/system}}
[ -n "${SYSTEM-}" ] || make_system

# What the scenarios need: both versions of our packages, the second made of the first; an application; certificates.
needs=$work/needs
mkdir -p "$needs/next" "$needs/results"
cp "$directory"/pkcs11proxyd-server_*.deb "$needs/server.deb"
cp "$directory"/pkcs11proxyd-clients_*.deb "$needs/clients.deb"
for package in server clients; do
    dpkg-deb -R "$needs/$package.deb" "$work/unpacked"
    sed -i 's/^Version: .*/&+next/' "$work/unpacked/DEBIAN/control"
    dpkg-deb -Znone -b "$work/unpacked" "$needs/next/$package.deb" >/dev/null
    rm -rf "$work/unpacked"
done
# One that cannot be unpacked, since another package has one of its files.
dpkg-deb -R "$needs/server.deb" "$work/unpacked"
cp "$work/unpacked/usr/bin/pkcs11proxyd" "$needs/program"
cp "$work/unpacked/usr/bin/pkcs11proxyctl" "$work/unpacked/usr/bin/openssl"
dpkg-deb -Znone -b "$work/unpacked" "$needs/failing.deb" >/dev/null
rm -rf "$work/unpacked"
cc -O1 -I/usr/include/softhsm -o "$needs/lasting" "$here/support/lasting.c" -ldl -lpthread
sh "$here/support/make-certs.sh" "$needs/certs"
cp "$here"/packages/* "$needs/"
cat >"$needs/proof.service" <<'END'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=-/bin/sh -c "/proof/$SCENARIO >/proof/results/$SCENARIO 2>&1"
ExecStart=/bin/systemctl --no-block poweroff
END

# judge SCENARIO: what the script in tests/packages with that name said.
judge() {
    [ -e "$needs/results/$1" ] || { tail -n 30 "$work/log" >&2; fail "$suite: $1: the system did not start"; }
    sed "s/^/$suite: $1: /" "$needs/results/$1"
    [ "$(tail -n 1 "$needs/results/$1")" = passed ] || fail "$suite: $1: see above"
}

# boot SCENARIO: runs it under systemd. The limit is for a system that hangs; nothing of it is kept.
boot() {
    sed "s/\$SCENARIO/$1/g" "$needs/proof.service" >"$needs/$1.service"
    # Containers may not call landlock unless they are told.
    timeout 300 systemd-nspawn -q -D "$system" --volatile=overlay --register=no --keep-unit --boot --private-network \
        --console=pipe --bind="$needs:/proof" --bind-ro="$needs/$1.service:/etc/systemd/system/proof.service" \
        --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
        systemd.wants=proof.service </dev/null >"$work/log" 2>&1 || true
    judge "$1"
}

# without_systemd SCENARIO: runs it in a directory, with processes and a network of its own.
without_systemd() {
    mkdir -p "$work/overlay"
    # shellcheck disable=SC2016 # for the other shell
    timeout 300 unshare --mount --pid --net --fork --kill-child sh -euc '
        mount -t tmpfs tmpfs "$1"
        mkdir "$1/upper" "$1/work" "$1/root"
        mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
        mkdir -p "$1/root/proof"
        mount --bind "$3" "$1/root/proof"
        mount -t proc proc "$1/root/proc"
        mount -t tmpfs tmpfs "$1/root/run"
        mount --rbind /dev "$1/root/dev"
        mkdir "$1/root/run/lock"
        ip link set lo up
        # Process 1 is in it, too: else tools of systemd say that they run in a chroot, and do nothing.
        exec chroot "$1/root" "/proof/$4" >"$3/results/$4" 2>&1' - "$work/overlay" "$system" "$needs" "$1" \
        </dev/null >"$work/log" 2>&1 || true
    judge "$1"
}

without_systemd shared
without_systemd sysv
boot fresh
boot site
if [ -z "$quick" ]; then
    # The user stays, with its home, as that of Caml Crush's package does. The other directory is one of debconf in Debian 13,
    # which Debian 12's piuparts does not know.
    piuparts --distribution="$suite" --mirror="$mirror main" --no-eatmydata --ignore-regex='^/var/lib/pkcs11proxyd' \
        --ignore-regex='^/var/cache/debconf/tmp.ci' "$directory"/pkcs11proxyd_*.changes >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; fail "$suite: piuparts"; }
    echo "$suite: piuparts: passed"
fi
echo "packages: $suite: passed"
