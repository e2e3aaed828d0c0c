#!/bin/sh
# The picture of imports in doc/src/contributing.md is what the sources say, and no files of a crate
# import each other in a cycle.
#
# Usage: arrows.sh [--write]      --write: draw the picture anew
#
# The program that reads the sources is in the directory `arrows' beside this script.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
program=$top/tests/configure/arrows/main.rs
${RUSTC:-rustc} --edition 2024 -D warnings -o "$work/arrows" "$program"
if command -v rustfmt >/dev/null; then rustfmt --edition 2024 --check "$program"; fi
page=$top/doc/src/contributing.md
if [ "${1-}" = --write ]; then exec "$work/arrows" --write "$top" "$page"; fi

# First the program itself, on a tree with an arrow of each kind, and a cycle.
tree=$work/tree
mkdir -p "$tree/crates/one-two/src/deep" "$tree/daemon" "$tree/hook" "$tree/client" \
    "$tree/fetch" "$tree/demo"
cd "$tree"
cat >crates/one-two/src/lib.rs <<'RS'
mod a;
pub mod b;
mod c;
mod d;
mod deep;
mod e;
pub use a::A; // handed on, not used
RS
cat >crates/one-two/src/a.rs <<'RS'
use crate::{
    b::{self, B, deeper::{C, D as E}},
    c, // a comment with `use crate::e::E;'
};
pub struct A;
const TEXT: &str = "use crate::e::E; // \" crate::e::E";
const CHARACTER: char = '"';
#[cfg(test)]
mod tests {
    use crate::e::E;
}
RS
printf 'pub struct B;\npub mod deeper { pub struct C; pub struct D; }\n' >crates/one-two/src/b.rs
printf 'pub fn f() { super::d::g(); }\n' >crates/one-two/src/c.rs
printf "pub fn g<'a>(x: &'a str) { let _ = r#\"super::e::E\"#; crate::A::new(); }\n" >crates/one-two/src/d.rs
printf 'pub(crate) mod inner;\npub struct Deep;\n' >crates/one-two/src/deep/mod.rs
printf 'use super::super::e::E;\npub(in crate::deep) struct F(pub(in super::super) u8);\n#[cfg(test)]\nuse super::Deep;\n' >crates/one-two/src/deep/inner.rs
printf 'pub struct E;\n' >crates/one-two/src/e.rs
printf 'fn main() { one_two::b::B; }\n' >daemon/main.rs
echo 'pub struct H;' >hook/lib.rs
echo 'fn main() {}' >hook/main.rs
echo 'use hook::H; fn main() {}' >client/main.rs
for program in fetch demo; do echo 'fn main() {}' >$program/main.rs; done
cat >page.md <<'PAGE'
```arrows .
client
demo
fetch
hook
nobody
```
```arrows crates/one-two/src
a    → b, c
b
```
PAGE
cat >expected <<'FOUND'
crates/one-two: files import each other in a cycle:
    crates/one-two/src/a.rs:3 imports crates/one-two/src/c.rs
    crates/one-two/src/c.rs:1 imports crates/one-two/src/d.rs
    crates/one-two/src/d.rs:1 imports crates/one-two/src/a.rs
.: the picture lacks: client  → hook
.: the picture lacks: daemon  → one-two
.: the picture lacks: one-two
.: only in the picture: client
.: only in the picture: nobody
crates/one-two/src: the picture lacks: deep → e
crates/one-two/src: the picture lacks: lib
crates/one-two/src: the picture lacks: c    → d
crates/one-two/src: the picture lacks: d    → a
crates/one-two/src: the picture lacks: e
FOUND
status=0
"$work/arrows" . page.md >found || status=$?
[ $status = 1 ] && sort expected >expected.sorted && sort found | diff expected.sorted - ||
    { echo "on the planted tree (status $status): < expected, > found"; exit 1; }
# Without the cycle, what it draws is right.
: >crates/one-two/src/d.rs
echo 'pub fn g() {}' >crates/one-two/src/d.rs
"$work/arrows" --write . page.md
"$work/arrows" . page.md

for directory in . daemon daemon/building hook hook/remote client fetch fetch/network fetch/download; do
    grep -qxF "\`\`\`arrows $directory" "$page" || { echo "$page has no block for $directory"; exit 1; }
done
"$work/arrows" "$top" "$page" ||
    { echo "if this is meant, draw the picture anew: tests/configure/arrows.sh --write"; exit 1; }
