#!/bin/sh
# Makes certificates for a trial: make-certs.sh DIRECTORY [more]
#
# ca.pem, server.pem, server.key, client.pem and client.key are what a daemon and a client need: an
# authority, and a certificate for each side, good for ten years. Keys are not encrypted, and the
# authority's is left in ca.key: not for use in earnest. SERVER is a host name or an address by which clients reach
# the server, beside localhost.
#
# With "more", what the tests need besides: ECDSA certificates (server-ec, client-ec), one of RSA
# 1024 (server-weak), chains with an intermediate authority (server-chain, client-chain), an encrypted
# key (server-encrypted.key, password "secret"), some that have expired (server-expired, client-expired), one that is
# revoked (client-revoked, crl.pem; crl-reasons.pem for one reason only, crl-delta.pem without it), another client's (client-other),
# everything of another authority (other-ca, other-server for names with wildcards, other-client), DH
# parameters (dh.pem, dh-short.pem of 1024 bits) and pre-shared keys (psk.keys for the daemon, psk.client).
set -eu
export LC_ALL=C

[ $# -ge 1 ] || { echo "usage: make-certs.sh DIRECTORY [more]" >&2; exit 2; }
alternative=
case ${SERVER-} in
"") ;;
*[!A-Za-z0-9.:-]*)
    echo "make-certs: SERVER=$SERVER is neither a host name nor an address" >&2
    exit 2
    ;;
*:*) alternative=", IP:$SERVER" ;;
*[!0-9.]*) alternative=", DNS:$SERVER" ;;
*) alternative=", IP:$SERVER" ;;
esac
mkdir -p "$1"
cd "$1"
umask 077
exec 2>make-certs.log

cat >make-certs.cnf <<EOF
[req]
distinguished_name = name
prompt = no
string_mask = utf8only
[name]
O = Trial
[ca]
default_ca = authority
[authority]
database = index.txt
serial = serial
crlnumber = crlnumber
new_certs_dir = .
default_md = sha256
default_days = 3650
default_crl_days = 3650
policy = anything
unique_subject = no
copy_extensions = none
[anything]
O = supplied
CN = supplied
[one_reason]
issuingDistributionPoint = critical, @reason
[reason]
onlysomereasons = keyCompromise
[delta]
2.5.29.27 = critical, ASN1:INTEGER:1
[is_ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[is_server]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1$alternative
[is_other_server]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:*.wild.example, DNS:part*.example
[is_client]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
EOF

key() { # NAME KIND
    case $2 in
        rsa) openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1.key" ;;
        weak) openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out "$1.key" ;;
        ec) openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" ;;
    esac
}

authority() { # NAME
    key "$1" ec
    openssl req -config make-certs.cnf -x509 -new -key "$1.key" -subj "/O=Trial/CN=$1" \
        -extensions is_ca -days 3650 -out "$1.pem"
}

# The leaf comes first, then what is between it and the authority.
certificate() { # NAME KIND AUTHORITY EXTENSIONS [OPTION...]
    name=$1 kind=$2 issuer=$3 extensions=$4
    shift 4
    key "$name" "$kind"
    openssl req -config make-certs.cnf -new -key "$name.key" -subj "/O=Trial/CN=$name" -out "$name.csr"
    openssl ca -config make-certs.cnf -batch -notext -in "$name.csr" -out "$name.pem" \
        -cert "$issuer.pem" -keyfile "$issuer.key" -extensions "$extensions" "$@" >&2
    rm "$name.csr"
}

: >index.txt
echo 1000 >serial
echo 1000 >crlnumber
authority ca
certificate server rsa ca is_server
certificate client rsa ca is_client

if [ "${2-}" = more ]; then
    certificate server-ec ec ca is_server
    certificate server-weak weak ca is_server
    certificate server-expired ec ca is_server -startdate 20200101000000Z -enddate 20210101000000Z
    certificate client-ec ec ca is_client
    certificate client-other ec ca is_client
    certificate client-expired ec ca is_client -startdate 20200101000000Z -enddate 20210101000000Z
    certificate client-revoked ec ca is_client
    revocation="openssl ca -config make-certs.cnf -cert ca.pem -keyfile ca.key"
    $revocation -gencrl -crlexts delta -out crl-delta.pem
    $revocation -revoke client-revoked.pem
    $revocation -gencrl -out crl.pem
    $revocation -gencrl -crlexts one_reason -out crl-reasons.pem
    certificate between rsa ca is_ca
    for side in server client; do
        certificate "$side-chain" ec between "is_$side"
        cat between.pem >>"$side-chain.pem"
    done
    authority other-ca
    certificate other-server ec other-ca is_other_server
    certificate other-client ec other-ca is_client
    openssl pkcs8 -topk8 -in server.key -passout pass:secret -out server-encrypted.key
    echo secret >server-encrypted.password
    openssl genpkey -genparam -algorithm DH -pkeyopt group:ffdhe2048 -out dh.x
    openssl dhparam -in dh.x -out dh.pem 2>&1 || cp dh.x dh.pem
    rm -f dh.x
    openssl dhparam -dsaparam -out dh-short.pem 1024
    secret=$(openssl rand -hex 32)
    echo "trial:$secret" >psk.client
    { echo "# identity:key"; echo "other:$(openssl rand -hex 32)"; cat psk.client; } >psk.keys
fi
rm -f [0-9A-F]*.pem index.txt* serial* crlnumber* make-certs.cnf make-certs.log
