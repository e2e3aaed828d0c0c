#!/bin/sh
# The version of Rust that is asked for is the one that the dependencies need, and is the same
# wherever it is stated.  (That our own code keeps to it is clippy's `incompatible_msrv'.)
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$top"
: "${CARGO:=cargo}"
stated=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
[ -n "$stated" ] || { echo 'Cargo.toml has no rust-version'; exit 1; }

host=$(rustc -vV | sed -n 's/^host: //p')
"$CARGO" metadata --format-version 1 --locked --filter-platform "$host" >"$work/metadata"
# `"rust_version":"1.89.0"' of every package, without a last `.0'.
tr ',' '\n' <"$work/metadata" | sed -n 's/^"rust_version":"\([0-9]*\.[0-9]*\)[0-9.]*".*/\1/p' |
    sort -t. -k1,1n -k2,2n >"$work/versions"
[ "$(wc -l <"$work/versions")" -gt 20 ] || { echo 'cannot read the metadata of Cargo'; exit 1; }
needed=$(tail -n 1 "$work/versions")
[ "$stated" = "$needed" ] || { echo "Cargo.toml says Rust $stated, dependencies need $needed"; exit 1; }

for page in README.md doc/src/installing.md; do
    grep -q "Rust $stated" "$page" || { echo "$page does not say Rust $stated"; exit 1; }
    others=$(grep -o 'Rust 1\.[0-9]*' "$page" | grep -vxF "Rust $stated" || true)
    [ -z "$others" ] || { echo "$page says $others, not $stated"; exit 1; }
done
