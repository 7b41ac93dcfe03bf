#!/bin/sh
# build.sh BUILT OUT: makes the packages pkcs11proxyd-server and pkcs11proxyd-clients, in the directory OUT, of programs and
# libraries that were built in the directory BUILT. debhelper packs them, in OUT/build. Needs no root; asks nothing.
#
# Two runs give the same bytes: every time in the packages is SOURCE_DATE_EPOCH, which is that of the last commit if it
# is not set. DEB_VERSION is another version; DEBFULLNAME and DEBEMAIL are who packs.
set -eu

fail() {
    echo "deb: $*" >&2
    exit 1
}

[ $# -eq 2 ] || fail "usage: build.sh BUILT OUT"
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
built=$(cd "$1" && pwd)
programs="pkcs11proxyd pkcs11proxyctl p11client-doctor"
libraries="libp11client.so libp11clienttcp.so libp11clienttcpssl.so libp11clientunix.so"
for file in $programs $libraries; do
    [ -e "$built/$file" ] || fail "no $built/$file; run make first"
done
[ -e "$built/THIRD-PARTY-LICENSES" ] || fail "no $built/THIRD-PARTY-LICENSES; run make licences RELEASE=$built"
command -v dh_apparmor >/dev/null || fail "debhelper or dh-apparmor is missing; run make deb-packages as root"
mkdir -p "$2"
out=$(cd "$2" && pwd)

: "${SOURCE_DATE_EPOCH:=$(git -C "$project" log -1 --format=%ct 2>/dev/null || stat -c %Y "$project/CHANGELOG.md")}"
export SOURCE_DATE_EPOCH
original=$("$here/original.sh" --version)
version=${DEB_VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' "$project/Cargo.toml")-1}
maintainer="${DEBFULLNAME:-pkcs11proxyd authors} <${DEBEMAIL:-pkcs11proxyd@packages.invalid}>"

build=$out/build
rm -rf "$build" "$out"/pkcs11proxyd*
mkdir -p "$build/debian" "$build/files/bin" "$build/files/lib" "$build/files/docs" \
    "$build/files/examples/server" "$build/files/examples/clients"
cd "$build"
"$here/original.sh" "$out/original"
cp -r "$out/original" files/original
for file in $programs; do cp "$built/$file" files/bin/; done
for file in $libraries; do cp "$built/$file" files/lib/; done
for file in default.conf default-filter.conf etc-default start configuration caml-crush-server.service usr.bin.pkcs11proxyd; do
    cp "$here/$file" files/
done
cp "$project/etc/libp11client.module" files/
cp "$project/etc/client.conf" files/examples/clients/
for file in pkcs11proxyd.conf filter.conf filter-strict.conf pkcs11proxyd.service pkcs11proxyd-unprivileged.service \
    pkcs11proxyd.socket haproxy.cfg prometheus-alerts.yml grafana-dashboard.json; do
    cp "$project/etc/$file" files/examples/server/
done
cp "$project/README.md" "$project/ARCHITECTURE.md" "$project/DIFFERENCES.md" "$project/SECURITY.md" files/docs/
mkdir -p files/docs/docs
(cd "$project/docs" && find . -name '*.md' -exec cp --parents {} "$build/files/docs/docs" \;)
cp "$built/THIRD-PARTY-LICENSES" files/docs/
(cd files/original && sha256sum pkcs11proxyd/filter.conf pkcs11proxyd/pkcs11proxyd.conf) |
    sed 's|  |  /etc/|' >files/as-shipped.sha256

man=$project/docs/man
if [ -d "$man" ]; then
    cp -r "$man" files/man
    printf 'files/man/%s\n' p11client-doctor.1 libp11client.7 >debian/pkcs11proxyd-clients.manpages
    printf 'files/man/%s\n' pkcs11proxyd.8 pkcs11proxyctl.8 pkcs11proxyd.conf.5 pkcs11proxyd-filter.conf.5 \
        >debian/pkcs11proxyd-server.manpages
fi

cp "$here/rules" "$here/control" "$here/copyright" "$here"/pkcs11proxyd-* debian/
cp -r "$here/source" debian/
sum=$(sha256sum <files/etc-default)
shared=$(cd files/original && find . -type f | LC_ALL=C sort | sed 's|^\.|/etc|' | tr '\n' ' ')
sed -i "s|@ORIGINAL@|$original|; s|@MAINTAINER@|$maintainer|; s|@ETC_DEFAULT@|${sum%% *}|; s|@SHARED@|${shared% }|" \
    debian/control debian/copyright debian/pkcs11proxyd-server.preinst debian/pkcs11proxyd-server.prerm \
    debian/pkcs11proxyd-server.postrm
cp "$project/CHANGELOG.md" CHANGELOG
cat >debian/changelog <<END
pkcs11proxyd ($version) unstable; urgency=medium

  * What is new is in changelog.gz, beside this file.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END
find files debian CHANGELOG -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >"$out/log" 2>&1 || {
    tail -n 30 "$out/log" >&2
    fail "see $out/log"
}
for package in "$out"/pkcs11proxyd-*.deb; do
    echo "$package"
done
