#!/bin/sh
# sanitizers.sh: builds the client library for AddressSanitizer and for ThreadSanitizer, and runs programs that are
# compiled for the same with it. Needs nightly Rust with its own sources:
#
#   rustup toolchain install nightly --component rust-src
set -eu
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}
triple=$(rustc +nightly -vV | sed -n 's/^host: //p')

for sanitizer in address thread; do
    built=$target/sanitizers/$sanitizer
    RUSTFLAGS="-Zsanitizer=$sanitizer" CARGO_TARGET_DIR=$built \
        "$cargo" +nightly build -Zbuild-std --target "$triple" --package client
    SANITIZER=$sanitizer SANITIZED_LIBRARY=$(realpath "$built/$triple/debug/libp11client.so") \
        "$cargo" test --test states sanitized -- --ignored --nocapture
done
