#!/bin/sh
# tests/unused finds what is planted in a copy of the sources, and nothing without that.

set -e
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/guix-unused-test.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() { echo "$1"; cat "$work/found"; exit 1; }

copy=$work/copy
(cd "$top" && find . -name target -prune -o -name .git -prune -o \
    \( -name '*.rs' -o -name Cargo.toml -o -name dependencies.md \) -type f -print) |
    while read -r file; do
        mkdir -p "$copy/${file%/*}"
        cp "$top/$file" "$copy/$file"
    done
cp "$top/tests/unused" "$work/unused"

"$work/unused" "$copy" >"$work/found" || fail 'something is unused'

# expect TEXT: the next run fails and says so.
expect() {
    if "$work/unused" "$copy" >"$work/found"; then fail "not found: $1"; fi
    grep -q "$1" "$work/found" || fail "not said: $1"
}

# A dependency of a library, one of the programs, one for tests, and one of the workspace only.
sed -i 's/^\[dependencies\]/&\nplanted-one.workspace = true/' "$copy/crates/store/Cargo.toml"
expect 'crates/store/Cargo.toml: nothing uses planted-one of \[dependencies\]'
sed -i '/planted-one/d' "$copy/crates/store/Cargo.toml"
sed -i -e 's/^\[dependencies\]/&\nplanted-two = { version = "1" }/' \
    -e 's/^\[dev-dependencies\]/&\nplanted-three.workspace = true/' \
    -e 's/^\[workspace.dependencies\]/&\nplanted-four = "1"/' "$copy/Cargo.toml"
for name in two three four; do expect "uses planted-$name of"; done
expect 'doc/dependencies.md does not list planted-four'
sed -i '/planted-/d' "$copy/Cargo.toml"

# Functions, in a library and in the hook's, of which one is named by a comment, by an export and by
# its own file's tests; a type; a constant.
cat >>"$copy/crates/system/src/caps.rs" <<'END'
pub fn planted_function() {}
#[cfg(test)]
mod planted_tests {
    use super::planted_function;
}
END
echo '// planted_function, and pub use system::caps::planted_function;' >>"$copy/daemon/main.rs"
echo 'pub use caps::planted_function;' >>"$copy/crates/system/src/lib.rs"
expect 'caps.rs:[0-9]*: nothing outside its file uses fn planted_function'
echo 'fn planted_use() { system::caps::planted_function() }' >>"$copy/daemon/main.rs"
"$work/unused" "$copy" >"$work/found" || fail 'what is used is taken for unused'
echo 'pub const PLANTED_CONSTANT: u32 = 1;' >>"$copy/hook/lib.rs"
expect 'uses const PLANTED_CONSTANT'
echo 'pub struct PlantedType; impl PlantedType { }' >>"$copy/crates/formats/src/lib.rs"
expect 'uses struct PlantedType'
