#!/bin/sh
# Scripts that end at the first command that fails do so: none has a statement that `set -e' passes
# over, such as `[ A ] && B' (if A fails) and `! A'.  And shellcheck finds nothing in any script.
set -eu
export LC_ALL=C
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

# passed_over FILE...: such statements.  Lines that are continued are one; here-documents are data.
passed_over() {
    awk '
    FNR == 1 { strict = 0; statement = ""; end = "" }
    end != "" { if ($0 == end) end = ""; next }
    /^set -[a-z]*e/ { strict = 1 }
    /^ *#/ { next }
    {
        text = $0
        sub(/^ */, "", text)
        if (statement == "") first = FNR
        statement = statement (statement == "" ? "" : " ") text
        if (match(text, /<<-?["\047]?[A-Z]+/)) {
            end = substr(text, RSTART, RLENGTH)
            gsub(/[^A-Z]/, "", end)
        }
        if (statement ~ /\\$/) { sub(/\\$/, "", statement); next }
        if (statement ~ /(&&|\|\|)$/) next
        if (strict && statement !~ / \|\| / &&
            (statement ~ /^(\[|test|grep|cmp|diff|not|expect|kill|cd) .* && / || statement ~ /^! /))
            print FILENAME ":" first ": " statement
        statement = ""
    }' "$@"
}

# First the check itself.
cat >"$work/planted" <<'END'
#!/bin/sh
set -eu
[ "$a" = b ] && grep -q c d
[ "$a" = b ] &&
    grep -q c d
[ "$a" = b ] && grep -q c d ||
    exit 1
! grep -q c d
! grep -q c d || exit 1
if [ "$a" = b ] && grep -q c d; then exit 1; fi
# [ "$a" = b ] && grep -q c d
cat <<TEXT
[ "$a" = b ] && grep -q c d
TEXT
grep -q c d \
    && cmp e f
END
passed_over "$work/planted" | cut -d : -f 2 | tr '\n' ' ' >"$work/found"
[ "$(cat "$work/found")" = '3 4 8 15 ' ] || { echo "of the planted lines: $(cat "$work/found")"; exit 1; }

cd "$top"
find . \( -name target -o -name vendor -o -name .git -o -name corpus \) -prune -o -type f -print |
    xargs awk 'FNR == 1 { if (/^#! ?\/bin\/(ba)?sh/) print FILENAME; nextfile }' | sort >"$work/scripts"
[ "$(wc -l <"$work/scripts")" -gt 30 ] || { echo 'only these scripts were found:'; cat "$work/scripts"; exit 1; }
passed_over $(cat "$work/scripts") >"$work/found"
if [ -s "$work/found" ]; then echo 'set -e passes over:'; cat "$work/found"; exit 1; fi

command -v shellcheck >/dev/null || { echo 'shellcheck is not installed'; exit 77; }
# Not for us: variables that the Makefile or `configure' hands over, blanks after `=', and names of
# files with blanks, which this tree has none of.
shellcheck --shell=sh --severity=warning --format=gcc --exclude=SC1007,SC1090,SC2034,SC2038,SC2046,SC2154 $(cat "$work/scripts")
