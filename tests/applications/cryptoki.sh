about="a signing service in Rust with the crate cryptoki"
transport=tls
lives=long
signs=1
signer=rsa

prepare() {
    cargo build --quiet --locked --manifest-path "$applications/cryptoki/Cargo.toml" --target-dir target
}

operation() {
    ask "$port" "what process ${loader:-0} signs at $(date +%s.%N)"
}

application() {
    port=$(free_port)
    serve "$port" "$tools/target/debug/cryptoki-serve" "$library" "$label" "$pin" "$port"
    step "signature" operation
    load operation 4 10
}
