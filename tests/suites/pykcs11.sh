about="the test suite of the Python package PyKCS11"
# Written in its tests.
so_pin=123456

prepare() {
    python_suite PyKCS11 1.5.20 1f7a7c8164fac636382aa7b0d70279ad5581379748fc17a20bc0be8fe574c259 setuptools==80.9.0 swig==4.3.1 asn1crypto==1.5.1
}

suite() {
    cp -R "$tools/source/test" test
    PYKCS11LIB="$library" "$tools/venv/bin/python3" "$suites/unittests.py" test test
}
