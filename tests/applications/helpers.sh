# helpers.sh: what the applications' scripts have in common. run.sh sets the variables:
#   library     the PKCS#11 library that the application loads
#   way         direct, ours or original
#   module      SoftHSM, by tests/support/witness.c
#   label, pin  the token's
#   public      a directory with ca.pem, and rsa.pem, rsa.der, rsa.pub, ec.pem, ec.der, ec.pub for the token's keys:
#               certificate in two forms, public key
#   tools       the directory in which prepare was called
#   recover     not empty if the daemon is ended and started again under load; restarts says how often

token="pkcs11:token=$label"
daemon_directory=$work/daemon
asks_again=
# A line for each signature, decryption and login.
calls=$work/token/softhsm2.conf.calls

# fail WHAT: ends the run.
fail() {
    printf 'failed: %s\n' "$1"
    exit 1
}

# step NAME COMMAND...: one step of a run, which has to succeed. A function must join its commands with &&.
step() {
    step_name=$1
    shift
    step_status=0
    "$@" >output 2>&1 </dev/null || step_status=$?
    [ $step_status -eq 0 ] || fail "$step_name: exit $step_status: $(tr '\n' ' ' <output | cut -c 1-600)"
    printf 'ok: %s\n' "$step_name"
}

# contains FILE TEXT
contains() {
    grep -qF -- "$2" "$1" || { echo "no \"$2\" in $1:"; cat "$1"; return 1; }
}

# calls_are COUNT PATTERN: how many lines that begin like this the module has written.
calls_are() {
    counted=$(grep -c "^$2" "$calls" || true)
    [ "$counted" -eq "$1" ] || { echo "expected $1 of $2:"; cat "$calls"; return 1; }
}

# until_true SECONDS COMMAND...: repeats it until it succeeds.
until_true() {
    deadline=$(($(date +%s) + $1))
    shift
    while ! "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt $deadline ] || return 1
        sleep 0.05
    done
}

# A port of the loopback address below those that the system gives to outgoing connections.
free_port() {
    python3 - <<'PYTHON'
import os, socket
for attempt in range(1000):
    port = 20000 + (os.getpid() * 7 + attempt) % 12000
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break
PYTHON
}

# accepts ADDRESS: whether somebody listens on this port or Unix socket.
accepts() {
    python3 - "$1" <<'PYTHON'
import socket, sys
address = sys.argv[1]
with socket.socket(socket.AF_UNIX if "/" in address else socket.AF_INET) as stream:
    stream.settimeout(5)
    stream.connect(address if "/" in address else ("127.0.0.1", int(address)))
PYTHON
}

# start_daemon: starts the daemon of this way, where it listened before if it did. Does nothing if there is none.
start_daemon() {
    [ "$way" != direct ] || return 0
    program=$built/pkcs11proxyd
    [ "$way" != original ] || program=/usr/bin/pkcs11proxyd
    rm -f "$daemon_directory/pid"
    [ -d "$daemon_directory" ] || configure_daemon
    # The application does not see the token: only the daemon's environment names it. A pause after each signature, so
    # that a daemon that is killed has often signed what it has not answered.
    env -u PKCS11PROXY_CONF SOFTHSM2_CONF="$work/token/softhsm2.conf" WITNESS_PAUSE="${recover:+20}" "$program" -fg \
        -conf "$daemon_directory/pkcs11proxyd.conf" -pid "$daemon_directory/pid" >>"$daemon_log" 2>&1 </dev/null &
    daemon=$!
    until_true 10 accepts "$daemon_address" || fail "the daemon does not start: $(tail -n 5 "$daemon_log")"
}

configure_daemon() {
    mkdir -p "$daemon_directory/run"
    endpoint="internet\"; bind = \"127.0.0.1:" use_ssl=false
    case $transport in
    unix)
        daemon_address=$daemon_directory/socket
        address="tcp_nodelay = false; address { type = \"local\"; path = \"$daemon_address\" }"
        endpoint=unix:$daemon_address
        ;;
    *)
        daemon_address=$(free_port)
        address="tcp_nodelay = true; address { type = \"internet\"; bind = \"127.0.0.1:$daemon_address\" }"
        endpoint=tcp:127.0.0.1:$daemon_address
        ;;
    esac
    {
        printf 'alias = "softhsm"\nlog = "info"\nlog_to = "%s"\n' "$client_log"
        [ -z "$recover" ] || printf 'recover = true\nkeep_pin = true\n'
        if [ "$transport" = tls ]; then
            use_ssl=true endpoint=tls:127.0.0.1:$daemon_address
            printf 'ca_file = "%s"\ncert_file = "%s"\nprivkey_file = "%s"\nverify_name = "endpoint"\n' \
                "$tls/ca.pem" "$tls/client.pem" "$tls/client.key"
        fi
        printf 'endpoints = ["%s"]\n' "$endpoint"
    } >"$daemon_directory/client.conf"
    # Servers read it after they have changed their user.
    chmod -R a+rX "$daemon_directory" "$tls"
    [ "$transport" != unix ] || chmod 755 "$work"
    echo "modules = [(\"softhsm\", \"$module\")]" >"$daemon_directory/filter.conf"
    cat >"$daemon_directory/pkcs11proxyd.conf" <<CONF
