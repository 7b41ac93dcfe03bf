#!/bin/sh
# container.sh [DIRECTORY]: builds the image of etc/container and runs it as its users do, with podman, which needs no
# service of its own. The base image is a Debian 12 that is debootstrapped here, so that no registry of images is needed.
# Without DIRECTORY the programs are built as the Containerfile says, with Debian's Rust, from the committed sources and
# vendored crates. With it, those that were built there take their place.
#
# Each container runs as the image's user, as process 1, with a read-only root file system, without capabilities, with
# no_new_privs and podman's default filter of system calls, and without network. A key is made and signs in a token of
# SoftHSM, which is mounted like configuration and TLS keys:
#   - TLS, with the files in etc/container;
#   - TLS, with those in etc/kubernetes/service.yaml, in a user namespace; then the rules are edited as Kubernetes does
#     it, and the daemon is ended by the command there (preStop);
#   - a Unix socket, with those in etc/kubernetes/sidecar.yaml, used by an application in a container of its own.
#
# Needs root, and installs debootstrap, podman and crun. SYSTEM names a system that is debootstrapped already. Everything
# is removed at the end.
set -eu

fail() {
    echo "container: $*" >&2
    exit 1
}

programs=${1-}
[ "$(id -u)" -eq 0 ] || fail "run this as root"
project=$(cd "$(dirname "$0")/.." && pwd)

# In a mount namespace of its own: crun refuses the control groups of systems that have both versions of them.
if [ "${CONTAINER_NAMESPACE-}" != yes ]; then
    export CONTAINER_NAMESPACE=yes
    exec unshare --mount "$0" "$@"
fi
umount -l /sys/fs/cgroup 2>/dev/null || :
mount -t tmpfs none /sys/fs/cgroup
for need in debootstrap:debootstrap podman:podman crun:crun pkcs11-tool:opensc softhsm2-util:softhsm2 openssl:openssl; do
    command -v "${need%:*}" >/dev/null || missing="${missing-} ${need#*:}"
done
# shellcheck disable=SC2086 # a list
[ -z "${missing-}" ] || DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing

