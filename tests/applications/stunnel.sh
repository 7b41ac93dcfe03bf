about="stunnel, by the engine of libp11"
transport=unix
lives=long
signs=2
asks_again="where libp11's method for EVP_PKEY fails, OpenSSL tries that for RSA or EC"

operation() {
    handshake "$port" ec -tls1_3 && handshake "$port" ec -tls1_2
}
through() {
    curl --silent --show-error --cacert "$public/ca.pem" "https://localhost:$port/page" >got && contains got "behind stunnel"
}

application() {
    port=$(free_port)
    mkdir web
    echo "behind stunnel" >web/page
    serve 0 python3 -u -m http.server --bind 127.0.0.1 --directory web 0
    until_true 10 contains server.log "Serving HTTP"
    behind=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' server.log)
    cat >stunnel.conf <<CONF
foreground = yes
pid =
debug = info
engine = pkcs11
engineCtrl = MODULE_PATH:$library
engineCtrl = PIN:$pin
engineCtrl = INIT
[https]
accept = 127.0.0.1:$port
connect = 127.0.0.1:$behind
cert = $public/ec.pem
engineId = pkcs11
key = $token;object=ec;type=private
sessionCacheSize = 1
CONF
    serve "$port" stunnel "$PWD/stunnel.conf"
    step "handshakes" operation
    step "a page" through
    load operation 4 15
}
