#!/bin/sh
# `make' installs nothing: it names what is missing in one line, and ends before it compiles.
# `make demo' and `make check' install, as root only.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/tree"
cp -R "$top/autoconf-compat" "$top/Cargo.toml" "$top/Makefile" "$work/tree"
cd "$work/tree"

# A machine that lacks one package, and programs that note who called them.
cat >"$work/bin/dpkg-query" <<'SH'
#!/bin/sh
for package; do :; done
[ "$package" != libgcrypt20-dev ] || [ -e "$WORK/installed" ] || exit 1
echo 'installed '
SH
cat >"$work/bin/apt-get" <<'SH'
#!/bin/sh
echo "apt-get $*" >>"$WORK/called"
[ "$1" != install ] || touch "$WORK/installed"
SH
cat >"$work/bin/cargo" <<'SH'
#!/bin/sh
echo "cargo $*" >>"$WORK/called"
SH
printf '#!/bin/sh\necho "$USER_ID"\n' >"$work/bin/id"
chmod +x "$work"/bin/*
export WORK="$work" PATH="$work/bin:$PATH"
unset CARGO CARGO_TARGET_DIR MAKEFLAGS MAKELEVEL || true

# missing USER_ID COMMAND...: one line, a status that is not 0, and nothing is called.
missing() {
    USER_ID=$1; export USER_ID; shift
    rm -f "$work/called"; touch "$work/called"
    if "$@" >"$work/out" 2>&1; then echo "should have failed: $*"; cat "$work/out"; exit 1; fi
    grep -v '^make' "$work/out" >"$work/lines"
    echo 'missing Debian packages; run as root: apt-get install libgcrypt20-dev' |
        diff - "$work/lines" || { echo "$* (user $USER_ID) said that"; exit 1; }
    [ ! -s "$work/called" ] || { echo "$* (user $USER_ID) ran:"; cat "$work/called"; exit 1; }
}
missing 1000 make
missing 0 make
missing 0 make bench
missing 1000 make demo
missing 1000 make check

# Root's `make demo' and `make check' install; with all there, make compiles.
for group in demo check; do
    rm -f "$work/installed" "$work/called"
    USER_ID=0 ./autoconf-compat/debian-packages --install $group >"$work/out"
    grep -q '^apt-get install .* libgcrypt20-dev$' "$work/called" || { cat "$work/called"; exit 1; }
done
rm "$work/called"
make -s
grep -q '^cargo build --release' "$work/called"

# Without Rust.
rm "$work/installed"
status=0
CARGO=no-such-cargo make -e >"$work/out" 2>&1 || status=$?
[ $status = 2 ] || { echo "exit status $status"; exit 1; }
grep -q '^missing: Rust [0-9.]* or later (no-such-cargo is not in PATH)' "$work/out" ||
    { cat "$work/out"; exit 1; }
