# helpers.sh: what the suites have in common.

# ended COMMAND...: runs it for at most 60 seconds; prints its exit status and all that it printed, in one line.
ended() {
    status=0
    timeout --kill-after=5 60 "$@" >output 2>&1 </dev/null || status=$?
    printf 'exit %s' "$status"
    while IFS= read -r line || [ -n "$line" ]; do
        printf ' | %s' "$line"
    done <output
    echo
}

# check NAME COMMAND...: one test, whose result is all that the command prints.
check() {
    printf '%s\t' "$1"
    shift
    ended "$@" | tr '\t' ' '
}

# python_suite NAME VERSION SHA256 REQUIREMENT...: unpacks a source distribution of PyPI into ./source and installs it
# into the virtual environment ./venv, after what it needs for building and for its tests.
python_suite() {
    [ "$(cat stamp 2>/dev/null)" != "$*" ] || return 0
    wanted=$*
    rm -rf venv source sdist stamp
    python3 -m venv venv
    printf '%s==%s --hash=sha256:%s\n' "$1" "$2" "$3" >sdist.txt
    shift 3
    venv/bin/pip install --quiet "$@"
    venv/bin/pip download --quiet --no-deps --no-build-isolation --no-binary :all: --require-hashes \
        --requirement sdist.txt --dest sdist
    mkdir source
    tar -xzf sdist/*.tar.gz -C source --strip-components 1
    # What it is built with may be a program of the environment, such as swig.
    PATH="$PWD/venv/bin:$PATH" venv/bin/pip install --quiet --no-deps --no-build-isolation ./source
    echo "$wanted" >stamp
}
