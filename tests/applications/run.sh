#!/bin/sh
# run.sh BUILT [APPLICATION...]: runs real, unmodified applications on a token of SoftHSM: directly, through the client
# library and daemon in the directory BUILT, and through the client library and the daemon of Caml Crush. Fails if an
# application fails through our daemon, or through Caml Crush's without a reason that it states itself, or leaves a
# process behind. Without APPLICATION it runs all of them, which takes about five minutes.
#
#   make applications
#   make applications APPLICATIONS="nginx openssh" WAYS="direct ours"
#   make applications RECOVER=1       the applications that run for long, while the daemon is killed and restarted
#
# An application is a file APPLICATION.sh beside this one. It sets or defines:
#   about       one line: what is run
#   transport   what the client library connects over: unix, tcp or tls
#   lives       "long" if it is a server or an agent that lives through many operations, given by load
#   signs       how many signatures one operation of load asks for
#   asks_again  the reason why the application itself asks for the same signature once more when C_Sign fails
#   not_on      ways in which it is not run, each as WAY: REASON, separated by semicolons
#   limit       seconds after which a run is ended, by default 120
#   prepare     builds in $tools, a directory that is kept, what the application is built from
#   application runs it in an empty directory, and checks what it made without the token
# What they use is in helpers.sh.
#
# WAYS        which of direct, ours and original; the default is all of them, with RECOVER without direct.
# RECOVER=1   sets recover and keep_pin of the client library. While an application is under load, the daemon is ended
#             with SIGKILL and started again, RESTARTS times (by default 3). The next operation has to succeed each time.
#
# The module writes down what it signs (tests/support/witness.c): under load, no data may be signed twice, unless the
# application itself asks again, and there may be no more signatures than were asked for, nor fewer than operations that
# succeeded.
#
# Everything that is built stays below CARGO_TARGET_DIR (by default target), in applications. What the runs, their
# daemons and the client library said is there too, in results: APPLICATION.WAY.log, .daemon.log and .client.log.
set -eu

applications=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$applications/../.." && pwd)
[ $# -gt 0 ] || { echo "usage: run.sh BUILT [APPLICATION...]" >&2; exit 2; }
built=$(cd "$1" && pwd)
shift
if [ $# -eq 0 ]; then
    for file in "$applications"/*.sh; do
        case $file in
        */run.sh | */helpers.sh) ;;
        *) set -- "$@" "$(basename "$file" .sh)" ;;
        esac
    done
fi
recover=${RECOVER:-} restarts=${RESTARTS:-3}
ways=${WAYS:-${recover:+ours original}}
ways=${ways:-direct ours original}
mkdir -p "${CARGO_TARGET_DIR:-$project/target}/applications/results"
kept=$(cd "${CARGO_TARGET_DIR:-$project/target}/applications" && pwd)
results=$kept/results
softhsm=$(find /usr/lib /usr/local/lib -name libsofthsm2.so 2>/dev/null | head -n 1)
[ -n "$softhsm" ] || { echo "run.sh: libsofthsm2.so is missing; make applications-packages installs it" >&2; exit 1; }
# SoftHSM, by a module that writes down what it signs. The header is that of SoftHSM or of p11-kit.
module=$kept/witness.so
kit=$(pkg-config --cflags-only-I p11-kit-1 2>/dev/null || true)
# shellcheck disable=SC2086 # a list
cc -std=c11 -Wall -Wextra -Werror -O1 -shared -fPIC "-DSOFTHSM=\"$softhsm\"" -I /usr/include/softhsm \
    ${kit:+$kit "${kit%% *}/p11-kit"} -o "$module" "$project/tests/support/witness.c" -ldl

# A short path: that of a Unix socket has at most 107 bytes. Servers that change their user have to get in.
work=$(mktemp -d)
chmod 755 "$work"
label=applications pin=1234 tls=$work/tls

