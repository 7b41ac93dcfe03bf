#!/bin/sh
# run.sh BUILT [SUITE...]: runs the test suites of other projects, and programs that use their libraries, twice: on a
# PKCS#11 module directly, and through the daemon and the client library in the directory BUILT. Compares the results
# line by line, and fails if one differs that differences.txt does not explain, or if that file lists one that did not
# occur. Without SUITE all of them run. MODULES names the modules, by default "softhsm kryoptic nss".
# It takes about half an hour on two free cores.
#
# A suite is a file SUITE.sh beside this one. It sets or defines:
#   about       one line: what is run
#   so_pin, pin the token's PINs, if the suite insists on its own
#   not_on      modules for which it makes no sense, each as MODULE: REASON, separated by semicolons
#   limit       seconds after which a run is ended, by default 600
#   prepare     builds the suite in $tools, a directory that is kept; its output is shown only if it fails
#   suite       runs it in an empty directory with the library $library and prints a line for each test:
#               name, tab, result. A result must not contain what changes from run to run.
# What they use is in helpers.sh. How a module is set up is in modules.sh.
#
# With TWICE set the second run is on the module too: what then differs is no result, and the suite has to hide it.
#
# Everything that is built or downloaded stays below CARGO_TARGET_DIR (by default target), in suites. Results stay
# there too, in results: SUITE.MODULE.direct, SUITE.MODULE.through, each with a .log of what was printed besides.
set -eu

suites=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$suites/../.." && pwd)
[ $# -gt 0 ] || { echo "usage: run.sh BUILT [SUITE...]" >&2; exit 2; }
built=$(cd "$1" && pwd)
shift
modules=${MODULES:-softhsm kryoptic nss}
if [ $# -eq 0 ]; then
    set -- pkcs11-tool java cryptoki crypto11 python-pkcs11 pykcs11 provider engine
fi
mkdir -p "${CARGO_TARGET_DIR:-$project/target}/suites/results"
kept=$(cd "${CARGO_TARGET_DIR:-$project/target}/suites" && pwd)
results=$kept/results

# A short path: that of a Unix socket has at most 107 bytes.
work=$(mktemp -d)
daemon=
stop_daemon() {
    [ -n "$daemon" ] || return 0
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
    daemon=
}
trap 'stop_daemon; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

for name in $(env | sed -n 's/^\(PKCS11PROXY_[^=]*\|SOFTHSM2_CONF\|KRYOPTIC_CONF\)=.*/\1/p'); do
    unset "$name"
done
. "$suites/modules.sh"

# The daemon reaches the module only through its own environment, the application only through the socket.
start_daemon() {
    mkdir "$work/daemon"
    echo "modules = [(\"$module\", \"${daemon_library:-$module_library}\")]" >"$work/daemon/filter.conf"
    cat >"$work/daemon/pkcs11proxyd.conf" <<CONF
netplex {
  controller { socket_directory = "$work/daemon"; max_level = "info"; logging { type = "stderr" } };
  service {
    name = "suites";
    protocol { name = "rpc_pkcs11"; address { type = "local"; path = "$work/daemon/socket" } };
    processor { type = "rpc_pkcs11"; filter_config = "filter.conf"; $daemon_options
      sandbox { preset = "strict"; write = "$work/token" } };
    workload_manager {
      type = "dynamic"; min_free_jobs_capacity = 1; max_free_jobs_capacity = 1; max_threads = 50
    }
  }
}
CONF
    # shellcheck disable=SC2086 # a list of NAME=VALUE without blanks
    env $module_environment "$built/pkcs11proxyd" -fg -conf "$work/daemon/pkcs11proxyd.conf" \
        -pid "$work/daemon/pid" 2>"$1" &
    daemon=$!
    waited=0
    while [ ! -s "$work/daemon/pid" ] && kill -0 "$daemon" 2>/dev/null && [ $waited -lt 200 ]; do
        sleep 0.05
        waited=$((waited + 1))
    done
    [ -s "$work/daemon/pid" ] || { cat "$1" >&2; return 1; }
}

# in_suite FUNCTION DIRECTORY NAME=VALUE...: calls a suite's function there, in a shell of its own that the time limit
# can end.
in_suite() {
    function=$1 directory=$2
    shift 2
    (cd "$directory" && exec env "$@" suites="$suites" tools="$tools" module="$module" library="${library-}" \
        label="$label" slot_index="$slot_index" pin="$pin" so_pin="$so_pin" \
        timeout --kill-after=5 "$limit" sh -ec '. "$suites/helpers.sh"; . "$suites/$1.sh"; $2' sh "$suite" "$function")
}

# run_way direct|through: one run, on a token of its own that is the same in both. The library has the module's file
# name and the same path, because suites look at the name.
run_way() {
    output=$results/$suite.$module.$1
    rm -rf "$work/token" "$work/daemon" "$work/library" "$work/here"
    cp -a "$work/pristine" "$work/token"
    mkdir "$work/library" "$work/here"
    library=$work/library/$(basename "$module_library")
    case $1${TWICE:+ twice} in
    direct* | *twice)
        ln -s "$module_library" "$library"
        environment=$module_environment
        ;;
    through)
        ln -s "$built/libp11client.so" "$library"
        start_daemon "$output.daemon.log" || { echo "run.sh: the daemon does not start" >&2; exit 1; }
        environment="PKCS11PROXY_SOCKET_PATH=$work/daemon/socket PKCS11PROXY_LIBNAME=$module"
        environment="$environment PKCS11PROXY_RPC_TIMEOUT=120"
        ;;
    esac
    # shellcheck disable=SC2086 # a list
    in_suite suite "$work/here" $environment >"$work/lines" 2>"$output.log" </dev/null ||
        printf 'the suite itself\tended with status %s\n' $? >>"$work/lines"
    stop_daemon
    # Random values, addresses, and OpenSSL's thread numbers are no result.
    sed -E "s|$work|WORK|g; s/0x[0-9a-f]{9,16}\>/ADDRESS/g; s/[0-9a-fA-F]{32,}/BYTES/g; s/[0-9A-F]{16}:error/error/g
        s/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/UUID/g" "$work/lines" | LC_ALL=C sort >"$output"
}

