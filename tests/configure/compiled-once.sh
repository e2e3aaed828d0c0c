#!/bin/sh
# `make', `make demo' and the tests of the programs have other crates with the same features: otherwise
# each of them would compile those crates, and all of ours, again.
set -eu
cd "$(dirname "$0")/../.."
: "${CARGO:=cargo}"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

# crates KINDS [OPTION...]: each crate with its features, for these kinds of dependencies.
crates() {
    kinds=$1; shift
    "$CARGO" tree --locked --quiet --prefix none --format '{p} {f}' --edges "$kinds" "$@" |
        sed 's/ (\*)$//' | sort -u
}
crates normal,build >"$work/make"
crates normal,build,dev >"$work/tests"
comm -23 "$work/make" "$work/tests" >"$work/others"
if [ -s "$work/others" ]; then
    echo 'Compiled again for the tests, since a dev-dependency asks for more features of these:'
    cat "$work/others"
    exit 1
fi
# Who names a package gets others.
crates normal,build --package guix-daemon >"$work/one"
[ -n "$(comm -23 "$work/one" "$work/make")" ] ||
    { echo 'no difference is found where there is one'; exit 1; }

# The Makefile's lines as make sees them.
{
    make -n all demo
    cat Makefile tests/check tests/configure/*.sh demo/run demo/picture
} | grep -E -e '(build|run|test) --release' >"$work/calls"
if grep -E -e ' (-p|--package|--workspace|--manifest-path) ' "$work/calls" >"$work/named"; then
    echo 'These name packages, and get other features than `make'\'':'
    cat "$work/named"
    exit 1
fi
