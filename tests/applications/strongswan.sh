about="strongSwan's pki with its plugin pkcs11: public keys, a certificate, a request"
transport=tls
not_on="direct: SoftHSM crashes when pki calls C_Finalize at its exit, after OpenSSL has been unloaded"

# It asks for the PIN on standard input, if there is no terminal.
pki_with() {
    echo "$pin" | STRONGSWAN_CONF="$PWD/strongswan.conf" setsid --wait pki "$@"
}
public_key() {
    pki_with --pub --type "$1" --keyid "$2" --outform pem >"$1.pub" && cmp "$1.pub" "$public/$3.pub"
}
certificate() {
    pki_with --self --ca --type "$1" --keyid "$2" --dn "CN=by pki" --digest sha256 --outform pem >"$1.crt" &&
        openssl verify -CAfile "$1.crt" -check_ss_sig "$1.crt" &&
        openssl x509 -in "$1.crt" -noout -pubkey | cmp - "$public/$3.pub"
}
request() {
    pki_with --req --type "$1" --keyid "$2" --dn "CN=by pki" --digest sha256 --outform pem >"$1.csr" &&
        openssl req -in "$1.csr" -verify -noout
}

application() {
    cat >strongswan.conf <<CONF
# The plugin pkcs11 comes first: the plugin openssl would look for the key with an engine of its own.
pki {
    load = random pem pkcs1 pkcs8 x509 pubkey pkcs11 openssl
    syslog { default = -1 }
    stderr { default = 1 }
}
libstrongswan {
    plugins { pkcs11 { modules { token { path = $library } } } }
}
CONF
    for key in "rsa 01 rsa" "ecdsa 02 ec"; do
        # shellcheck disable=SC2086 # a list
        step "pki --pub, $key" public_key $key
        # shellcheck disable=SC2086 # a list
        step "pki --self, $key" certificate $key
        # shellcheck disable=SC2086 # a list
        step "pki --req, $key" request $key
    done
}
