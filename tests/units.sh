#!/bin/sh
# units.sh bookworm|trixie DIRECTORY: proves the systemd units on a system that boots in a container. Debootstraps Debian 12
# or 13, installs there what was built in DIRECTORY, as make install does, makes a token of SoftHSM, boots systemd, and
# has OpenSC use the token: through a daemon that root starts, through one that starts as its own user, and through one
# that its socket starts. Each is reloaded, watched, upgraded and stopped, and its logs are rotated. One has an audit log,
# which is copied to the journal.
#
# Needs root, debootstrap and systemd-nspawn (systemd-container), which it installs. SYSTEM names a system that is
# debootstrapped already; it is copied. Everything is removed at the end.
set -eu

fail() {
    echo "units: $*" >&2
    exit 1
}

suite=${1-} built=${2-}
case $suite in
bookworm | trixie) ;;
*) fail "usage: units.sh bookworm|trixie DIRECTORY" ;;
esac
for program in pkcs11proxyd pkcs11proxyctl p11client-doctor libp11client.so libp11clienttcp.so; do
    [ -e "$built/$program" ] || fail "no $built/$program; run make first"
done
[ "$(id -u)" -eq 0 ] || fail "run this as root"
for need in debootstrap:debootstrap systemd-nspawn:systemd-container; do
    command -v "${need%:*}" >/dev/null ||
        DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "${need#*:}"
done

project=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' HUP INT TERM
system=$work/system

if [ -n "${SYSTEM-}" ]; then
    cp -a "$SYSTEM" "$system"
else
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,softhsm2,opensc,logrotate "$suite" "$system" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; fail "debootstrap failed"; }
fi

make -s -C "$project" install-files BUILT="$(cd "$built" && pwd)" DESTDIR="$system" PREFIX=/usr SYSCONFDIR=/etc \
    P11_KIT= MANDIR= DOCDIR= LIBNAMES=
mkdir "$system/proof"
sed -e 's|(\* control_socket = .*|control_socket = "/run/pkcs11proxyd/control";|' \
    -e 's|(\* logging { type = "file".*|logging { type = "file"; file = "/var/log/pkcs11proxyd/daemon.log" };|' \
    "$project/etc/pkcs11proxyd.conf" >"$work/unprivileged.conf"
sed 's|(\* user = .*|user = "pkcs11proxyd";|' "$work/unprivileged.conf" >"$work/root.conf"
grep -q '^ *user = "pkcs11proxyd";' "$work/root.conf" || fail "etc/pkcs11proxyd.conf has no place for user"
grep -q '^ *control_socket' "$work/root.conf" || fail "etc/pkcs11proxyd.conf has no place for control_socket"
grep -q '^ *logging { type = "file"' "$work/root.conf" || fail "etc/pkcs11proxyd.conf has no place for a log file"
install -m 640 "$work/root.conf" "$work/unprivileged.conf" "$system/proof/"

openssl genpkey -algorithm ed25519 -out "$system/proof/audit.pem"
openssl pkey -in "$system/proof/audit.pem" -pubout -out "$system/proof/audit-public.pem"

cat >"$system/proof/run" <<'EOF'
#!/bin/sh
# Runs in the container, as root.
set -eu
exec 2>&1
conf=/etc/pkcs11proxyd/pkcs11proxyd.conf

say() { echo "proof: $*"; }

fail() {
    say "FAILED: $*"
    journalctl -b --no-pager -n 400 -u 'pkcs11proxyd*' | grep -v DEBUG_LEVEL | tail -n 40
    exit 1
}

# use WHERE: generates a key and signs with it.
use() {
    export PKCS11PROXY_LIBNAME=softhsm PKCS11PROXY_LOG=error
    tool="pkcs11-tool --module /usr/lib/libp11client.so --login --pin 1234 --token-label units"
    $tool --keypairgen --key-type EC:prime256v1 --id 01 --label "$1" >/dev/null || fail "$1: no key"
    head -c 32 /dev/zero >/tmp/data
    $tool --sign --mechanism ECDSA --id 01 -i /tmp/data -o /tmp/signature >/dev/null 2>&1 || fail "$1: no signature"
    for kind in privkey pubkey; do
        $tool --delete-object --type "$kind" --id 01 >/dev/null || fail "$1: the key stays"
    done
    say "$1: a key was made and has signed"
}

