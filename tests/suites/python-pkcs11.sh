about="the test suite of the Python package python-pkcs11"

prepare() {
    python_suite python-pkcs11 0.10.1 e0d7ccede3b3145a678d7c8c59b3c64dcebeb77c9146ad3394a4b1309c4ab2a2 \
        setuptools==80.9.0 cython==3.1.4 setuptools-scm==9.2.0 \
        asn1crypto==1.5.1 cryptography==45.0.7 parameterized==0.9.0
}

suite() {
    # The tests are copied, for the package in the source directory is not built.
    cp -R "$tools/source/tests" tests
    PKCS11_MODULE="$library" PKCS11_TOKEN_LABEL="$label" PKCS11_TOKEN_PIN="$pin" PKCS11_TOKEN_SO_PIN="$so_pin" \
        "$tools/venv/bin/python3" "$suites/unittests.py" tests .
}
