about="a Go program with the library crypto11, and the library's own tests"

prepare() {
    # Debian installs the libraries' sources there, for the old way of building.
    export GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS=-p=2 GOCACHE="$PWD/cache"
    go build -o program "$suites/crypto11/main.go"
    go test -c -o own github.com/ThalesIgnite/crypto11
}

suite() {
    "$tools/program" "$library" "$label" "$pin"
    printf '{"Path": "%s", "TokenLabel": "%s", "Pin": "%s"}\n' "$library" "$label" "$pin" >config
    # Each in a process of its own, for the first panic ends it. A result has no line numbers and no values.
    "$tools/own" -test.list . | while read -r test; do
        status=0
        timeout --kill-after=5 120 "$tools/own" -test.v -test.run "^$test\$" >output 2>&1 || status=$?
        reason=$(grep -oE '^panic: .*|--- [A-Z]+: [^ ]*|pkcs11: 0x.*' output | sed 's/ *\[recovered\]//' |
            tr '\t\n' '  ')
        printf 'crypto11 %s\texit %s %s\n' "$test" $status "$reason"
        [ $status -eq 0 ] || { echo "== $test"; cat output; } >&2
    done
}
