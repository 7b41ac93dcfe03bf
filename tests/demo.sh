#!/bin/sh
# An application reaches a token through daemon and client library: makes a throw-away SoftHSM token,
# starts the daemon on a free port, generates a key and signs with pkcs11-tool. Leaves nothing behind.
#
#   tests/demo.sh FOLDER      FOLDER holds pkcs11proxyd and libp11client.so
set -eu

built=$(cd "$1" && pwd)
work=$(mktemp -d)
daemon=
cleanup() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

say() { printf '\n== %s\n' "$*"; }

say "A token of SoftHSM, in $work"
mkdir "$work/tokens"
export SOFTHSM2_CONF="$work/softhsm2.conf"
echo "directories.tokendir = $work/tokens" > "$SOFTHSM2_CONF"
softhsm2-util --init-token --free --label demo --so-pin 12345678 --pin 1234

module=$(find /usr/lib /usr/local/lib -name libsofthsm2.so 2>/dev/null | head -n 1)
[ -n "$module" ] || { echo "libsofthsm2.so not found" >&2; exit 1; }
cat > "$work/filter.conf" <<CONF
modules = [("softhsm", "$module")]
CONF

# A port that nobody has: try until the daemon gets one.
port=4444
while :; do
    cat > "$work/pkcs11proxyd.conf" <<CONF
netplex {
  controller {
    socket_directory = "$work";
    max_level = "info";
    logging { type = "stderr" }
  };
  service {
    name = "demo";
    protocol {
      name = "rpc_pkcs11";
      address { type = "internet"; bind = "127.0.0.1:$port" }
    };
    processor { type = "rpc_pkcs11"; filter_config = "filter.conf" };
    workload_manager {
      type = "dynamic";
      min_free_jobs_capacity = 1; max_free_jobs_capacity = 1; max_threads = 10
    }
  }
}
CONF
    "$built/pkcs11proxyd" -fg -conf "$work/pkcs11proxyd.conf" -pid "$work/pid" 2> "$work/log" &
    daemon=$!
    waited=0
    while [ ! -s "$work/pid" ] && kill -0 "$daemon" 2>/dev/null && [ $waited -lt 100 ]; do
        sleep 0.05; waited=$((waited + 1))
    done
    [ -s "$work/pid" ] && break
    wait "$daemon" || true
    daemon=
    grep -q 'cannot listen' "$work/log" || { cat "$work/log" >&2; exit 1; }
    port=$((port + 1))
done
say "The daemon, process $daemon, listens at 127.0.0.1:$port"

export PKCS11PROXY_SOCKET_PATH="127.0.0.1:$port"
export PKCS11PROXY_LIBNAME=softhsm
tool() { pkcs11-tool --module "$built/libp11client.so" "$@"; }

say "pkcs11-tool through libp11client.so: slots"
tool --list-slots
say "An RSA key pair is generated on the token"
tool --login --pin 1234 --keypairgen --key-type rsa:2048 --label demo --id 01
say "It signs"
echo "what an application signs" > "$work/data"
tool --login --pin 1234 --sign --mechanism SHA256-RSA-PKCS --id 01 \
     --input-file "$work/data" --output-file "$work/signature"
say "And its signature verifies"
tool --verify --mechanism SHA256-RSA-PKCS --id 01 \
     --input-file "$work/data" --signature-file "$work/signature"

say "The daemon stops"
kill "$daemon"
wait "$daemon" && status=0 || status=$?
daemon=
[ "$status" -eq 0 ] || { echo "the daemon ended with status $status" >&2; cat "$work/log" >&2; exit 1; }
say "Done: each of these calls crossed 127.0.0.1:$port. Nothing is left behind."