# watched UNIT USER: it runs, its workers as USER, and lives longer than its watchdog allows without a word.
watched() {
    main=$(systemctl show -P MainPID "$1")
    workers=$(cat "/proc/$main/task/$main/children")
    [ -n "$workers" ] || fail "$1: no worker is ready"
    for worker in $workers; do
        user=$(stat -c %U "/proc/$worker")
        # A process that is not dumpable belongs to root in /proc.
        uid=$(awk '$1 == "Uid:" { print $2 }' "/proc/$worker/status")
        [ "$uid" = "$(id -u "$2")" ] || fail "$1: a worker runs as $uid ($user)"
    done
    caps=$(awk '$1 == "CapBnd:" { print $2 }' "/proc/$main/status")
    seccomp=$(awk '$1 == "Seccomp:" { print $2 }' "/proc/$main/status")
    [ "$seccomp" = 2 ] || fail "$1: no filter of system calls"
    say "$1: workers run as $2; capabilities $caps"
    systemctl reload "$1" || fail "$1: reload"
    sleep 5
    [ "$(systemctl show -P MainPID "$1")" = "$main" ] || fail "$1: another process runs"
    [ "$(systemctl show -P NRestarts "$1")" = 0 ] || fail "$1: it was restarted"
    [ "$(systemctl show -P ActiveState "$1")" = active ] || fail "$1: not active"
    pkcs11proxyctl status >/dev/null || fail "$1: pkcs11proxyctl"
}

# upgraded UNIT: another process takes its place, and systemd knows it.
upgraded() {
    before=$(systemctl show -P MainPID "$1")
    pkcs11proxyctl upgrade >/dev/null || fail "$1: upgrade"
    sleep 3
    after=$(systemctl show -P MainPID "$1")
    [ "$after" != "$before" ] || fail "$1: the same process runs after the upgrade"
    [ "$(systemctl show -P ActiveState "$1")" = active ] || fail "$1: not active after the upgrade"
    [ "$(systemctl show -P NRestarts "$1")" = 0 ] || fail "$1: it was restarted"
    [ ! -e "/proc/$before" ] || fail "$1: the former process stays"
    say "$1: upgraded"
}

