#!/bin/sh
# The page on security names, for each promise, the tests that hold it: a file, `::' and a name.  Each
# of them exists: the file is in the tree, and has a test of that name.
set -eu
export LC_ALL=C
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

# wrong_in TREE PAGE: the tests that PAGE names and TREE does not have; the number of names is left
# in $work/count.
wrong_in() {
    cd "$1"
    grep -o '[A-Za-z0-9_./-]*\.rs::[A-Za-z0-9_]*' "$2" | sort -u >"$work/names"
    wc -l <"$work/names" >"$work/count"
    while read -r name; do
        file=${name%%::*} test=${name##*::}
        if [ ! -f "$file" ]; then
            echo "$name: there is no such file"
        elif ! awk -v test="$test" '
            /#\[test\]/ { is_test = 1; next }
            is_test && match($0, /fn [A-Za-z0-9_]+/) {
                if (substr($0, RSTART + 3, RLENGTH - 3) == test) found = 1
                is_test = 0
            }
            END { exit !found }' "$file"; then
            echo "$name: the file has no such test"
        fi
    done <"$work/names"
}

# First the check itself: it finds the wrong names that are planted here, and only those.
mkdir "$work/planted"
printf '#[test]\nfn is_there() {}\n\nfn is_no_test() {}\n' >"$work/planted/file.rs"
printf '`file.rs::is_there` `file.rs::is_no_test`,\n`file.rs::gone` | `gone.rs::is_there` |\n' \
    >"$work/planted/page.md"
wrong_in "$work/planted" page.md >"$work/found"
cat >"$work/expected" <<'FOUND'
file.rs::gone: the file has no such test
file.rs::is_no_test: the file has no such test
gone.rs::is_there: there is no such file
FOUND
diff "$work/expected" "$work/found" || { echo 'planted names: < expected, > found'; exit 1; }

wrong_in "$top" doc/src/security.md >"$work/wrong"
[ "$(cat "$work/count")" -gt 60 ] || { echo "only $(cat "$work/count") tests are named"; exit 1; }
if [ -s "$work/wrong" ]; then cat "$work/wrong"; exit 1; fi