work=$(mktemp -d)
podman() {
    # There is no systemd that would run the health check at its times; podman says so with each command.
    command podman --root "$work/storage" --runroot "$work/run" --cgroup-manager=cgroupfs --events-backend=none \
        "$@" 2>"$work/errors" || {
        status=$?
        grep -v 'unable to get systemd connection' "$work/errors" >&2 || :
        return $status
    }
}
finish() {
    podman rm --all --force --time 0 >/dev/null 2>&1 || :
    # What a container that has just ended still has mounted.
    awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l
    rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

say() { echo "container: $*"; }

base=$(sed -n 's/^ARG BASE=//p' "$project/etc/container/Containerfile")
if [ -z "${SYSTEM-}" ]; then
    debootstrap --variant=minbase bookworm "$work/base" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" \
        >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "debootstrap failed"; }
fi
tar -C "${SYSTEM:-$work/base}" -c . | podman import - "$base" >/dev/null || fail "cannot make the base image"
rm -rf --one-file-system "$work/base"

if [ -n "$programs" ]; then
    context=$project
    stage=$work/stage/source/target/release
    mkdir -p "$stage"
    cp "$programs/pkcs11proxyd" "$programs/pkcs11proxyctl" "$programs/p11client-doctor" "$programs/libp11client.so" "$stage/"
    cp "$project/LICENSE" "$work/stage/source/"
    make -s -C "$project" licences RELEASE="$stage"
    set -- --build-context "build=$work/stage"
else
    context=$work/context
    "$project/etc/release/source.sh" "$context"
    set --
fi
podman build --format docker --isolation chroot --network host --build-arg VERSION=trial "$@" \
    --ignorefile "$project/etc/container/Containerfile.dockerignore" \
    -t pkcs11proxyd -f "$project/etc/container/Containerfile" "$context" >"$work/log" ||
    { tail -n 30 "$work/log" >&2; fail "the image cannot be built"; }
rm -rf "$work/context" "$work/stage"
told=$(podman image inspect pkcs11proxyd --format '{{.Config.User}} {{.Config.StopSignal}} {{.HealthCheck.Test}}')
[ "$told" = "10001:10001 SIGTERM [CMD pkcs11proxyctl ready]" ] || fail "the image says: $told"
say "the image is built"

# What the image contains.
image=$(podman image mount pkcs11proxyd)
cp "$image/usr/lib/libp11client.so" "$work/"
[ -z "$(find "$image/etc/pkcs11proxyd" "$image/opt/pkcs11" -mindepth 1)" ] || fail "the image has a configuration"
! grep -rlE --exclude-dir=proc -e '-----BEGIN ([A-Z]+ )?PRIVATE KEY-----' "$image/etc" "$image/usr/share" "$image/home" \
    "$image/root" "$image/run" "$image/var" "$image/opt" || fail "the image has a private key"
for path in /source /usr/bin/rustc /usr/bin/gcc; do
    [ ! -e "$image$path" ] || fail "the image has $path"
done
podman image unmount pkcs11proxyd >/dev/null

# What a site mounts: the module, a token, and certificates.
"$project/tests/support/make-certs.sh" "$work/certs"
mkdir -p "$work/module" "$work/tokens"
cp "$(readlink -f /usr/lib/softhsm/libsofthsm2.so)" "$work/module/libsofthsm2.so"
cp "$work/module/libsofthsm2.so" "$work/module/libhsm.so"
echo 'directories.tokendir = /var/lib/softhsm/tokens' >"$work/module/softhsm2.conf"
echo "directories.tokendir = $work/tokens" >"$work/softhsm2.conf"
SOFTHSM2_CONF=$work/softhsm2.conf softhsm2-util --init-token --free --label trial --pin 1234 --so-pin 5678 >/dev/null
chmod -R go+rX "$work/module" "$work/certs" "$work/libp11client.so"

# from_map FILE NAME: what a ConfigMap in this file of etc/kubernetes has under this name.
from_map() {
    awk -v name="$2" '$0 == "  " name ": |" { copies = 1; next } /^  [^ ]|^---/ { copies = 0 } copies { print substr($0, 5) }' \
        "$project/etc/kubernetes/$1" | grep . || fail "etc/kubernetes/$1 has no $2"
}

# site NAME ROOT: a directory with a configuration, as Kubernetes lays it out: all names are links through ..data, and the
# files belong to root of the container, whose number is ROOT outside of it, and to the daemon's group. The token is
# handed over to the daemon.
site() {
    first=$work/$1/..first
    mkdir -p "$first/tls"
    ln -s ..first "$work/$1/..data"
    for name in pkcs11proxyd.conf filter.conf tls; do
        ln -s "..data/$name" "$work/$1/$name"
    done
    cp "$work/certs/server.pem" "$first/tls/tls.crt"
    cp "$work/certs/server.key" "$first/tls/tls.key"
    cp "$work/certs/ca.pem" "$first/tls/ca.crt"
    for name in pkcs11proxyd.conf filter.conf; do
        if [ "$1" = image ]; then
            cp "$project/etc/container/$name" "$first/"
        else
            from_map "$1.yaml" "$name" >"$first/$name"
        fi
    done
    chown -R "$2:$(($2 + 10001))" "$work/$1"
    find "$first" -type f -exec chmod 440 {} +
    chown -R "$(($2 + 10001)):$(($2 + 10001))" "$work/tokens"
}

restricted="--cgroups=disabled --network=none --read-only --read-only-tmpfs=false --cap-drop=all
    --security-opt no-new-privileges --ulimit nofile=1024:1024 --ulimit nproc=4096:4096"

# start NAME OPTIONS: a container with the site NAME.
start() {
    name=$1
    shift
    # shellcheck disable=SC2086 # a list
    podman run --detach --name "$name" $restricted "$@" --log-driver=k8s-file --log-opt "path=$work/$name.log" \
        -v "$work/$name:/etc/pkcs11proxyd:ro" -v "$work/module:/opt/pkcs11:ro" \
        -v "$work/tokens:/var/lib/softhsm/tokens" -e SOFTHSM2_CONF=/opt/pkcs11/softhsm2.conf \
        pkcs11proxyd >/dev/null || fail "$name: the container does not start"
    ready "$name"
    pid=$(podman inspect "$name" --format '{{.State.Pid}}')
    is_confined "$name" "$pid"
    ! podman exec "$name" touch /etc/a 2>/dev/null || fail "$name: the root file system can be written to"
}

logged() {
    tail -n 20 "$work/$1.log" >&2
    fail "$1: $2"
}

# ready NAME: the image's own check succeeds, within ten seconds.
ready() {
    tries=0
    until podman healthcheck run "$1" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 20 ] || logged "$1" "not ready"
        sleep 0.5
    done
}