# rotated UNIT: the log file is renamed, and the daemon goes on in a new one.
rotated() {
    logrotate --force /etc/logrotate.d/pkcs11proxyd || fail "$1: logrotate"
    sleep 1
    use "$1 after the rotation"
    [ -s /var/log/pkcs11proxyd/daemon.log.1 ] || fail "$1: there is no renamed log file"
    [ -s /var/log/pkcs11proxyd/daemon.log ] || fail "$1: it writes to no new log file"
    rm /var/log/pkcs11proxyd/*
}

ended() {
    systemctl stop "$1" || fail "$1: stop"
    [ "$(systemctl show -P Result "$1")" = success ] || fail "$1: $(systemctl show -P Result "$1")"
    [ "$(systemctl show -P ExecMainStatus "$1")" = 0 ] || fail "$1: status $(systemctl show -P ExecMainStatus "$1")"
    say "$1: stopped"
}

say "systemd $(systemctl --version | head -n 1)"
systemd-sysusers || fail systemd-sysusers
systemd-tmpfiles --create pkcs11proxyd.conf || fail systemd-tmpfiles
usermod --append --groups softhsm pkcs11proxyd
setpriv --reuid pkcs11proxyd --regid pkcs11proxyd --init-groups \
    softhsm2-util --init-token --free --label units --pin 1234 --so-pin 5678 >/dev/null
for unit in pkcs11proxyd pkcs11proxyd-unprivileged; do
    mkdir -p "/run/systemd/system/$unit.service.d"
    printf '[Service]\nWatchdogSec=2\n' >"/run/systemd/system/$unit.service.d/watch.conf"
done
printf 'SupplementaryGroups=softhsm\n' >>/run/systemd/system/pkcs11proxyd-unprivileged.service.d/watch.conf
systemctl daemon-reload

cp /proof/root.conf $conf
systemctl start pkcs11proxyd || fail "pkcs11proxyd does not start"
use pkcs11proxyd
watched pkcs11proxyd pkcs11proxyd
use "after the reload"
rotated pkcs11proxyd
upgraded pkcs11proxyd
use "after the upgrade"
watched pkcs11proxyd pkcs11proxyd
rotated pkcs11proxyd
ended pkcs11proxyd

# The audit log and its copy in the journal, which finds the daemon's own lines by their priority, too.
printf 'LogRateLimitIntervalSec=0\n' >>/run/systemd/system/pkcs11proxyd.service.d/watch.conf
systemctl daemon-reload
install -m 600 /proof/audit.pem /etc/pkcs11proxyd/
sed 's|^ *control_socket = .*|& audit { file = "/var/log/pkcs11proxyd/audit.log"; key = "audit.pem"; journal = "all"; };|' \
    /proof/root.conf >$conf
systemctl start pkcs11proxyd || fail "pkcs11proxyd does not start with an audit log"
use "with an audit log"
ended pkcs11proxyd
verify="pkcs11proxyctl audit verify -key /proof/audit-public.pem"
$verify /var/log/pkcs11proxyd/audit.log || fail "the audit log"
journalctl --sync
journalctl -q -o cat -t pkcs11proxyd-audit >/tmp/copy
cmp /tmp/copy /var/log/pkcs11proxyd/audit.log || fail "the journal has other lines than the audit log"
$verify - </tmp/copy || fail "the audit log in the journal"
journalctl -q -o cat -t pkcs11proxyd-audit PKCS11_FUNCTION=C_Sign PKCS11_RESULT=CKR_OK | grep -q '"objects"' ||
    fail "no signature in the journal"
journalctl -q -u pkcs11proxyd -p notice..notice | grep -q 'notice\]' || fail "lines in the journal have no priority"
say "the journal has the audit log, as it was written"
cp /proof/root.conf $conf

systemctl start pkcs11proxyd.socket || fail "pkcs11proxyd.socket does not start"
[ "$(systemctl is-active pkcs11proxyd)" = inactive ] || fail "it runs before anybody connects"
use pkcs11proxyd.socket
watched pkcs11proxyd pkcs11proxyd
upgraded pkcs11proxyd
# The socket stays, and starts the daemon again.
systemctl stop pkcs11proxyd 2>/dev/null
use "after a stop"
systemctl stop pkcs11proxyd.socket
ended pkcs11proxyd

cp /proof/unprivileged.conf $conf
chgrp -R pkcs11proxyd /etc/pkcs11proxyd
systemctl start pkcs11proxyd-unprivileged || fail "pkcs11proxyd-unprivileged does not start"
use pkcs11proxyd-unprivileged
watched pkcs11proxyd-unprivileged pkcs11proxyd
rotated pkcs11proxyd-unprivileged
upgraded pkcs11proxyd-unprivileged
use "after the upgrade"
ended pkcs11proxyd-unprivileged
say passed
EOF
chmod 755 "$system/proof/run"
cat >"$system/etc/systemd/system/proof.service" <<'EOF'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=-/bin/sh -c "/proof/run >/proof/told"
ExecStart=/bin/systemctl --no-block poweroff
[Install]
WantedBy=default.target
EOF
ln -sf /etc/systemd/system/proof.service "$system/etc/systemd/system/multi-user.target.wants/proof.service"
ln -sf /lib/systemd/system/multi-user.target "$system/etc/systemd/system/default.target"
# A system without one boots for the first time, and starts every service that is there.
tr -d - </proc/sys/kernel/random/uuid >"$system/etc/machine-id"

# Containers may not call landlock unless they are told. The limit is for a system that hangs.
timeout 300 systemd-nspawn -q -D "$system" --register=no --keep-unit --boot --private-network --console=pipe \
    --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
    </dev/null >"$work/log" 2>&1 || true
[ -e "$system/proof/told" ] || { tail -n 30 "$work/log" >&2; fail "the system did not boot"; }
cat "$system/proof/told"
[ "$(tail -n 1 "$system/proof/told")" = "proof: passed" ] || fail "$suite: see above"
echo "units: $suite: passed"
