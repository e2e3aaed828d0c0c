#!/bin/sh
# `make doc': the manual as HTML, Info and man page; its links lead somewhere in each form, a dead one
# is named, and nothing but Info is missing where there is no makeinfo.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$top"
: "${CARGO_TARGET_DIR:=target}"
case $CARGO_TARGET_DIR in /*) ;; *) CARGO_TARGET_DIR=$top/$CARGO_TARGET_DIR ;; esac
export CARGO_TARGET_DIR
made=$CARGO_TARGET_DIR/manual
fail() { echo "$*"; exit 1; }

# Without makeinfo: all but Info, which is said.
make -s doc MAKEINFO=no-such-makeinfo >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
grep -q 'no-such-makeinfo is missing' "$work/out" || fail 'make doc does not say what is missing'
[ ! -e "$made/guix-daemon.info" ] || fail 'an old guix-daemon.info is left'
[ -s "$made/html/index.html" ] && [ -s "$made/man/guix-daemon.1" ] || fail "pages are missing"

# HTML: every page, and every link leads to a file and a heading.
cd "$made/html"
for page in "$top"/doc/src/*.md; do
    page=$(basename "$page" .md)
    [ "$page" = SUMMARY ] || [ -s "$page.html" ] || fail "there is no $page.html"
    [ "$page" = SUMMARY ] || grep -q "href=\"$page.html\"" index.html || fail "$page is not in the contents"
done
for page in *.html; do
    grep -o 'href="[^"]*"' "$page" | sed 's/^href="//; s/"$//' | sort -u >"$work/links"
    while read -r link; do
        case $link in https://*) continue ;; esac
        file=${link%%#*}
        [ -f "${file:-$page}" ] || fail "$page: $link leads nowhere"
        case $link in
            *'#'*) grep -q "id=\"${link#*#}\"" "${file:-$page}" || fail "$page: there is no $link" ;;
        esac
    done <"$work/links"
done
for picture in "$top"/doc/src/*.png; do
    picture=${picture##*/}
    cmp "$top/doc/src/$picture" "$picture" || fail "$picture is not there"
    grep -q "<img src=\"$picture\" alt=\"[A-Z]" ./*.html || fail "no page shows $picture, with words for those who don't see it"
    [ "$(wc -c <"$picture")" -le 150000 ] || fail "$picture is too large"
done
grep -q 'href="[a-z-]*\.html#' ./*.html || fail 'no link leads to a heading'

# The man page.
cd "$made/man"
man --warnings -l guix-offload-machines.5 >"$work/page" 2>"$work/warnings"
[ ! -s "$work/warnings" ] || { cat "$work/warnings"; exit 1; }
for word in NAME FIELDS MACHINES.TOML overload-threshold 'SEE ALSO'; do
    grep -q "$word" "$work/page" || fail "guix-offload-machines.5 lacks $word"
done

# A dead link, to a page or to a heading, is named.
mkdir -p "$work/tree/doc"
cp -R "$top/doc/src" "$work/tree/doc"
cd "$work/tree"
program=$CARGO_TARGET_DIR/release/guix-manual
"$program" "$work/copy" || fail "the copy of the manual cannot be made"
for link in nowhere.md 'limits.md#nothing'; do
    cp "$top/doc/src/files.md" doc/src/files.md
    echo "[dead]($link)" >>doc/src/files.md
    if "$program" "$work/copy" >"$work/out" 2>&1; then fail "$link was not noticed"; fi
    grep -q "files.md: a dead link: $link" "$work/out" || { cat "$work/out"; exit 1; }
done
cp "$top/doc/src/files.md" doc/src/files.md
echo '![Nothing](nowhere.png)' >>doc/src/files.md
if "$program" "$work/copy" >"$work/out" 2>&1; then fail 'a missing picture was not noticed'; fi
grep -q 'files.md: no such picture: nowhere.png' "$work/out" || { cat "$work/out"; exit 1; }

# Info.
for tool in makeinfo info; do
    command -v $tool >/dev/null || { echo "$tool is missing"; exit 77; }
done
cd "$top"
make -s doc >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
# makeinfo warns of references that lead nowhere, and of much else.
makeinfo --no-split -o "$work/again.info" "$made/guix-daemon.texi" >"$work/out" 2>&1
[ ! -s "$work/out" ] || { cat "$work/out"; exit 1; }
sed -n 's/^@node \([^,]*\).*/\1/p' "$made/guix-daemon.texi" | sed 's/@@/@/g' >"$work/nodes"
[ "$(wc -l <"$work/nodes")" -gt 15 ]
grep -q '\[Picture: ' "$made/guix-daemon.info" || fail 'Info does not tell of pictures'
while read -r node; do
    info -f "$made/guix-daemon.info" -n "$node" -o "$work/node" >/dev/null 2>&1 </dev/null
    grep -q "Node: $node," "$work/node" || fail "info does not show the node $node"
done <"$work/nodes"
