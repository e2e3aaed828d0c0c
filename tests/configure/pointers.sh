#!/bin/sh
# Every pointer in comments and pages leads somewhere: to a file or directory of this tree, and,
# for `doc/spec/PAGE.md, section N', to a section of that page.
#
# What counts as a pointer, in pages and in the comments of everything else (Rust, C, scripts, which
# are known by their `#!', m4 macros, templates, Makefile and TOML files):
#   daemon/…, crates/…, doc/… and so on   a path from the top of the tree, or of its own crate
#   DIRECTORY/NAME.md                     a page, from the top of the tree or from the file's directory
#   NAME.md, NAME.rs, DIRECTORY/NAME.rs   a page by its name, a source file by the end of its path
#   PAGE.md, sections 3, 5 to 7 and 9     these sections; in doc/spec, without PAGE.md: of that page
#   PAGE.md#heading                       a heading of that page
set -eu
export LC_ALL=C
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

cat >"$work/pointers.awk" <<'AWK'
BEGIN {
    while ((getline file < tree) > 0) {
        exists[file] = 1
        # Every end of its path, and every directory above it.
        end = file
        ends[end] = 1
        while (sub(/^[^\/]*\//, "", end)) ends[end] = 1
        path = file
        while (sub(/\/[^\/]*$/, "", path)) { exists[path] = 1; last = path }
        if (file ~ /\//) tops[last] = 1
        if (file ~ /\.md$/) {
            page = file
            sub(/.*\//, "", page)
            by_name[page] = file
            read_headings(file)
        }
    }
}

function read_headings(page,    line, fenced, slug) {
    while ((getline line < page) > 0) {
        if (line ~ /^ *```/) fenced = !fenced
        if (fenced || line !~ /^#+ /) continue
        sub(/^#+ /, "", line)
        if (match(line, /^[0-9]+\. /)) section[page, substr(line, 1, RLENGTH - 2)] = 1
        slug = tolower(line)
        gsub(/[^a-z0-9 _-]/, "", slug)
        gsub(/ /, "-", slug)
        heading[page, slug] = 1
    }
    close(page)
}

function wrong(what) { print here ":" at ": " what }

# The file that NAME means in the file `here', or "" if there is none.
function resolve(name,    directory) {
    directory = here
    if (!sub(/\/[^\/]*$/, "", directory)) directory = "."
    for (;;) {
        if (sub(/^\.\//, "", name)) continue
        if (name !~ /^\.\.\//) break
        sub(/^\.\.\//, "", name)
        if (!sub(/\/[^\/]*$/, "", directory)) directory = "."
    }
    if (directory != "." && (directory "/" name) in exists) return directory "/" name
    if (name in exists) return name
    # Of its own crate.
    if (match(here, /^crates\/[^\/]*\//) && (substr(here, 1, RLENGTH) name) in exists)
        return substr(here, 1, RLENGTH) name
    return name in by_name ? by_name[name] : ""
}

function check_word(word,    anchor, file, first) {
    if (word ~ /:\/\// || word ~ /[*$<>{}@=]/) return
    anchor = ""
    if (match(word, /#.*/)) { anchor = substr(word, RSTART + 1); word = substr(word, 1, RSTART - 1) }
    sub(/::[A-Za-z0-9_]+$/, "", word) # a test of that file
    sub(/:[0-9:]*$/, "", word)
    sub(/[.,:;?!]+$/, "", word)
    sub(/\/$/, "", word)
    if (word ~ /^[\/.-]/ && word !~ /^\.\.?\//) return
    file = resolve(word)
    if (file == "" && word ~ /\.rs$/ && word in ends) return
    first = word
    sub(/\/.*/, "", first)
    if (word ~ /\.md$/ || word ~ /\.rs$/ ||
        (word ~ /\// && first in tops && word !~ /\.(scm|texi|cc|hh|in)$/))
        if (file == "") wrong("`" word "' leads nowhere")
    if (file != "" && word ~ /\.md$/ && anchor != "" && !((file, anchor) in heading))
        wrong("`" file "' has no heading `#" anchor "'")
}

# TEXT follows the name of PAGE: `, sections 3, 5 to 7 and 9'.
function check_sections(page, text,    number) {
    if (!match(text, /^[^A-Za-z0-9.;]*[Ss]ections? [0-9]/)) return
    text = substr(text, RLENGTH)
    while (match(text, /^[0-9]+/)) {
        number = substr(text, 1, RLENGTH)
        if (!((page, number) in section)) wrong("`" page "' has no section " number)
        text = substr(text, RLENGTH + 1)
        if (!match(text, /^,?( and| to| or)* [0-9]/)) return
        text = substr(text, RLENGTH)
    }
}

# The lines of one paragraph, item or comment, joined: a pointer may be broken at a line's end.
function check_block(    rest, page, found) {
    at = start
    rest = block
    block = ""
    while (match(rest, /([A-Za-z0-9_.\/-]*[A-Za-z0-9_-]\.md|[Ss]ections? [0-9])/)) {
        page = substr(rest, RSTART, RLENGTH)
        found = substr(rest, RSTART)
        rest = substr(rest, RSTART + RLENGTH)
        if (page ~ /\.md$/) {
            page = resolve(page)
            if (page != "") check_sections(page, rest)
            # Those sections are looked at; they are not of this page.
            sub(/^[^A-Za-z0-9.;]*[Ss]ections? /, "", rest)
        } else if (here ~ /^doc\/spec\//) check_sections(here, found)
    }
}

FNR == 1 { check_block(); here = FILENAME; fenced = 0 }
{
    line = $0
    if (here ~ /\.md$/) {
        if (line ~ /^ *```/) fenced = !fenced
        if (fenced || line ~ /^ *```/) { check_block(); next }
    } else {
        leader = "(^|[ \t])#+( |$)"
        if (here ~ /\.rs$/) leader = "(^|[ \t])//[/!]?( |$)"
        if (here ~ /\.c$/) leader = "(^|[ \t])/[/*]+( |$)|^[ \t]*\\*( |$)"
        if (here ~ /\.scm(\.in)?$/) leader = "(^|[ \t]);+( |$)"
        if (here ~ /\.m4$/) leader = "(^|[ \t])(#+|dnl)( |$)"
        if (!match(line, leader)) { check_block(); next }
        line = substr(line, RSTART + RLENGTH)
    }
    if (line ~ /^ *$/) { check_block(); next }
    if (line ~ /^ *([*|-]|[0-9]+\.) /) check_block()
    at = FNR
    gsub("\342\200\246", "*", line) # an ellipsis stands for anything
    words = line
    gsub(/[^A-Za-z0-9_.\/#:@*$<>{}=,;?!-]/, " ", words)
    count = split(words, word, " ")
    for (w = 1; w <= count; w++) check_word(word[w])
    if (block == "") start = FNR
    block = block " " line
}
END { check_block() }
AWK

# wrong_in TREE: what leads nowhere there.  Names without blanks are a rule of this tree.
wrong_in() {
    cd "$1"
    find . \( -name target -o -name vendor -o -name .git -o -name corpus \) -prune -o -type f -print |
        sed 's|^\./||' | sort >"$work/tree"
    {
        grep -E '\.(rs|md|c|m4|in|toml)$|(^|/)Makefile$' "$work/tree"
        xargs awk 'FNR == 1 { if (/^#!/) print FILENAME; nextfile }' <"$work/tree"
    } | grep -vx 'tests/configure/pointers.sh' | sort -u >"$work/files"
    awk -v tree="$work/tree" -f "$work/pointers.awk" $(cat "$work/files")
}

# First the check itself: it finds each of the pointers planted here, and nothing else.
mkdir -p "$work/planted/doc/spec" "$work/planted/daemon"
cd "$work/planted"
printf '# Page\n\n## 1. One\n\nSee section 2, and\nsections 1 and 3.\n' >doc/spec/page.md
printf '//! `doc/spec/page.md`, sections 1\n//! to 4. See `spec/page.md`, `DESIGN.md`.\n' >daemon/main.rs
printf 'fn f() {} // daemon/gone.rs\n/// daemon/main.rs\nconst NAME: &str = "DESIGN.md";\n' >daemon/f.rs
printf '[one](doc/spec/page.md#1-one) [two](doc/spec/page.md#two) tests/gone\n' >README.md
printf '# tests/check makes this; daemon/gone\nall:\n' >Makefile
mkdir tests demo
printf '#!/bin/sh\n# %s\n' 'Runs `building/gone.rs` and main.rs.' >tests/check
printf '#! /bin/sh\n# See daemon/lost.\n' >demo/run
printf '# daemon/lost of a file that is no script\n' >demo/data
printf '/* See daemon/f.rs\n * and daemon/lost. */\nint x; // gone.rs\nint *y = "daemon/lost";\n' >tests/attack.c
printf 'dnl daemon/lost\n# daemon/gone\nAC_DEFUN([daemon/lost])\n' >tests/guix.m4
printf '# daemon/lost\nx = "daemon/lost"\n' | tee tests/unit.in >tests/deny.toml
wrong_in "$work/planted" | sort >"$work/found"
cat >"$work/expected" <<'FOUND'
Makefile:1: `daemon/gone' leads nowhere
README.md:1: `doc/spec/page.md' has no heading `#two'
README.md:1: `tests/gone' leads nowhere
daemon/f.rs:1: `daemon/gone.rs' leads nowhere
daemon/main.rs:1: `doc/spec/page.md' has no section 4
daemon/main.rs:2: `DESIGN.md' leads nowhere
daemon/main.rs:2: `spec/page.md' leads nowhere
demo/run:2: `daemon/lost' leads nowhere
doc/spec/page.md:5: `doc/spec/page.md' has no section 2
doc/spec/page.md:5: `doc/spec/page.md' has no section 3
tests/attack.c:2: `daemon/lost' leads nowhere
tests/attack.c:3: `gone.rs' leads nowhere
tests/check:2: `building/gone.rs' leads nowhere
tests/deny.toml:1: `daemon/lost' leads nowhere
tests/guix.m4:1: `daemon/lost' leads nowhere
tests/guix.m4:2: `daemon/gone' leads nowhere
tests/unit.in:1: `daemon/lost' leads nowhere
FOUND
diff "$work/expected" "$work/found" || { echo 'planted pointers: < expected, > found'; exit 1; }

wrong_in "$top" >"$work/wrong"
[ "$(wc -l <"$work/files")" -gt 200 ] || { echo "only $(wc -l <"$work/files") files looked at"; exit 1; }
if [ -s "$work/wrong" ]; then cat "$work/wrong"; exit 1; fi