# compare SUITE MODULE: prints what differs and writes a line for each into $work/differences.
compare() {
    awk -F '\t' -v suite="$1" -v module="$2" -v list="$work/differences" '
        { name = $1; sub(/^[^\t]*\t?/, "") }
        # From where the two differ on; results/ has all of it.
        function part(text, other, i) {
            for (i = 1; substr(text, i, 1) == substr(other, i, 1); i++);
            return (i > 60 ? "..." substr(text, i - 20, 300) : substr(text, 1, 360))
        }
        function shown(list, name) { return name in list ? list[name] : "not run" }
        FILENAME ~ /direct$/ { direct[name] = direct[name] $0 "; "; next }
        { through[name] = through[name] $0 "; " }
        END {
            for (name in direct) names[name]
            for (name in through) names[name]
            for (name in names) {
                tests++
                if (direct[name] ~ /^(ok|exit 0|offered)/) succeed++
                if (name in direct && name in through && direct[name] == through[name]) { same++; continue }
                different = different sprintf("  %s\n    direct:  %s\n    through: %s\n", name,
                    part(shown(direct, name), shown(through, name)), part(shown(through, name), shown(direct, name)))
                print suite "\t" module "\t" name >>list
            }
            printf "%s on %s: %d tests, of which %d succeed on the module; %d same, %d different\n%s", suite, module,
                tests, succeed, same, tests - same, different
            exit succeed == 0
        }' "$results/$1.$2.direct" "$results/$1.$2.through"
}

: >"$work/differences"
: >"$work/ran"
failed=
for module in $modules; do
    set_module || { echo "== $module: not run: $reason"; failed="$failed $module"; continue; }
    for suite in "$@"; do
        [ -f "$suites/$suite.sh" ] || { echo "run.sh: no suite $suite" >&2; exit 2; }
        mkdir -p "$kept/$suite"
        tools=$kept/$suite
        not_on=
        label=suites slot_index=0 pin=1234 so_pin=12345678 limit=600
        . "$suites/$suite.sh"
        case "; $not_on" in
        *"; $module: "*) echo "== $suite on $module: not run: $not_on"; continue ;;
        esac
        if ! in_suite prepare "$tools" >"$results/$suite.prepare.log" 2>&1 </dev/null; then
            tail -n 20 "$results/$suite.prepare.log" >&2
            echo "== $suite: cannot be built, see $results/$suite.prepare.log"
            failed="$failed $suite"
            continue
        fi
        if ! make_token >"$work/log" 2>&1; then
            cat "$work/log" >&2
            echo "== $module: no token for $suite"
            failed="$failed $module"
            continue
        fi
        for way in direct through; do
            run_way $way
        done
        printf '%s\t%s\n' "$suite" "$module" >>"$work/ran"
        printf '== '
        compare "$suite" "$module" || failed="$failed $suite"
    done
done

# Nothing is explained between two runs on the module.
explained=${TWICE:+/dev/null}
explained=${explained:-$suites/differences.txt}
# differences.txt: suite, module, test and reason, separated by tabs.
awk -F '\t' '
    file == 1 { ran[$1 "\t" $2]; next }
    /^#/ || /^$/ { next }
    file == 2 { if (($1 "\t" $2) in ran) explained[$1 "\t" $2 "\t" $3]; next }
    { key = $1 "\t" $2 "\t" $3 }
    key in explained { delete explained[key]; n++; next }
    { unexplained++ }
    END {
        for (key in explained) { print "explained in differences.txt, but it did not occur: " key; stale++ }
        printf "differences: %d explained, %d unexplained, %d explained that did not occur\n", n, unexplained, stale
        exit unexplained + stale > 0
    }' file=1 "$work/ran" file=2 "$explained" file=3 "$work/differences" || failed="$failed differences"
[ -z "$failed" ] || { echo "suites: failed:$failed"; exit 1; }
echo "suites: no unexplained difference"
