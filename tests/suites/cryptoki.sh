about="the tests of the Rust crate cryptoki, each in a process of its own"
# Its tests initialise the token again with this one.
so_pin=abcdef654321
limit=1200

# The crate as it is published has its tests. cargo vendor unpacks it, after checking it against Cargo.lock.
prepare() {
    cmp -s "$suites/cryptoki/Cargo.lock" Cargo.lock || {
        rm -rf vendor crate
        cargo vendor --quiet --locked --manifest-path "$suites/cryptoki/Cargo.toml" vendor >/dev/null
        cp -R vendor/cryptoki crate
        rm -rf vendor
        printf '\n[workspace]\n' >>crate/Cargo.toml
        cp "$suites/cryptoki/Cargo.lock" Cargo.lock
    }
    cargo test --locked --manifest-path crate/Cargo.toml --target-dir target --tests --no-run --message-format json |
        sed -n 's/.*"profile":{[^}]*"test":true.*"executable":"\([^"]*\)".*/\1/p' | sort >programs
    [ -s programs ]
}

suite() {
    export TEST_PKCS11_MODULE="$library" TEST_PRETEND_LIBRARY="$module" RUST_BACKTRACE=0
    while read -r program; do
        target=$(basename "$program" | sed 's/-[0-9a-f]*$//')
        "$program" --list --format terse 2>/dev/null | sed -n 's/: test$//p' | while read -r test; do
            status=0
            timeout --kill-after=5 120 "$program" --exact "$test" --test-threads 1 --nocapture >output 2>&1 || status=$?
            # The result is what the test failed with, or why it did nothing; other output has handles and times.
            reason=$(sed -n "/panicked at/,/^note:/p; /^Error: /p; s/.*\\(SKIP\\|Skipping\\)/\\1/p" output |
                sed "s/^thread '.*' ([0-9]*) //; /^note:/d" | tr '\t\n' '  ')
            printf '%s\texit %s %s\n' "$target $test" $status "$reason"
            [ $status -eq 0 ] || { echo "== $target $test"; cat output; } >&2
        done
    done <"$tools/programs"
}
