#!/bin/sh
# opencryptoki.sh DIRECTORY: uses openCryptoki's software token through the daemon in DIRECTORY, with the sandbox's preset
# "default". openCryptoki is a module that shares memory and a socket with a server of its own (pkcsslotd), as modules of
# network HSMs do. Makes a token, generates a key pair, signs, and verifies the signature with OpenSSL.
# Decrypts what OpenSSL has encrypted with OAEP and a label, which openCryptoki reads after C_DecryptInit has returned.
#
# Needs root, and Debian's opencryptoki and python3-pykcs11, which it installs: everything happens in namespaces, with openCryptoki's own
# directories, so that a token of the machine is not touched. Leaves nothing behind.
set -eu

fail() {
    echo "opencryptoki: $*" >&2
    exit 1
}

[ $# -eq 1 ] || fail "usage: opencryptoki.sh DIRECTORY"
built=$(cd "$1" && pwd)
[ "$(id -u)" -eq 0 ] || fail "run this as root"

if [ -z "${OPENCRYPTOKI_WORK-}" ]; then
    "$(dirname "$0")/support/install-packages.sh" opencryptoki
    OPENCRYPTOKI_WORK=$(mktemp -d)
    export OPENCRYPTOKI_WORK
    trap 'rm -rf --one-file-system "$OPENCRYPTOKI_WORK"' EXIT
    trap 'exit 1' HUP INT TERM
    # Daemons and pkcsslotd end with the process namespace.
    unshare --mount --ipc --net --pid --fork --mount-proc "$0" "$built"
    exit
fi

work=$OPENCRYPTOKI_WORK
ip link set lo up
mkdir "$work/lib" "$work/lock" "$work/etc" "$work/run"
chgrp pkcs11 "$work/lib" "$work/lock"
chmod 770 "$work/lib" "$work/lock"
mkdir -p "$work/lib/swtok/TOK_OBJ" "$work/lock/swtok"
chgrp -R pkcs11 "$work/lib" "$work/lock"
chmod -R g+rwx "$work/lib" "$work/lock"
mount --bind "$work/run" /run
mkdir -p /run/lock/opencryptoki /run/opencryptoki
mount --bind "$work/lib" /var/lib/opencryptoki
mount --bind "$work/lock" /run/lock/opencryptoki
printf 'version opencryptoki-3.1\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n' >"$work/etc/opencryptoki.conf"
mount --bind "$work/etc" /etc/opencryptoki

pkcsslotd || fail "pkcsslotd does not start"
module=$(find /usr/lib -name 'libopencryptoki.so*' | sort | head -n 1)
[ -n "$module" ] || fail "no libopencryptoki.so"
export PKCSLIB="$module"
# What opencryptoki gives a new token: 87654321 for the security officer.
printf '87654321\nproxied\n' | pkcsconf -I -c 3 >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "no token"; }
pkcsconf -P -c 3 -S 87654321 -n 12345678 >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "no PIN of the security officer"; }
pkcsconf -u -c 3 -S 12345678 -n 123456 >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "no PIN of the user"; }

printf 'modules = [("ock", "%s")]\n' "$module" >"$work/filter.conf"
cat >"$work/pkcs11proxyd.conf" <<EOF
netplex {
  controller { max_level = "info"; logging { type = "stderr" } };
  service {
    name = "opencryptoki";
    protocol { name = "rpc_pkcs11"; address { type = "local"; path = "$work/socket" } };
    processor { type = "rpc_pkcs11"; filter_config = "filter.conf"; sandbox { preset = "default" } };
    workload_manager { type = "dynamic"; min_free_jobs_capacity = 1; max_free_jobs_capacity = 1; max_threads = 10 }
  }
}
EOF
"$built/pkcs11proxyd" -conf "$work/pkcs11proxyd.conf" 2>"$work/daemon.log" || { cat "$work/daemon.log" >&2; fail "the daemon does not start"; }
grep -q 'sandbox: preset default' "$work/daemon.log" || fail "the daemon does not say that it has the preset default"

export PKCS11PROXY_SOCKET_PATH="$work/socket" PKCS11PROXY_LIBNAME=ock
tool="pkcs11-tool --module $built/libp11client.so"
$tool --list-slots | grep -q proxied || fail "the token is not there"
$tool --login --pin 123456 --keypairgen --key-type rsa:2048 --id 01 --label proxied >"$work/log" 2>&1 ||
    { cat "$work/log" "$work/daemon.log" >&2; fail "no key pair"; }
echo data >"$work/data"
# The token does not hash by itself: a DigestInfo (RFC 8017, section 9.2, note 1) with the SHA-256 of the data.
{
    printf '\060\061\060\015\006\011\140\206\110\001\145\003\004\002\001\005\000\004\040'
    openssl dgst -sha256 -binary "$work/data"
} >"$work/hash"
$tool --login --pin 123456 --sign --mechanism RSA-PKCS --id 01 -i "$work/hash" -o "$work/signature" 2>"$work/log" ||
    { cat "$work/log" "$work/daemon.log" >&2; fail "no signature"; }
$tool --read-object --type pubkey --id 01 -o "$work/public.der" 2>"$work/log" || { cat "$work/log" >&2; fail "no public key"; }
openssl dgst -sha256 -verify "$work/public.der" -keyform DER -signature "$work/signature" "$work/data" ||
    fail "OpenSSL does not accept the signature"

label=$(printf 'label %.0s' $(seq 100))
openssl pkeyutl -encrypt -pubin -inkey "$work/public.der" -keyform DER -in "$work/data" -out "$work/sealed" \
    -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256 \
    -pkeyopt "rsa_oaep_label:$(printf %s "$label" | od -An -v -tx1 | tr -d ' \n')"
cat >"$work/decrypt.py" <<'END'
import sys

import PyKCS11

library, sealed, label, data = sys.argv[1:]
token = PyKCS11.PyKCS11Lib()
token.load(library)
session = token.openSession(token.getSlotList(tokenPresent=True)[0])
session.login("123456")


def key(kind):
    return session.findObjects([(PyKCS11.CKA_CLASS, kind), (PyKCS11.CKA_ID, (1,))])[0]


oaep = PyKCS11.RSAOAEPMechanism(PyKCS11.CKM_SHA256, PyKCS11.CKG_MGF1_SHA256, label.encode())
data = open(data, "rb").read()
private, public = key(PyKCS11.CKO_PRIVATE_KEY), key(PyKCS11.CKO_PUBLIC_KEY)
for ciphertext in [open(sealed, "rb").read(), bytes(session.encrypt(public, data, oaep))]:
    if bytes(session.decrypt(private, ciphertext, oaep)) != data:
        sys.exit("another plaintext")
END
/usr/bin/python3 "$work/decrypt.py" "$built/libp11client.so" "$work/sealed" "$label" "$work/data" 2>"$work/log" ||
    { cat "$work/log" "$work/daemon.log" >&2; fail "OAEP with a label does not work"; }
echo "opencryptoki: a key, a signature and OAEP with a label through the daemon, with the preset default"
