about="a TLS server of OpenSSL with pkcs11-provider"
transport=tls
lives=long
signs=2

prepare() {
    [ -n "$(find /usr/lib -path '*ossl-modules/pkcs11.so')" ] ||
        { echo "pkcs11.so, the provider, is missing; make applications-packages installs it"; return 1; }
}

operation() {
    handshake "$port" ec -tls1_3 && handshake "$port" ec -tls1_2
}
signs() {
    openssl dgst -sha256 -sign "$token;object=$1;type=private" -out signature data &&
        OPENSSL_CONF=/dev/null verify_signature "$1" data signature
}

application() {
    cat >openssl.cnf <<CONF
openssl_conf = main
[main]
providers = providers
[providers]
default = openssl
pkcs11 = pkcs11
[openssl]
activate = 1
[pkcs11]
module = $(find /usr/lib -path '*ossl-modules/pkcs11.so' | head -n 1)
pkcs11-module-path = $library
pkcs11-module-token-pin = $pin
pkcs11-module-quirks = no-deinit
activate = 1
CONF
    export OPENSSL_CONF="$PWD/openssl.cnf"
    echo "what an application signs" >data
    step "RSA signature" signs rsa
    step "ECDSA signature" signs ec
    port=$(free_port)
    serve "$port" openssl s_server -accept "127.0.0.1:$port" -quiet -www \
        -key "$token;object=ec;type=private" -cert "$public/ec.pem"
    export OPENSSL_CONF=/dev/null
    step "handshakes" operation
    load operation 4 20
}