netplex {
  controller { socket_directory = "$daemon_directory/run"; max_level = "info"; logging { type = "stderr" } };
  service {
    name = "applications";
    conn_limit = 1;
    protocol { name = "rpc_pkcs11"; $address };
    processor {
      type = "rpc_pkcs11"; filter_config = "$daemon_directory/filter.conf"; use_ssl = $use_ssl;
      tls {
        peer_auth = "required";
        x509 {
          key { crt_file = "$tls/server.pem"; key_file = "$tls/server.key" };
          trust { crt_file = "$tls/ca.pem" }
        }
      }
    };
    workload_manager {
      type = "dynamic"; max_jobs_per_thread = 1; min_free_jobs_capacity = 1; max_free_jobs_capacity = 2;
      max_threads = 50
    }
  }
}
CONF
}

# descendants PROCESS: those that it started, and theirs.
descendants() {
    for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do
        echo "$child"
        descendants "$child"
    done
}

# kill_daemon: ends it and its workers with SIGKILL.
kill_daemon() {
    [ "$way" != direct ] || return 0
    # Stopped first, so that it starts no worker meanwhile.
    kill -STOP "$daemon"
    # shellcheck disable=SC2046 # a list
    kill -9 "$daemon" $(descendants "$daemon") 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
    # SoftHSM writes this file anew at each login, and is sometimes ended before it has written it.
    for file in "$work"/token/tokens/*/token.object; do
        cp "$work/pristine/${file#"$work/token/"}" "$file"
    done
}

restart_daemon() {
    kill_daemon
    start_daemon
}

# serve PORT COMMAND...: starts a server and waits until it listens on the port; 0 is for one that listens on none.
# $server is its process.
serve() {
    served=$1
    shift
    # In a process group of its own, because Apache ends its whole group.
    setsid "$@" >>server.log 2>&1 </dev/null &
    server=$!
    servers="$servers $server"
    [ "$served" = 0 ] || { until_true 20 listens_or_ended "$served" && accepts "$served"; } ||
        fail "$1 does not listen: $(tail -n 20 server.log | tr '\n' ' ' | cut -c 1-600)"
}
servers=
listens_or_ended() {
    accepts "$1" || has_ended "$server"
}

# stop SERVER: ends one with SIGTERM, after 5 seconds with SIGKILL.
stop() {
    kill "$1" 2>/dev/null || true
    until_true 5 has_ended "$1" || kill -9 "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
has_ended() {
    case $(cut -d ' ' -f 3 "/proc/$1/stat" 2>/dev/null) in "" | Z) ;; *) return 1 ;; esac
}

# handshake PORT KEY [OPTION...]: a TLS handshake in which the server shows the certificate of a key of the token. Only
# the token can sign for it. What the server sends is on standard output.
handshake() {
    handshake_port=$1 handshake_key=$2
    shift 2
    timeout 30 openssl s_client -connect "127.0.0.1:$handshake_port" -CAfile "$public/ca.pem" -verify_return_error \
        -verify_hostname localhost "$@" </dev/null >"handshake.$handshake_port.${loader:-0}" 2>&1 || {
        grep -vE '^$|^---' "handshake.$handshake_port.${loader:-0}" | grep -E 'rror|alert|^(Verif|New)'
        return 1
    }
    openssl x509 -in "handshake.$handshake_port.${loader:-0}" -noout -pubkey | cmp - "$public/$handshake_key.pub" &&
        cat "handshake.$handshake_port.${loader:-0}"
}

# verify_signature KEY DATA SIGNATURE [OPTION...]: by OpenSSL with SHA-256 and the public key, without the token.
verify_signature() {
    verify_key=$1 verify_data=$2 verify_file=$3
    shift 3
    openssl dgst -sha256 -verify "$public/$verify_key.pub" -signature "$verify_file" "$@" "$verify_data"
}

# ask PORT TEXT: lets a signing service sign, and verifies its answer without the token. The key is $signer, by default ec.
ask() {
    asked=$PWD/ask.${loader:-0}
    printf '%s' "$2" >"$asked.data" &&
        python3 - "$1" "$2" >"$asked.signature" <<'PYTHON' &&
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30) as stream:
    stream.sendall(sys.argv[2].encode() + b"\n")
    answer = stream.makefile().readline().strip()
if answer in ("", "error"):
    sys.exit("the service answers: " + answer)
sys.stdout.buffer.write(bytes.fromhex(answer))
PYTHON
        verify_signature "${signer:-ec}" "$asked.data" "$asked.signature"
}

# load OPERATION [LOADERS [ROUNDS]]: calls the function OPERATION again and again, from so many processes at a time; all
# have to succeed. With recover the daemon is ended and started again meanwhile: the first operation after each time
# has to succeed, and so has any but one in each process.
load() {
    operation=$1 loaders=${2:-4} rounds=${3:-25}
    [ -z "$recover" ] || rounds=1000000
    rm -f load.stop load.lost.* load.failed.*
    before=$(wc -l <"$calls")
    # After each restart there is an operation more.
    extra=${recover:+$restarts}
    extra=${extra:-0}
    pids=
    for loader in $(seq "$loaders"); do
        load_from "$operation" "$rounds" "$loader" &
        pids="$pids $!"
    done
    loader=0
    [ -z "$recover" ] || restart_under_load "$operation"
    for pid in $pids; do
        wait "$pid" || fail "load: $(tail -n 8 load.failed.* 2>/dev/null | tr '\n' ' ' | cut -c 1-600)"
    done
    total=$(cat load.ok.* | wc -l) lost=$(cat load.lost.* 2>/dev/null | wc -l)
    tail -n +$((before + 1)) "$calls" | grep '^C_Sign' >load.signed || true
    signed=$(wc -l <load.signed)
    printf 'ok: load: %s operations, %s failed, %s signatures\n' "$total" "$lost" "$signed"
    [ -z "$recover" ] || printf 'note: %s operations, %s failed in %s restarts, %s signatures\n' \
        "$total" "$lost" "$restarts" "$signed"
    most=1 asked=$((signs * (total + extra + lost))) succeeded=$((signs * (total + extra)))
    # Of each process, one signature may have been lost in each restart.
    [ -z "$asks_again" ] || { most=2 && asked=$((asked + loaders * extra)); }
    often=$(sort load.signed | uniq -c | awk -v most=$most '$1 > most')
    [ -z "$often" ] || fail "load: signed more than $most times: $often"
    { [ "$succeeded" -le "$signed" ] && [ "$signed" -le "$asked" ]; } ||
        fail "load: $signed signatures for $succeeded to $asked that were asked for"
    ! grep '^C_Login 0xa0 ' "$calls" || fail "load: the PIN was wrong"
    [ "$lost" -le $((loaders * restarts)) ] || fail "load: $lost operations failed: $(tail -n 4 load.failed.1)"
    [ "$total" -ge "$loaders" ] || fail "load: only $total operations"
}

# Here, loader is the number of the process.
load_from() {
    loader=$3
    : >"load.ok.$loader"
    while [ "$(wc -l <"load.ok.$loader")" -lt "$2" ] && [ ! -e load.stop ]; do
        if "$1" >"load.output.$loader" 2>&1 </dev/null; then
            echo >>"load.ok.$loader"
        else
            { date +%T.%N; cat "load.output.$loader"; } >>"load.failed.$loader"
            echo >>"load.lost.$loader"
            [ -n "$recover" ] || return 1
        fi
    done
}

restart_under_load() {
    for round in $(seq "$restarts"); do
        sleep 1
        kill_daemon
        sleep 0.2
        start_daemon
        loader=0
        "$1" >output 2>&1 </dev/null || {
            touch load.stop
            fail "after restart $round: $(tr '\n' ' ' <output | cut -c 1-600)"
        }
    done
    sleep 0.5
    touch load.stop
}

# openssl_engine: writes openssl.cnf with libp11's engine, and makes OpenSSL use it.
openssl_engine() {
    cat >openssl.cnf <<CONF
openssl_conf = main
[main]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
MODULE_PATH = $library
PIN = $pin
init = 1
CONF
    export OPENSSL_CONF="$PWD/openssl.cnf"
}

# run FUNCTION: what run.sh calls. Whatever happens, the servers and the daemon end.
prepare() { :; }
run() {
    daemon=
    trap 'status=$?; [ $status -eq 0 ] || tail -n 30 ./*.log || true; for server in $servers; do stop "$server"; done; [ -z "$daemon" ] || stop "$daemon"; exit $status' EXIT
    trap 'exit 1' HUP INT TERM
    if [ "$1" = application ]; then
        export TMPDIR="$work/tmp" HOME="$work/home"
        start_daemon
        if [ "$way" = direct ]; then
            export SOFTHSM2_CONF="$work/token/softhsm2.conf"
        else
            export PKCS11PROXY_CONF="$daemon_directory/client.conf"
        fi
    fi
    "$1"
}
