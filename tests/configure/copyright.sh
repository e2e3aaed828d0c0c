#!/bin/sh
# debian/copyright has a paragraph for each crate of the lock files, whose source is in source tarballs, and
# the text of each license that it names.
#
# Usage: tests/configure/copyright.sh [--write]
#
# --write writes those paragraphs anew, of what the crates themselves say: the license in their Cargo.toml,
# the holders in their files of licenses, or else the authors.  It may need a network.
set -eu
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/../.."
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

# locked FILE...: NAME-VERSION of the crates that are not this project's own.
locked() {
    awk '/^name = /{ name = $3 } /^version = /{ version = $3 }
         /^source = /{ gsub(/"/, "", name); gsub(/"/, "", version); print name "-" version }' "$@" | sort -u
}
# described FILE: those that have a paragraph.
described() { sed -n 's,^Files: vendor/\([^/]*\)/\*$,\1,p' "$1" | sort; }
# lacking FILE: licenses without a text of their own.  (`A or B, and C' are three.)
lacking() {
    awk '/^License: / { sub(/^License: /, ""); name = $0; next }
         name != "" { if (/^ /) text[name] = 1; else named[name] = 1; name = "" }
         END {
             if (name != "") named[name] = 1
             for (name in named) {
                 count = split(name, part, /,? (or|and) /)
                 for (i = 1; i <= count; i++) if (!(part[i] in text)) print part[i]
             }
         }' "$1" | sort -u
}

# holders DIRECTORY: whose the crate is.
holders() {
    find "$1" -maxdepth 1 -type f \( -iname 'licen[sc]e*' -o -iname 'copy*' -o -iname 'notice*' \) | sort >"$work/notices"
    {
        while read -r notice; do
            sed -n 's/^[[:space:]]*//; s/[[:space:]]*$//
                s/^and "libbzip2", and is Copyright/Copyright/
                /^\(Copyright\|(C)\|©\).*[0-9][0-9][0-9][0-9]/p; /^Copyright (c) [A-Z]/p' "$notice"
        done <"$work/notices" |
            sed 's/^Copyright:* *//; s/^(c) *//i; s/^© *//; s/^Copyright *//; s/ *All rights reserved\.*//i; s/[ .;]*$//'
    } | awk 'NF && !/yyyy/ && !seen[$0]++' >"$work/holders"
    [ -s "$work/holders" ] || awk '
        /^\[/ && !/^\[package\]/ { exit }
        /^authors = \[/ { inside = 1 }
        inside { while (match($0, /"[^"]*"/)) { print substr($0, RSTART + 1, RLENGTH - 2); $0 = substr($0, RSTART + RLENGTH) } }
        inside && /\]/ { exit }' "$1/Cargo.toml" >"$work/holders"
    [ -s "$work/holders" ] || { sed -n 's/^name = "\(.*\)"/the authors of \1/p' "$1/Cargo.toml" | head -n 1; } >"$work/holders"
    sed '1!s/^/ /' "$work/holders"
}
# license DIRECTORY: in Debian's words.
license() {
    sed -n 's/^license = "\(.*\)"/\1/p' "$1/Cargo.toml" | sed '
        s/\([^ ]\)\/\([^ ]\)/\1 OR \2/g
        s/^(\(.*\)) AND /\1, and /
        s/ OR / or /g; s/ AND / and /g
        s/Apache-2.0 WITH LLVM-exception/Apache-2.0 with LLVM exception/
        s/\bMIT\b/Expat/g; s/-or-later/+/g
        s/BSD-\([23]\)-Clause/BSD-\1-clause/g'
}
paragraph() { printf 'Files: %s\nCopyright: %s\nLicense: %s\n\n' "$@"; }
# paragraphs DIRECTORY: those of the crates there, and of other people's sources in them.
paragraphs() {
    for crate in "$1"/*; do
        name=$(basename "$crate")
        paragraph "vendor/$name/*" "$(holders "$crate")" "$(license "$crate")"
        for inner in curl sqlite3 sqlcipher zstd; do
            if [ ! -d "$crate/$inner" ]; then continue; fi
            inside="vendor/$name/$inner/*"
            case $inner in
                curl) paragraph "$inside" '1996-2026, Daniel Stenberg <daniel@haxx.se>, and many contributors' curl ;;
                sqlite3) paragraph "$inside" 'none: its authors have dedicated it to the public domain' public-domain ;;
                sqlcipher) paragraph "$inside" '2008-2024, ZETETIC LLC' BSD-3-clause ;;
                zstd) paragraph "$inside" 'Meta Platforms, Inc. and affiliates' 'BSD-3-clause or GPL-2' ;;
            esac
        done
        for inner in "$crate"/lua-*; do
            if [ -d "$inner" ]; then
                paragraph "vendor/$name/$(basename "$inner")/*" '1994-2026, Lua.org, PUC-Rio' Expat
            fi
        done
    done
}

if [ "${1-}" = --write ]; then
    "${CARGO:=cargo}" vendor --quiet --locked --versioned-dirs --sync demo/sources/Cargo.toml "$work/vendor" >/dev/null
    paragraphs "$work/vendor" >"$work/paragraphs"
    # After the one for all files, in place of those that were there.
    awk -v new="$work/paragraphs" '
        BEGIN { RS = ""; ORS = "\n\n" }
        /^Files: vendor\// { next }
        { print }
        /^Files: \*/ { RS = "\n"; ORS = "\n"; while ((getline line < new) > 0) print line; RS = ""; ORS = "\n\n" }
    ' debian/copyright | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' >"$work/copyright"
    cp "$work/copyright" debian/copyright
fi

# First the check itself.
cat >"$work/planted" <<'END'
Files: *
License: A
 Its text.

Files: vendor/there-1.0/*
License: A or B, and C

License: B
 Its text.
END
printf '[[package]]\nname = "%s"\nversion = "1.0"\nsource = "registry"\n' there gone >"$work/planted.lock"
[ "$(lacking "$work/planted")" = C ] || { echo "of the planted licenses: $(lacking "$work/planted")"; exit 1; }
locked "$work/planted.lock" >"$work/locked"
described "$work/planted" | comm -23 "$work/locked" - >"$work/found"
[ "$(cat "$work/found")" = gone-1.0 ] || { echo "of the planted crates: $(cat "$work/found")"; exit 1; }

locked Cargo.lock demo/sources/Cargo.lock >"$work/locked"
described debian/copyright >"$work/described"
diff "$work/locked" "$work/described" ||
    { echo '< locked, > in debian/copyright: tests/configure/copyright.sh --write'; exit 1; }
lacking debian/copyright >"$work/lacking"
if [ -s "$work/lacking" ]; then echo 'debian/copyright has no text of:'; cat "$work/lacking"; exit 1; fi