# left_behind: the processes that were started here and still run: by their environment, or their directory.
left_behind() {
    for process in /proc/[0-9]*; do
        if { tr '\0' '\n' <"$process/environ" | grep -qxF "APPLICATIONS_RUN=$work" ||
            case $(readlink "$process/cwd") in "$work"/*) ;; *) false ;; esac; } 2>/dev/null; then
            echo "${process#/proc/}"
        fi
    done
}
end_left_behind() {
    for process in $(left_behind); do
        kill -9 "$process" 2>/dev/null || true
    done
}
trap 'end_left_behind; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

for name in $(env | sed -n 's/^\(PKCS11PROXY_[^=]*\|SOFTHSM2_CONF\|OPENSSL_CONF\)=.*/\1/p'); do
    unset "$name"
done

# The token has two pairs of keys, rsa (01) and ec (02), with a certificate each. The private keys are only there.
make_token() {
    mkdir -p "$work/token/tokens" "$work/public"
    printf '%s\n' "directories.tokendir = $work/token/tokens" "objectstore.backend = file" \
        "log.level = ERROR" "slots.removable = false" >"$work/token/softhsm2.conf"
    : >"$work/token/softhsm2.conf.lock"
    # Written by servers that have changed their user, too.
    : >"$work/token/softhsm2.conf.calls"
    chmod 666 "$work/token/softhsm2.conf.calls"
    export SOFTHSM2_CONF="$work/token/softhsm2.conf"
    softhsm2-util --init-token --free --label "$label" --pin "$pin" --so-pin 12345678
    cd "$work/public"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ../ca.key -days 30 -subj "/CN=Authority of the applications" \
        -addext keyUsage=critical,keyCertSign,cRLSign -out ca.pem
    cat >extensions <<CONF
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature, keyEncipherment
subjectKeyIdentifier = hash
extendedKeyUsage = serverAuth, clientAuth, codeSigning, emailProtection
subjectAltName = DNS:localhost, IP:127.0.0.1
CONF
    for key in "rsa 01 rsa_keygen_bits:2048 RSA" "ec 02 ec_paramgen_curve:P-256 EC"; do
        # shellcheck disable=SC2086 # a list
        set -- $key
        openssl genpkey -algorithm "$4" -pkeyopt "$3" -out ../private.key
        openssl pkey -in ../private.key -pubout -out "$1.pub"
        openssl req -new -key ../private.key -subj "/CN=$1.localhost" |
            openssl x509 -req -days 30 -CA ca.pem -CAkey ../ca.key -CAcreateserial -extfile extensions -out "$1.pem"
        openssl x509 -in "$1.pem" -outform DER -out "$1.der"
        softhsm2-util --import ../private.key --token "$label" --label "$1" --id "$2" --pin "$pin"
        pkcs11-tool --module "$module" --token-label "$label" --login --pin "$pin" --write-object "$1.der" \
            --type cert --label "$1" --id "$2"
    done
    rm ../private.key ../ca.key
    mv "$work/token" "$work/pristine"
}
"$project/tests/support/make-certs.sh" "$tls"
(make_token) >"$results/token.log" 2>&1 || { cat "$results/token.log" >&2; exit 1; }

# in_application FUNCTION DIRECTORY SECONDS: calls an application's function there, in a shell of its own that the time limit
# can end.
in_application() {
    (cd "$2" && exec env APPLICATIONS_RUN="$work" applications="$applications" project="$project" built="$built" \
        work="$work" tools="$tools" tls="$tls" public="$work/public" module="$module" library="${library-}" \
        way="${way-}" label="$label" pin="$pin" recover="$recover" restarts="$restarts" \
        daemon_log="${daemon_log-}" client_log="${client_log-}" \
        timeout --kill-after=5 "$3" sh -ec '. "$applications/helpers.sh"; . "$applications/$1.sh"; run "$2"' sh \
        "$application" "$1")
}

# run_way WAY: one run, on a copy of the token. Prints its result.
run_way() {
    way=$1
    log=$results/$application.$way.log daemon_log=$results/$application.$way.daemon.log
    client_log=$results/$application.$way.client.log
    rm -rf "$work/token" "$work/daemon" "$work/here" "$work/tmp" "$work/home"
    cp -a "$work/pristine" "$work/token"
    mkdir "$work/here" "$work/tmp" "$work/home"
    : >"$daemon_log"
    : >"$client_log"
    chmod 666 "$client_log"
    library=$built/libp11client.so
    [ "$way" != direct ] || library=$module
    if in_application application "$work/here" "$limit" >"$log" 2>&1 </dev/null; then
        result=ok
    else
        result="FAILED: $(sed -n 's/^failed: //p' "$log" | head -n 1)"
    fi
    # Servers take a moment to end.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        left=$(left_behind)
        [ -n "$left" ] || break
        sleep 0.2
    done
    if [ -n "$left" ]; then
        for process in $left; do
            echo "left behind: $process $(tr '\0' ' ' <"/proc/$process/cmdline" 2>/dev/null || true)" >>"$log"
        done
        end_left_behind
        [ "$result" != ok ] || result="FAILED: leaves processes behind"
    fi
    # What it said about the load, with RECOVER.
    noted=$(sed -n 's/^note: //p' "$log" | head -n 1)
    echo "$result${noted:+, $noted}"
}

: >"$work/table"
printf '%s\t%s\t%s\t%s\n' application direct ours original >>"$work/table"
failed=
for application; do
    [ -f "$applications/$application.sh" ] || { echo "run.sh: no application $application" >&2; exit 2; }
    about='' transport=unix lives=short not_on='' limit=120
    . "$applications/$application.sh"
    [ -z "$recover" ] || [ "$lives" = long ] || continue
    [ -z "$recover" ] || limit=$((limit + 60 * restarts))
    tools=$kept/$application
    mkdir -p "$tools"
    echo "== $application: $about, over $transport"
    if ! in_application prepare "$tools" 600 >"$results/$application.prepare.log" 2>&1 </dev/null; then
        tail -n 20 "$results/$application.prepare.log" >&2
        echo "   cannot be built, see $results/$application.prepare.log"
        failed="$failed $application"
        continue
    fi
    for way in direct ours original; do
        reason=$(printf '; %s;' "$not_on" | sed -n "s/.*; $way: \([^;]*\);.*/\1/p")
        case " $ways " in
        *" $way "*) ;;
        *) reason="not asked for" ;;
        esac
        if [ -n "$reason" ]; then
            result=-
            [ "$reason" = "not asked for" ] || echo "   $way: not run: $reason"
        else
            started=$(date +%s)
            result=$(run_way "$way")
            echo "   $way: $result ($(($(date +%s) - started)) s)"
            case $result in
            ok*) ;;
            *)
                failed="$failed $application.$way"
                result=FAILED
                ;;
            esac
        fi
        eval "result_$way=\${result%%,*}"
    done
    # shellcheck disable=SC2154 # set by eval
    printf '%s\t%s\t%s\t%s\n' "$application" "$result_direct" "$result_ours" "$result_original" >>"$work/table"
done

echo
awk -F '\t' '{ printf "%-18s %-8s %-8s %-8s\n", $1, $2, $3, $4 }' "$work/table"
[ -z "$failed" ] || { echo "applications: failed:$failed; see $results"; exit 1; }
echo "applications: all succeeded"
