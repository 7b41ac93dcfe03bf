#!/bin/sh
# release.sh DIRECTORY: makes a release of the committed sources and puts its files into DIRECTORY, which it empties
# first. docs/releasing.md says what a release is, and what to do before and after.
#
# STEPS names the steps to take, by default all: version deny msrv check source licences sbom reproducible container
# deb sums. With other steps than all, nothing is a release. TRIAL=yes takes a version that has no date in CHANGELOG.md yet.
set -eu

fail() {
    echo "release: $*" >&2
    exit 1
}

directory=${1-}
[ -n "$directory" ] || fail "usage: release.sh DIRECTORY"
all="version deny msrv check source licences sbom reproducible container deb sums"
STEPS=${STEPS:-$all}
project=$(cd "$(dirname "$0")/../.." && pwd)
directory=$(readlink -m "$directory")
cd "$project"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$project/target}"
version=$(etc/release/version.sh)
for step in $STEPS; do
    case " $all " in
    *" $step "*) ;;
    *) fail "no step $step; the steps are: $all" ;;
    esac
done

takes() {
    case " $STEPS " in
    *" $1 "*) echo "release: $1" ;;
    *) return 1 ;;
    esac
}

[ -z "$(git status --porcelain)" ] || fail "not everything is committed"
commit=$(git rev-parse HEAD)

if takes version; then
    newest=$(sed -n 's/^## //p' CHANGELOG.md | head -n 1)
    case $newest in
    "$version, 20"[0-9][0-9]-[01][0-9]-[0-3][0-9]) ;;
    "$version, unreleased") [ "${TRIAL-}" = yes ] || fail "CHANGELOG.md: version $version has no date" ;;
    *) fail "the version in Cargo.toml is $version, and the newest section of CHANGELOG.md is: $newest" ;;
    esac
    ! git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null ||
        [ "$(git rev-parse "v$version^{commit}")" = "$commit" ] || fail "version $version is tagged already"
    ${CARGO:-cargo} metadata --locked --format-version 1 --no-deps >/dev/null || fail "Cargo.lock is not current"
fi
[ ! -e "$directory" ] || [ -z "$(ls -A "$directory")" ] || [ -e "$directory/SHA256SUMS" ] ||
    [ "${directory##*/}" = release-files ] || fail "$directory is not the directory of a release, and is not emptied"
rm -rf "$directory"
mkdir -p "$directory"
directory=$(readlink -f "$directory")
if takes deny; then make deny; fi
if takes msrv; then make msrv; fi
if takes check; then make check; fi
if takes source; then etc/release/tarball.sh "$directory"; fi
if takes licences; then make licences RELEASE="$directory"; fi
if takes sbom; then etc/release/sbom.sh "$directory"; fi
if takes reproducible; then
    etc/release/reproducible.sh "$directory/pkcs11proxyd-$version.tar.xz" "$directory"
fi
if takes container; then make container-test; fi
if takes deb; then
    # Only if the Makefile can make them.
    if make --question deb >/dev/null 2>&1 || [ $? -eq 1 ]; then
        make deb
        cp "$CARGO_TARGET_DIR"/debian/*.deb "$directory/"
    else
        echo "release: there is no target deb"
    fi
fi
[ "$(git rev-parse HEAD)" = "$commit" ] && [ -z "$(git status --porcelain)" ] || fail "the sources changed meanwhile"
if takes sums; then
    sums=$(cd "$directory" && find . -maxdepth 1 -type f -printf '%f\n' | LC_ALL=C sort | xargs sha256sum)
    echo "$sums" | tee "$directory/SHA256SUMS"
fi
if [ "$STEPS" = "$all" ]; then
    echo "release: version $version of commit $commit is in $directory"
else
    echo "release: steps taken: $STEPS; this is no release"
fi
