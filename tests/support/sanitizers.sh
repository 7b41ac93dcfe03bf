#!/bin/sh
# sanitizers.sh: builds the client library for AddressSanitizer and for ThreadSanitizer, and runs C programs with it
# that Rust's own runtime of the sanitizer is linked into. OpenSSL is not built for them. Needs nightly Rust with its
# own sources:
#
#   rustup toolchain install nightly --component rust-src
set -eu
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}
triple=$(rustc +nightly -vV | sed -n 's/^host: //p')
runtimes=$(rustc +nightly --print target-libdir)

for sanitizer in address thread; do
    runtime=$runtimes/librustc-nightly_rt.$(printf %.1s "$sanitizer")san.a
    built=$target/sanitizers/$sanitizer
    RUSTFLAGS="-Zsanitizer=$sanitizer" CARGO_TARGET_DIR=$built \
        "$cargo" +nightly build -Zbuild-std --target "$triple" --package client
    SANITIZER_RUNTIME=$runtime SANITIZED_LIBRARY=$(realpath "$built/$triple/debug/libp11client.so") \
        "$cargo" test --test states sanitized -- --ignored --nocapture
done
