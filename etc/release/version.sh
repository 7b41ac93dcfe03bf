#!/bin/sh
# version.sh: prints the version in Cargo.toml.
set -eu
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"$/\1/p' "$(dirname "$0")/../../Cargo.toml")
[ -n "$version" ] || { echo "version: none in Cargo.toml" >&2; exit 1; }
echo "$version"
