about="a signing service in Python with python-pkcs11"
transport=unix
lives=long
signs=1

prepare() {
    [ ! -e stamp ] || return 0
    rm -rf venv
    python3 -m venv venv
    venv/bin/pip install --quiet python-pkcs11==0.9.0
    touch stamp
}

operation() {
    ask "$port" "what process ${loader:-0} signs at $(date +%s.%N)"
}

application() {
    port=$(free_port)
    serve "$port" "$tools/venv/bin/python3" "$applications/python/serve.py" "$library" "$label" "$pin" "$port"
    step "signature" operation
    load operation 4 10
}
