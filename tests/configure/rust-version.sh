#!/bin/sh
# The version of Rust that is asked for is enough for the dependencies and for our own code, and is the
# same wherever it is stated.
#
# Library functions that are too new are clippy's `incompatible_msrv', an error in the step `lint' of
# tests/check.  Here are the dependencies' own statements, and a piece of syntax that newer compilers
# accept whatever Cargo.toml says.  Where that very version of Rust is installed by rustup, everything
# is compiled with it as well.
set -eu
export LC_ALL=C
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$top"
: "${CARGO:=cargo}"
stated=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
[ -n "$stated" ] || { echo 'Cargo.toml has no rust-version'; exit 1; }

# The dependencies that don't say which Rust they need, as they were when they were compiled with Rust
# 1.85.0.  With other versions of them: cargo +1.85.0 check --workspace --all-targets
cat >"$work/tried" <<'END'
anes 0.1.6
cast 0.3.0
cfg_aliases 0.2.2
criterion-plot 0.6.0
curl 0.4.51
curl-sys 0.4.91+curl-8.22.0
fallible-iterator 0.3.0
fallible-streaming-iterator 0.1.9
httparse 1.10.1
lazy_static 1.5.1
libsqlite3-sys 0.38.2
libz-sys 1.1.31
listenfd 1.0.2
memoffset 0.9.1
oorandom 11.1.5
plotters 0.3.7
plotters-backend 0.3.7
plotters-svg 0.3.7
rusqlite 0.40.2
same-file 1.0.6
smallvec 1.16.6
tinytemplate 1.2.1
unarray 0.1.4
unicase 2.10.0
utf8parse 0.2.2
vcpkg 0.2.15
walkdir 2.5.0
zerocopy-derive 0.8.63
END

# One line for each package: NAME VERSION RUST, where RUST is `null' or such as 1.85.
host=$(rustc -vV | sed -n 's/^host: //p')
"$CARGO" metadata --format-version 1 --locked --filter-platform "$host" | tr ',' '\n' | awk -F'"' '
    /^({"packages":\[)?{"name":/ { name = $(NF - 1); next }
    /^"version":/ && name { package = name; version = $4 }
    { name = "" }
    /^"rust_version":null/ { print package, version, "null" }
    /^"rust_version":"/ { split($4, part, "."); print package, version, part[1] "." part[2] }' >"$work/packages"
[ "$(wc -l <"$work/packages")" -gt 80 ] || { echo 'cannot read the metadata of Cargo'; cat "$work/packages"; exit 1; }

needed=$({ echo "$stated"; awk '$3 != "null" { print $3 }' "$work/packages"; } | sort -t. -k1,1n -k2,2n | tail -n 1)
[ "$stated" = "$needed" ] ||
    { echo "Cargo.toml says Rust $stated; these need more:"; grep -F " $needed" "$work/packages"; exit 1; }
awk '$3 == "null" { print $1, $2 }' "$work/packages" | sort >"$work/silent"
comm -23 "$work/silent" "$work/tried" >"$work/untried"
[ ! -s "$work/untried" ] ||
    { echo "not known whether Rust $stated compiles:"; cat "$work/untried"; exit 1; }

for page in README.md doc/src/installing.md; do
    grep -q "Rust $stated" "$page" || { echo "$page does not say Rust $stated"; exit 1; }
    others=$(grep -o 'Rust 1\.[0-9]*' "$page" | grep -vxF "Rust $stated" || true)
    [ -z "$others" ] || { echo "$page says $others, not $stated"; exit 1; }
done

# That Rust itself has compiled all of this before, where it is the one in use.
case $("$CARGO" --version) in "cargo $stated."*) exit 0 ;; esac

# Chains of `let' came with Rust 1.88, in the edition of 2024 only: read as an older edition, they are
# errors.  What else such a reading finds doesn't matter.
chains() {
    rustfmt --edition 2021 --check "$@" 2>&1 >/dev/null |
        grep -A 1 'let chains are only allowed' || true
}
printf 'fn main() {\n    if let Some(a) = Some(1)\n        && a > 2\n    {}\n}\n' >"$work/chain.rs"
printf 'fn main() {\n    while 1 > 2 && let Some(_) = Some(1) {}\n}\n' >"$work/another.rs"
for file in chain another; do
    [ -n "$(chains "$work/$file.rs")" ] || { echo "the chain of $file.rs is not found"; exit 1; }
done
find build.rs crates daemon hook client tests bench demo doc fuzz -name target -prune -o -name '*.rs' -print >"$work/files"
[ "$(wc -l <"$work/files")" -gt 300 ] || { echo "only $(wc -l <"$work/files") files"; exit 1; }
chains $(cat "$work/files") >"$work/found"
if [ -s "$work/found" ]; then cat "$work/found"; exit 1; fi

toolchain=$(rustup toolchain list 2>/dev/null | sed -n "s/^\($stated\.[0-9]*\)-.*/\1/p" | head -n 1)
if [ -n "$toolchain" ]; then
    "$CARGO" "+$toolchain" check --quiet --locked --workspace --all-targets \
        --target-dir "${CARGO_TARGET_DIR:-target}/rust-$stated" >"$work/found" 2>&1 ||
        { cat "$work/found"; exit 1; }
fi
