about="a TLS server with GnuTLS"
transport=unix
lives=long
signs=2

operation() {
    handshake "$port" ec -tls1_3 && handshake "$port" ec -tls1_2
}

application() {
    port=$(free_port)
    serve "$port" env GNUTLS_PIN="$pin" gnutls-serv --provider "$library" --port "$port" --noticket --echo \
        --x509keyfile "$token;object=ec;type=private" --x509certfile "$public/ec.pem"
    step "handshakes" operation
    load operation 3 15
}
