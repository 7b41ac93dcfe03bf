#!/bin/sh
# run.sh BUILT [PAGE...]: does what the pages of docs/recipes say, with the programs in the directory BUILT, and fails with
# page and line at the first command that fails. Without PAGE it does all of them.
#
#   make recipes
#   make recipes RECIPES="nginx openssh"
#
# There are two machines, which are containers of systemd: hsm.example.org with the daemon and SoftHSM, and app.example.org
# with the application. Each boots this machine's own system, or the one in the directory SYSTEM, with a layer above it that
# takes whatever it writes, and has a network of its own. So nothing of this machine is changed, and its packages are what
# runs; tests/support/install-packages.sh recipes installs them.
#
# First come the steps of docs/recipes/README.md, then those of the page. blocks.awk finds them. The calls that a page says
# the application makes are compared with the daemon's audit log, which begins anew when the page has written filter.conf.
#
# Needs root. KEEP=1 prints all that the commands say.
set -eu

recipes=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$recipes/../.." && pwd)
pages=$project/docs/recipes
[ $# -gt 0 ] || { echo "usage: run.sh BUILT [PAGE...]" >&2; exit 2; }
built=$(cd "$1" && pwd)
shift
[ "$(id -u)" -eq 0 ] || { echo "run.sh: run this as root" >&2; exit 1; }
for need in systemd-nspawn nsenter ip; do
    command -v "$need" >/dev/null || { echo "run.sh: $need is missing; make recipes-packages installs it" >&2; exit 1; }
done
if [ $# -eq 0 ]; then
    for file in "$pages"/*.md; do
        [ "$file" = "$pages/README.md" ] || set -- "$@" "$(basename "$file" .md)"
    done
fi
work=$(mktemp -d)
# In memory: a layer cannot be within the system that is below it.
mount -t tmpfs -o mode=755 tmpfs "$work"
# shellcheck disable=SC2034 # helpers.sh wants it
label=hsm
# shellcheck disable=SC1091 # not below this directory
. "$project/tests/applications/helpers.sh"

# Short names: that of a network link may have 15 bytes.
net=r$$
# Where systemd has control groups. Each container has one of its own, or they would take the other's services for theirs.
hierarchies=
for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [ ! -f "$hierarchy/cgroup.procs" ] || hierarchies="$hierarchies $hierarchy"
done
machines=
# Ends the machines, and removes them.
cleanup() {
    for machine in $machines; do
        # The first process of a container takes all others with it.
        [ ! -s "$work/$machine/init" ] || kill -9 "$(cat "$work/$machine/init")" 2>/dev/null || true
        [ ! -s "$work/$machine/container" ] || stop "$(cat "$work/$machine/container")"
        umount "$work/$machine/root" || umount -l "$work/$machine/root" || true
        rm -rf --one-file-system "${work:?}/$machine"
        ip netns delete "$net-$machine" 2>/dev/null || true
        for hierarchy in $hierarchies; do
            find "$hierarchy/$net-$machine" -depth -type d -exec rmdir {} + 2>/dev/null || true
        done
    done
    machines=
}
trap 'cleanup; umount "$work" || umount -l "$work"; rmdir "$work"' EXIT
trap 'exit 1' HUP INT PIPE TERM

# in_machine MACHINE COMMAND...
in_machine() {
    entered=$1
    shift
    nsenter --target "$(cat "$work/$entered/init")" --mount --uts --ipc --net --pid --root --wd \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}

# make_machine MACHINE: one that has this machine's packages, but none of its tokens or of its settings for us.
make_machine() {
    mkdir -p "$work/$1/root" "$work/$1/upper" "$work/$1/work"
    root=$work/$1/root
    mount -t overlay overlay -o "lowerdir=${SYSTEM:-/},upperdir=$work/$1/upper,workdir=$work/$1/work" "$root"
    ip netns add "$net-$1"
    ip -n "$net-$1" link set lo up
    machines="$machines $1"
    rm -rf "$root/etc/pkcs11proxyd" "$root"/var/lib/softhsm/tokens/* "$root/var/log/pkcs11proxyd"
    mkdir -m 755 "$root/etc/pkcs11proxyd"
    rm -f "$root/etc/hostname" "$root/etc/hosts" "$root/etc/resolv.conf"
    echo "$1.example.org" >"$root/etc/hostname"
    printf '%s\n' "127.0.0.1 localhost" "10.77.0.1 hsm.example.org" "10.77.0.2 app.example.org" >"$root/etc/hosts"
    tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
    rm -f "$root/usr/bin/pkcs11proxyd" "$root/usr/local/lib/libp11client"*.so
    if [ "$1" = hsm ]; then
        make -s -C "$project" install-units DESTDIR="$root" PREFIX=/usr SYSCONFDIR=/etc
        install -m 755 "$built/pkcs11proxyd" "$built/pkcs11proxyctl" "$root/usr/bin/"
    else
        install -m 755 "$built/p11client-doctor" "$root/usr/bin/"
        install -m 644 "$recipes/EjbcaCalls.java" "$root/root/"
        install -m 644 "$built/libp11client.so" "$root/usr/local/lib/"
    fi
}

# boot MACHINE: no service but systemd's own starts. Containers may not call landlock, nor lock memory for a PIN, unless they
# are told.
boot() {
    for hierarchy in $hierarchies; do
        mkdir "$hierarchy/$net-$1"
    done
    # shellcheck disable=SC2016 # for the shell that is started
    setsid sh -c 'for group in $1; do echo $$ >"$group/$2/cgroup.procs"; done; shift 2; exec "$@"' sh "$hierarchies" "$net-$1" \
        systemd-nspawn -q -D "$work/$1/root" --register=no --keep-unit --boot --console=pipe --machine="$net-$1" \
        --hostname="$1.example.org" --network-namespace-path="/run/netns/$net-$1" --resolv-conf=off --timezone=off --link-journal=no \
        --system-call-filter="@memlock landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
        systemd.unit=basic.target </dev/null >"$work/$1/console" 2>&1 &
    echo $! >"$work/$1/container"
    until_true 20 started "$1" || fail "$1 does not boot: $(tail -n 5 "$work/$1/console")"
    # It lets users log in.
    in_machine "$1" systemctl start systemd-user-sessions
}
started() {
    cat "/proc/$(cat "$work/$1/container")/task/"*/children | tr -d ' ' >"$work/$1/init"
    [ -s "$work/$1/init" ] && in_machine "$1" systemctl is-active --quiet basic.target
}

# fail_at LINE WHAT
fail_at() {
    printf 'failed: docs/recipes/%s.md:%s: %s\n' "$page" "$1" "$2"
    tail -n 30 "$work/said"
    for machine in hsm app; do
        printf -- '-- %s:\n' "$machine"
        in_machine "$machine" journalctl -b --no-pager -p 6 -n 100 -o cat 2>/dev/null |
            grep -v -e DEBUG_LEVEL -e 'Reached target' -e '^Started .*timer' | tail -n 25 || true
        find "$work/$machine/root/var/log" -name error.log -exec tail -n 20 {} + || true
    done
    exit 1
}

restricted="C_SetPIN C_GetOperationState C_SetOperationState C_SeedRandom C_GenerateRandom C_CreateObject C_CopyObject
C_DestroyObject C_GetObjectSize C_SetAttributeValue C_EncryptInit C_DecryptInit C_DigestInit C_SignInit C_SignRecoverInit
C_VerifyInit C_VerifyRecoverInit C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey"

# How many lines the audit log has, when all calls that were made are in it.
audit_lines() {
    now=0
    [ ! -e "$work/hsm/root/var/log/pkcs11proxyd/audit.log" ] || while
        before=$now
        sleep 0.7
        now=$(wc -l <"$work/hsm/root/var/log/pkcs11proxyd/audit.log")
        [ "$before" -ne "$now" ]
    do :; done
    echo "$now"
}
# The names of functions and mechanisms in the audit log since the page wrote filter.conf, without calls that a rule refused,
# and without mechanisms of which an application only asks whether they are there, and functions that only look.
calls_made() {
    audit_lines >/dev/null
    tail -n +$((audited + 1)) "$work/hsm/root/var/log/pkcs11proxyd/audit.log" | grep -v '"refused":{' |
        sed 's/\("function":"C_GetMechanismInfo"\).*/\1/' | grep -oE '"(function|mechanism)":"[A-Za-z0-9_]+"' | sed 's/.*:"//; s/"$//' | sort -u |
        grep -vxE 'C_(Initialize|Finalize|LoadModule|GetInfo|Get(Slot|Token|Session|Mechanism)Info|Get(Slot|Mechanism)List|OpenSession|Close(All)?Sessions?|Log(in|out))'
}

# do_step NUMBER LINE KIND MACHINE [PATH]
do_step() {
    text=$work/steps/$page/$1 line=$2 kind=$3 machine=$4 path=${5-}
    root=$work/$machine/root
    case $kind in
    run)
        # The trace has the line of each command.
        # shellcheck disable=SC2016 # for the shell that is started
        if ! in_machine "$machine" PS4='+$LINENO ' timeout --kill-after=5 120 sh -exc "$(cat "$text")" \
            </dev/null >"$work/output" 2>"$work/trace"; then
            cat "$work/output" "$work/trace" >"$work/said"
            within=$(sed -n 's/^+\([0-9]*\) .*/\1/p' "$work/trace" | tail -n 1)
            fail_at $((line + ${within:-1} - 1)) "$(grep '^+' "$work/trace" | tail -n 1)"
        fi
        grep -v '^+' "$work/trace" >>"$work/output" || true
        [ -z "${KEEP-}" ] || cat "$work/output"
        ;;
    write | add)
        in_machine "$machine" mkdir -p "$(dirname "$path")"
        [ "$kind" = add ] || in_machine "$machine" truncate -s 0 "$path"
        in_machine "$machine" tee -a "$path" <"$text" >/dev/null
        [ "$path" != /etc/pkcs11proxyd/filter.conf ] || audited=$(audit_lines)
        ;;
    copy)
        to=$(tail -n 1 "$text")
        sed '$d' "$text" >"$work/copied"
        while read -r from; do
            in_machine hsm cat "$from" >"$work/one" || fail_at "$line" "copy $from"
            # shellcheck disable=SC2016 # for the shell that is started
            in_machine app sh -c 'mkdir -p "$1" && umask 77 && cat >"$1/$2"' sh "$to" "${from##*/}" <"$work/one" ||
                fail_at "$line" "copy $from"
        done <"$work/copied"
        ;;
    prints)
        while read -r expected; do
            grep -qF -- "$expected" "$work/output" || { cp "$work/output" "$work/said"; fail_at "$line" "not printed: $expected"; }
        done <"$text"
        ;;
    calls)
        calls_made >"$work/made"
        tr -s ' ' '\n' <"$text" | sort -u >"$work/said_calls"
        cmp -s "$work/made" "$work/said_calls" ||
            { diff "$work/said_calls" "$work/made" >"$work/said" || true
              tr '\n' ' ' <"$work/made" >>"$work/said"
              fail_at "$line" "other calls were made (>) than the page says (<)"; }
        # Of those that make, change, use or read out something, the rules leave none but these.
        for function in $restricted; do
            made=no forbidden=no
            ! grep -qxF "$function" "$work/made" || made=yes
            ! grep -qw "$function" "$work/hsm/root/etc/pkcs11proxyd/filter.conf" || forbidden=yes
            [ $made != $forbidden ] || fail_at "$line" "$function: called: $made, forbidden in filter.conf: $forbidden"
        done
        ;;
    esac
}

do_page() {
    page=$1
    mkdir -p "$work/steps/$page"
    awk -v directory="$work/steps/$page" -f "$recipes/blocks.awk" "$pages/$page.md" || fail "docs/recipes/$page.md"
    while read -r number line kind machine path <&3; do
        do_step "$number" "$line" "$kind" "$machine" "$path"
    done 3<"$work/steps/$page/steps"
}

for recipe; do
    [ -f "$pages/$recipe.md" ] || { echo "run.sh: no page docs/recipes/$recipe.md" >&2; exit 2; }
    began=$(date +%s)
    audited=0
    : >"$work/said"
    make_machine hsm
    make_machine app
    ip link add name "$net-h" netns "$net-hsm" type veth peer name "$net-a" netns "$net-app"
    number=1
    for machine in hsm app; do
        link=$net-$(printf %.1s "$machine")
        ip -n "$net-$machine" address add "10.77.0.$number/24" dev "$link"
        ip -n "$net-$machine" link set "$link" up
        number=2
    done
    boot hsm
    boot app
    do_page README
    do_page "$recipe"
    cleanup
    echo "ok: $recipe, $(wc -l <"$work/steps/$recipe/steps") steps, $(($(date +%s) - began)) s"
done
echo "recipes: all succeeded"
