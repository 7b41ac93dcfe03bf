#!/bin/sh
# kubernetes.sh DIRECTORY: checks the manifests in etc/kubernetes: against the schemas of Kubernetes, and what else
# tests/support/kubernetes.py says. Then the daemon that was built in DIRECTORY checks the configuration in each
# ConfigMap (-check), with SoftHSM for the module and certificates of a trial for the Secret.
#
# The schemas come with the Python package kubernetes-validate, which is installed below the target directory the
# first time. No cluster is needed.
set -eu

# Has the schemas up to Kubernetes 1.37.
validator_version=1.37.0

fail() {
    echo "kubernetes: $*" >&2
    exit 1
}

daemon=${1-}/pkcs11proxyd
[ -x "$daemon" ] || fail "no ${1-DIRECTORY}/pkcs11proxyd; run make kubernetes-test"
project=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$project/target}
tools=$target/tools/kubernetes-validate-$validator_version
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

if [ ! -x "$tools/bin/kubernetes-validate" ]; then
    python3 -c 'import ensurepip' 2>/dev/null || fail "Python cannot make environments; install python3-venv"
    mkdir -p "$target/tools"
    rm -rf "$tools"
    python3 -m venv "$tools" && "$tools/bin/pip" --quiet --disable-pip-version-check install \
        "kubernetes-validate==$validator_version" || fail "cannot install kubernetes-validate $validator_version"
fi
"$tools/bin/python3" "$project/tests/support/kubernetes.py" "$work/maps" "$project"/etc/kubernetes/*.yaml ||
    fail "see above"

module=/usr/lib/softhsm/libsofthsm2.so
[ -e "$module" ] || fail "no $module; run make packages"
"$project/tests/support/make-certs.sh" "$work/certs"
for map in "$work"/maps/*; do
    name=${map##*/}
    # As in the pods, but for the module.
    sed -i "s|/opt/pkcs11/libhsm.so|$module|" "$map/filter.conf"
    mkdir "$map/tls"
    cp "$work/certs/server.pem" "$map/tls/tls.crt"
    cp "$work/certs/server.key" "$map/tls/tls.key"
    cp "$work/certs/ca.pem" "$map/tls/ca.crt"
    "$daemon" -check -conf "$map/pkcs11proxyd.conf" >"$work/told" 2>&1 || { cat "$work/told" >&2; fail "$name: -check"; }
    grep -q "'hsm' -> '$module'" "$work/told" || { cat "$work/told" >&2; fail "$name: -check does not show the module"; }
    ! grep -i 'warn' "$work/told" || fail "$name: warnings"
    sed -i 's|max_threads|max_thread|' "$map/pkcs11proxyd.conf"
    ! "$daemon" -check -conf "$map/pkcs11proxyd.conf" >/dev/null 2>&1 || fail "$name: -check misses a wrong option"
    echo "kubernetes: $name: the daemon takes the configuration"
done
echo "kubernetes: passed"
