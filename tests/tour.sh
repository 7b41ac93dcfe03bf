#!/bin/bash
# tour.sh DIRECTORY: follows README.md's "Ten minutes" as a reader would, with the programs in DIRECTORY: runs its
# commands, writes its files, and makes the changes that it asks for. Needs root: everything happens in a network and a mount
# namespace of its own, with the trial's own /etc/pkcs11proxyd and SoftHSM tokens. Leaves nothing behind.
set -euo pipefail

fail() {
    echo "tour: $*" >&2
    exit 1
}

built=$(cd "${1:?usage: tour.sh DIRECTORY}" && pwd)
project=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" -eq 0 ] || fail "run this as root"
if [ -z "${TOUR_WORK-}" ]; then
    # Not in /tmp, which the trial has for itself.
    TOUR_WORK=$(mktemp -d "$built/tour.XXXXXX")
    export TOUR_WORK
    made=
    [ -d /etc/pkcs11proxyd ] || { mkdir /etc/pkcs11proxyd && made=/etc/pkcs11proxyd; }
    trap 'rm -rf --one-file-system "$TOUR_WORK"; [ -z "$made" ] || rmdir "$made"' EXIT
    trap 'exit 1' HUP INT TERM
    # The daemon ends with the process namespace.
    unshare --mount --net --pid --fork --mount-proc "$0" "$built"
    exit
fi

ip link set lo up
mkdir -p "$TOUR_WORK"/{tokens,etc,project/target}
mount --bind "$TOUR_WORK/tokens" /var/lib/softhsm/tokens
mount --bind "$TOUR_WORK/etc" /etc/pkcs11proxyd
printf '127.0.0.1 localhost hsm.example.org\n' >"$TOUR_WORK/hosts"
mount --bind "$TOUR_WORK/hosts" /etc/hosts
cp -r "$project"/{etc,tests,Makefile,README.md} "$TOUR_WORK/project"
ln -s "$built" "$TOUR_WORK/project/target/release"
mount -t tmpfs none /tmp
cd "$TOUR_WORK/project"

# A reader who copies to the other machine; here it is the same one.
hand_over() {
    cp certs/ca.pem certs/client.pem certs/client.key /etc/pkcs11proxyd/
    cp target/release/libp11client.so .
    unset PKCS11PROXY_LIBNAME
}

# What the text between the blocks asks for, by the section and the number of the block before which it is done.
before_block() {
    case $1 in
    "2 2")
        sed -i 's/127\.0\.0\.1:4444/0.0.0.0:4444/' etc/tls-trial.conf
        grep -q '0\.0\.0\.0:4444' etc/tls-trial.conf || fail "etc/tls-trial.conf has another address"
        ;;
    "2 3") hand_over ;;
    esac
}

# run BLOCK: its lines, one after the other; one whose comment says "refused" has to fail.
run() {
    local line command
    while IFS= read -r line; do
        command=${line%%  #*}
        case $line in
        "make demo"* | "make  "*) continue ;;
        *"# refused")
            echo "tour: $command (has to fail)"
            ! eval "$command" || fail "was not refused: $command"
            ;;
        *"# lists web-key, not db-key")
            echo "tour: $command"
            eval "$command" >listed || fail "failed: $command"
            grep -q "label: *web-key" listed || fail "does not list web-key: $command"
            ! grep -q db-key listed || fail "lists db-key: $command"
            ;;
        *)
            echo "tour: $command"
            eval "$command" || fail "failed: $command"
            ;;
        esac
    done <<<"$1"
}

# Puts each option of the block in the place of the line that sets it.
set_options() {
    local option
    while IFS= read -r option; do
        grep -q "^${option%% = *} = \[\]$" etc/filter.conf || fail "etc/filter.conf does not set ${option%% = *}"
        OPTION=$option awk 'index($0, substr(ENVIRON["OPTION"], 1, index(ENVIRON["OPTION"], " =") + 1)) == 1 {
            print ENVIRON["OPTION"]; next } { print }' etc/filter.conf >etc/filter.new
        cat etc/filter.new >etc/filter.conf
        rm etc/filter.new
    done <<<"$1"
    # The daemon waits for a moment without changes.
    sleep 2
}

section=0 number=0 kind='' block='' inside=
while IFS= read -r line; do
    case $line in
    "## Ten minutes"*) inside=yes ;;
    "## "*) inside= ;;
    "### "*) section=${line#'### '} section=${section%%.*} number=0 ;;
    '```'?*) [ -z "$inside" ] || kind=${line#'```'} block='' number=$((number + 1)) ;;
    '```')
        [ -n "$inside" ] || continue
        before_block "$section $number"
        case $kind in
        sh) run "${block%$'\n'}" ;;
        toml) printf '%s' "$block" >/etc/pkcs11proxyd/client.conf ;;
        ocaml) set_options "${block%$'\n'}" ;;
        *) fail "a block of the kind $kind" ;;
        esac
        kind=
        ;;
    *) [ -z "$kind" ] || block+=$line$'\n' ;;
    esac
done <README.md
case $section.$number in
3.[2-9]) echo "tour: done" ;;
*) fail "README.md has another shape than this expects" ;;
esac
