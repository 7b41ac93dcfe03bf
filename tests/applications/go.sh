about="a TLS server in Go with crypto11"
transport=tcp
lives=long
signs=2

prepare() {
    # Debian installs the libraries' sources there, for the old way of building.
    export GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS=-p=2 GOCACHE="$PWD/cache"
    go build -o serve "$applications/go/serve.go"
}

operation() {
    handshake "$port" "$1" -tls1_3 && handshake "$port" "$1" -tls1_2
}
with_rsa() {
    operation rsa
}
with_ec() {
    operation ec
}

application() {
    for key in rsa ec; do
        port=$(free_port)
        serve "$port" "$tools/serve" "$library" "$label" "$pin" "$key" "$public/$key.pem" "127.0.0.1:$port"
        step "handshakes with $key" operation $key
        load with_$key 4 15
    done
}
