#!/bin/sh
# tests/check counts what is a test and was run, once, and fails for what is left on the machine.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d)
finish() {
    if [ -e "$work/process" ]; then kill "$(cat "$work/process")" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

# A Cargo whose tests are these.
cat >"$work/cargo" <<'SH'
#!/bin/sh
case "$*" in
    fmt*)
        if [ -e "$WORK/leave" ]; then
            touch "$TMPDIR/a-file"
            sleep 1000 >/dev/null 2>&1 &
            echo $! >"$WORK/process"
        fi ;;
    *--lib*) cat <<'END'
test one ... ok
test two ... FAILED
test process ... ignored, not a test: the process that another test starts
test three ... ignored, takes hours

test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
END
        echo 'one: needs root' >>"$GUIX_CHECK_SKIPPED"
        exit 101 ;;
    *--doc*) exit "$(cat "$WORK/doc")" ;;
esac
SH
chmod +x "$work/cargo"
export WORK="$work" CARGO="$work/cargo"
unset GUIX_TEST_KEEP || true
echo 0 >"$work/doc"

# run STEP...: what it says is in $work/out, its status in $status.
run() {
    status=0
    "$top/tests/check" "$@" >"$work/out" 2>&1 || status=$?
}
# says LINE
says() { grep -qxF -- "$1" "$work/out" || { echo "it does not say \`$1':"; cat "$work/out"; exit 1; }; }

run format leftovers
[ $status = 0 ] || { cat "$work/out"; exit 1; }
says '2 passed, 0 failed, 0 skipped'

# `one' could not be run, `three' was not, and `process' is no test.
run unit
[ $status = 1 ]
says '0 passed, 1 failed, 2 skipped'
says two
says 'one: needs root'
says 'three: takes hours'

touch "$work/leave"
run format leftovers
[ $status = 1 ]
says '1 passed, 1 failed, 0 skipped'
says 'nothing is left on the machine'
says 'process: sleep 1000 '
grep -q '^file: .*/a-file$' "$work/out" || { cat "$work/out"; exit 1; }
