#!/bin/sh
# sbom.sh DIRECTORY: writes the software bill of materials to DIRECTORY/pkcs11proxyd-VERSION.cdx.json, in CycloneDX, and
# checks it against the schema, by the Python package of those who define CycloneDX. The package is installed below
# the target directory the first time.
set -eu

validator_version=11.12.0

fail() {
    echo "sbom: $*" >&2
    exit 1
}

directory=${1-}
[ -d "$directory" ] || fail "usage: sbom.sh DIRECTORY"
project=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$project/target}
tools=$target/tools/cyclonedx-$validator_version
version=$("$project/etc/release/version.sh")
file=$directory/pkcs11proxyd-$version.cdx.json

python3 "$project/etc/release/linked.py" sbom >"$file.new" || fail "cannot write it"
if [ ! -e "$tools/complete" ]; then
    rm -rf "$tools"
    mkdir -p "$target/tools"
    python3 -m venv "$tools" || fail "Python cannot make environments; install python3-venv"
    "$tools/bin/pip" --quiet --disable-pip-version-check install "cyclonedx-python-lib[json-validation]==$validator_version" ||
        fail "cannot install cyclonedx-python-lib $validator_version"
    : >"$tools/complete"
fi
"$tools/bin/python3" - "$file.new" <<'END' || fail "it does not fit its schema"
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

validator = JsonStrictValidator(SchemaVersion.V1_6)
text = open(sys.argv[1]).read()
if error := validator.validate_str(text):
    sys.exit(str(error)[:1000])
# It finds a wrong word.
assert validator.validate_str(text.replace('"required"', '"needed"', 1))
END
mv "$file.new" "$file"
echo "sbom: $(grep -c '"bom-ref"' "$file") components: $file"
