#!/bin/sh
# build-kryoptic.sh: builds kryoptic, a PKCS#11 3.2 token in software, from crates.io, and prints the path of the module.
# tests/suites/kryoptic/Cargo.lock pins its version and the checksums of everything it consists of. What is built stays
# below the target directory; run again this builds nothing. With OpenSSL 3.5 it has post-quantum mechanisms, with 3.2
# EdDSA. Needs libclang-dev, libsqlite3-dev and libssl-dev; takes about 80 seconds of processor time.
set -eu

project=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$project/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)/kryoptic
module=$target/libkryoptic_pkcs11.so

openssl=$(pkg-config --modversion libcrypto)
newest=$(printf '%s\n' 3.0 3.2 3.5 "$openssl" | sort -V | grep -B1 -Fx "$openssl" | head -n 1)
case $newest in
3.5 | 3.2 | 3.0) features=openssl_$(echo "$newest" | tr . _) ;;
*) echo "build-kryoptic: OpenSSL $openssl is too old" >&2; exit 1 ;;
esac

# The names in deps carry a hash that changes with the features; cargo says which file it made.
file=$(${CARGO:-cargo} build --quiet --release --locked --features "$features" --message-format json \
    --manifest-path "$project/tests/suites/kryoptic/Cargo.toml" --target-dir "$target" |
    sed -n 's/.*"filenames":\["\([^"]*libkryoptic_pkcs11[^"]*\.so\)".*/\1/p')
[ -f "$file" ] || { echo "build-kryoptic: cargo made no module" >&2; exit 1; }
cmp -s "$file" "$module" || { cp "$file" "$module.draft" && mv "$module.draft" "$module"; }
echo "$module"
