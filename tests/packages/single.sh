#!/bin/sh
# Single tests of static.sh and cross.sh, which read this, and set `suite', their name, and `said', a file for
# what the last command has printed.

passed=0 failed=0
# check NAME COMMAND...: one test; shows the end of what it printed if it failed.
check() {
    name=$1; shift
    if "$@" >"$said" 2>&1; then
        passed=$((passed + 1))
        echo "PASS: $suite/$name"
    else
        failed=$((failed + 1))
        tail -n 60 "$said"
        echo "FAIL: $suite/$name"
    fi
}
# The last line.  It fails if a test has failed.
counted() {
    echo "$passed passed, $failed failed, 0 skipped"
    [ "$failed" = 0 ]
}
