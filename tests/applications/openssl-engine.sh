about="a TLS server of OpenSSL with the engine of libp11"
transport=tcp
lives=long
signs=2
asks_again="where libp11's method for EVP_PKEY fails, OpenSSL tries that for RSA or EC"

operation() {
    handshake "$port" rsa -tls1_3 && handshake "$port" rsa -tls1_2
}
signs() {
    openssl dgst -sha256 -engine pkcs11 -keyform engine -sign "$token;object=$1;type=private" -out signature data &&
        OPENSSL_CONF=/dev/null verify_signature "$1" data signature
}

application() {
    openssl_engine
    echo "what an application signs" >data
    step "RSA signature" signs rsa
    step "ECDSA signature" signs ec
    port=$(free_port)
    serve "$port" openssl s_server -accept "127.0.0.1:$port" -quiet -www -engine pkcs11 -keyform engine \
        -key "$token;object=rsa;type=private" -cert "$public/rsa.pem"
    # The clients need no token.
    export OPENSSL_CONF=/dev/null
    step "handshakes" operation
    load operation 4 20
}