# status KEY PID
status() {
    awk -v key="$1:" '$1 == key { print $NF }' "/proc/$2/status"
}

# is_confined NAME PID: it is process 1 there, without any privilege, and so is what it started.
is_confined() {
    [ "$(status NSpid "$2")" = 1 ] || fail "$1: it is not process 1"
    for process in "$2" $(cat "/proc/$2/task/$2/children"); do
        for key in CapPrm CapEff CapBnd CapAmb; do
            [ "$(status $key "$process")" = 0000000000000000 ] || fail "$1: process $process has capabilities ($key)"
        done
        [ "$(status NoNewPrivs "$process")" = 1 ] || fail "$1: process $process may get privileges"
        [ "$(status Seccomp "$process")" = 2 ] || fail "$1: process $process has no filter of system calls"
    done
}

# stopped NAME: it ends with 0.
stopped() {
    tries=0
    until told=$(podman inspect "$1" --format '{{.State.Status}} {{.State.ExitCode}}') && [ "${told% *}" = exited ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || logged "$1" "it does not end"
        sleep 0.5
    done
    [ "$told" = "exited 0" ] || logged "$1" "$told"
    say "$1: ended with 0"
}

# tool PID ARGUMENTS: pkcs11-tool in the network namespace of a process, over TLS.
tool() {
    process=$1
    shift
    nsenter --target "$process" --net env PKCS11PROXY_SOCKET=127.0.0.1:4444 PKCS11PROXY_LIBNAME="$alias" \
        PKCS11PROXY_CA_FILE="$work/certs/ca.pem" PKCS11PROXY_CERT_FILE="$work/certs/client.pem" \
        PKCS11PROXY_PRIVKEY_FILE="$work/certs/client.key" PKCS11PROXY_LOG=error \
        pkcs11-tool --module "$work/libp11client.so" --login --pin 1234 --token-label trial "$@"
}

# use NAME PID: makes a key, signs with it, and has OpenSSL verify that.
use() {
    tool "$2" --keypairgen --key-type EC:prime256v1 --id 01 --label "$1" >/dev/null 2>&1 || logged "$1" "no key"
    head -c 32 /dev/urandom >"$work/data"
    tool "$2" --sign --mechanism ECDSA --signature-format openssl --id 01 -i "$work/data" -o "$work/signature" \
        >/dev/null 2>&1 || logged "$1" "no signature"
    tool "$2" --read-object --type pubkey --id 01 -o "$work/public.der" >/dev/null 2>&1 || logged "$1" "no public key"
    openssl pkeyutl -verify -pubin -inkey "$work/public.der" -keyform DER -in "$work/data" -sigfile "$work/signature" \
        >/dev/null || fail "$1: the signature is wrong"
    for kind in privkey pubkey; do
        tool "$2" --delete-object --type $kind --id 01 >/dev/null 2>&1 || logged "$1" "the key stays"
    done
    say "$1: a key was made and has signed"
}

site image 0
alias=softhsm
start image --tmpfs /run/pkcs11proxyd:mode=1777
pid=$(podman inspect image --format '{{.State.Pid}}')
[ "$(status Uid "$pid")" = 10001 ] || fail "image: it runs as another user"
grep -q 'sandbox: preset strict; .*landlock: .*seccomp: ' "$work/image.log" || logged image "no sandbox"
use image "$pid"
# Processes whose parents are gone belong to process 1, which has to reap them.
podman exec image sh -c '(sleep 0.2 & exec sh -c "sleep 0.1") & exit' || fail "image: exec"
sleep 1
for process in $(cat "/proc/$pid/task/$pid/children"); do
    ! grep '^State:.*zombie' "/proc/$process/status" || fail "image: a zombie is left"
done
# The check tells when a module cannot be used.
mv "$work/module/libsofthsm2.so" "$work/module/elsewhere"
! podman healthcheck run image >/dev/null 2>&1 || fail "image: ready without its module"
mv "$work/module/elsewhere" "$work/module/libsofthsm2.so"
ready image
podman stop --time 20 image >/dev/null || fail "image: stop"
stopped image

# The service, where root of the container is nobody outside of it.
site service 100000
alias=hsm
start service --uidmap 0:100000:65536 --gidmap 0:100000:65536 --tmpfs /run/pkcs11proxyd:mode=1777
pid=$(podman inspect service --format '{{.State.Pid}}')
[ "$(status Uid "$pid")" = 110001 ] || fail "service: it runs as another user"
use service "$pid"
# An edited ConfigMap comes as another directory to which ..data leads from then on.
cp -a "$work/service/..first" "$work/service/..second"
echo 'forbidden_functions = [(".*", [C_GenerateKeyPair])]' >>"$work/service/..second/filter.conf"
ln -s ..second "$work/service/..new"
mv -T "$work/service/..new" "$work/service/..data"
sleep 1
! tool "$pid" --keypairgen --key-type EC:prime256v1 --id 02 --label edited >/dev/null 2>&1 ||
    logged service "the edited rules do not count"
say "service: edited rules count"
# It ends with the container, before its last sleep does.
command=$(sed -n 's/^ *command: \["sh", "-c", "\(.*\)"\]$/\1/p' "$project/etc/kubernetes/service.yaml")
[ -n "$command" ] || fail "etc/kubernetes/service.yaml has no command to stop"
timeout 60 sh -c 'while [ -e "$0" ]; do sleep 1; done' "/proc/$pid" &
podman exec service sh -c "$command" >/dev/null 2>&1 || :
wait $! || logged service "the command does not end it"
stopped service

# The sidecar. The application may read the socket's directory as a member of a group, and not write to it.
site sidecar 0
mkdir "$work/shared" "$work/application"
from_map sidecar.yaml client.conf >"$work/application/client.conf"
cp "$work/libp11client.so" "$work/application/"
chgrp 10002 "$work/shared"
chmod 2777 "$work/shared"
start sidecar --group-add 10002 -v "$work/shared:/run/pkcs11proxyd"
# shellcheck disable=SC2086 # a list
podman run --rm $restricted --user 10003:10003 --group-add 10002 --entrypoint p11client-doctor \
    -v "$work/application:/client:ro" -v "$work/shared:/run/pkcs11proxyd:ro" -e PKCS11PROXY_CONF=/client/client.conf \
    pkcs11proxyd >"$work/told" 2>&1 || { cat "$work/told" >&2; logged sidecar "the application cannot use it"; }
grep -q trial "$work/told" || { cat "$work/told" >&2; fail "sidecar: the application does not see the token"; }
# shellcheck disable=SC2086 # a list
! podman run --rm $restricted --user 10003:10003 --entrypoint p11client-doctor \
    -v "$work/application:/client:ro" -v "$work/shared:/run/pkcs11proxyd:ro" -e PKCS11PROXY_CONF=/client/client.conf \
    pkcs11proxyd >/dev/null 2>&1 || fail "sidecar: somebody outside of the group may connect"
# shellcheck disable=SC2086 # a list
! podman run --rm $restricted --user 10003:10003 --group-add 10002 --entrypoint pkcs11proxyctl \
    -v "$work/shared:/run/pkcs11proxyd:ro" pkcs11proxyd status >/dev/null 2>&1 ||
    fail "sidecar: the application may use the control socket"
say "sidecar: an application uses the token"
podman stop --time 20 sidecar >/dev/null || fail "sidecar: stop"
stopped sidecar
say passed
