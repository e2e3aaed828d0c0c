#!/bin/sh
# `make' installs nothing: it names what is missing in one line, and ends before it compiles.
# `make demo', `make check' and `make bench' install, as root only, and Debian's own Rust if it is new enough; no
# service is started by that.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/tree"
cp -R "$top/autoconf-compat" "$top/Cargo.toml" "$top/Makefile" "$work/tree"
mkdir "$work/tree/demo"
cp "$top/demo/namespaces" "$work/tree/demo"
cd "$work/tree"

# A machine that lacks one package, and programs that note who called them.
cat >"$work/bin/dpkg-query" <<'SH'
#!/bin/sh
for package; do :; done
case $package in libgcrypt20-dev | cargo | rustc | ca-certificates) [ -e "$WORK/installed" ] || exit 1 ;; esac
echo 'installed '
SH
cat >"$work/bin/apt-cache" <<'SH'
#!/bin/sh
if [ "$*" = 'policy rustc' ] && [ -e "$WORK/debian" ]; then
    printf 'rustc:\n  Installed: (none)\n  Candidate: %s\n' "$(cat "$WORK/debian")"
elif [ "$*" = policy ]; then
    printf 'Package files:\n 100 /var/lib/dpkg/status\n     release a=now\n'
    [ -e "$WORK/no-lists" ] || printf ' 500 http://deb.debian.org/debian trixie/main amd64 Packages\n'
fi
SH
cat >"$work/bin/apt-get" <<'SH'
#!/bin/sh
echo "apt-get $*" >>"$WORK/called"
[ "$1" = install ] || exit 0
touch "$WORK/installed"
# What a package asks whether it may start its service, or restart one that runs.
for action in start restart; do
    status=0
    "$DPKG_ROOT/usr/sbin/policy-rc.d" munge.service $action || status=$?
    echo "$action $status" >>"$WORK/asked"
done
SH
cat >"$work/bin/cargo" <<'SH'
#!/bin/sh
if [ "$*" = --version ]; then
    echo "cargo $(cat "$WORK/cargo").0 (abc 2025-01-01)"
    exit
fi
echo "cargo $*" >>"$WORK/called"
SH
printf '#!/bin/sh\n' >"$work/bin/makeinfo"
cat >"$work/bin/objcopy" <<'SH'
#!/bin/sh
for file; do :; done
: >"$file"
SH
printf '#!/bin/sh\necho "$USER_ID"\n' >"$work/bin/id"
chmod +x "$work"/bin/*
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
echo "$needed" >"$work/cargo"
mkdir -p "$work/root/usr/sbin"
policy=$work/root/usr/sbin/policy-rc.d
export WORK="$work" DPKG_ROOT="$work/root" PATH="$work/bin:$PATH" HOME="$work"
unset CARGO CARGO_TARGET_DIR MAKEFLAGS MAKELEVEL || true

only_libgcrypt='missing Debian packages; run as root: apt-get install libgcrypt20-dev'
# missing USER_ID COMMAND...: the line in $line, a status that is not 0, and nothing is called.
line=$only_libgcrypt
missing() {
    USER_ID=$1; export USER_ID; shift
    rm -f "$work/called"; touch "$work/called"
    if "$@" >"$work/out" 2>&1; then echo "should have failed: $*"; cat "$work/out"; exit 1; fi
    grep -v '^make' "$work/out" >"$work/lines"
    echo "$line" | diff - "$work/lines" || { echo "$* (user $USER_ID) said that"; exit 1; }
    [ ! -s "$work/called" ] || { echo "$* (user $USER_ID) ran:"; cat "$work/called"; exit 1; }
}
missing 1000 make
missing 0 make
line="demo: Slurm's daemons have to be root: run \`make demo-slurm' as root"
missing 1000 make demo-slurm
line=$only_libgcrypt
missing 1000 make demo
missing 1000 make check
missing 1000 make bench
# In a new container, apt can install nothing before it has lists.
touch "$work/no-lists"
line='missing Debian packages; run as root: apt-get update && apt-get install libgcrypt20-dev'
missing 1000 make
missing 0 make
rm "$work/no-lists"
line=$only_libgcrypt

# Root's `make demo', `make demo-slurm', `make check' and `make bench' install; with all there, make compiles.
# The programs that make the manual.
mkdir -p target/release
for program in guix-manual guix-client; do
    printf '#!/bin/sh\n' >target/release/$program
    chmod +x target/release/$program
done
for group in demo demo-slurm check check-packages bench; do
    rm -f "$work/installed" "$work/called" "$work/asked"
    USER_ID=0 ./autoconf-compat/debian-packages --install $group >"$work/out"
    grep -q '^apt-get install .* libgcrypt20-dev$' "$work/called" || { cat "$work/called"; exit 1; }
    printf '%s\n' 'start 101' 'restart 0' | diff - "$work/asked" || { echo 'services would start'; exit 1; }
    [ ! -e "$policy" ] || { echo 'a policy is left'; exit 1; }
done
# Slurm is only for those who want to see it.
mv "$work/bin/dpkg-query" "$work/dpkg-query"
cat >"$work/bin/dpkg-query" <<'SH'
#!/bin/sh
for package; do :; done
[ "$package" != slurm-wlm ] || exit 1
echo 'installed '
SH
chmod +x "$work/bin/dpkg-query"
USER_ID=1000 ./autoconf-compat/debian-packages demo
USER_ID=1000 ./autoconf-compat/debian-packages demo-slurm 2>"$work/out" || :
echo 'missing Debian packages; run as root: apt-get install slurm-wlm' | diff - "$work/out"
mv "$work/dpkg-query" "$work/bin/dpkg-query"
# Somebody's own policy is kept.
printf '#!/bin/sh\nexit 104\n' >"$policy"
chmod +x "$policy"
cp "$policy" "$work/own"
rm "$work/installed"
USER_ID=0 ./autoconf-compat/debian-packages --install demo >"$work/out"
diff "$work/own" "$policy"
rm "$policy"
# `make bench', before it compiles and measures.
rm -f "$work/installed" "$work/called"
mkdir bench
printf '#!/bin/sh\necho bench/run >>"$WORK/called"\n' >bench/run
chmod +x bench/run
USER_ID=0 make -s bench >"$work/out"
sed -n -e 's/^apt-get install .* libgcrypt20-dev$/packages/p' -e 's/^cargo build .*/programs/p' -e '/^bench/p' "$work/called" |
    uniq >"$work/lines"
printf '%s\n' packages programs bench/run | diff - "$work/lines" || { cat "$work/called"; exit 1; }
rm "$work/called"
make -s
grep -q '^cargo build --release' "$work/called"

# Without Rust: Debian's, if it is new enough.
rm "$work/installed" "$work/bin/cargo"
only_tools=$work/tools
mkdir "$only_tools"
for tool in sh make sed sort head diff ln chmod printf grep dirname tail mktemp rm cat touch mkdir mv find sleep; do
    ln -s "$(command -v $tool)" "$only_tools/$tool"
done
PATH=$work/bin:$only_tools
rust="Rust $needed or later"
line="missing: $rust (cargo is not in PATH); https://rustup.rs installs it; and Debian packages; run as root: apt-get install libgcrypt20-dev"
missing 1000 make
missing 0 ./autoconf-compat/debian-packages build
echo 1.63.0+dfsg1-2 >"$work/debian"
line="missing: $rust (cargo is not in PATH; Debian's is 1.63); https://rustup.rs installs it; and Debian packages; run as root: apt-get install libgcrypt20-dev"
missing 1000 make demo
missing 0 make
mkdir -p "$work/.cargo/bin"
ln -s "$(command -v sh)" "$work/.cargo/bin/cargo"
line="missing: $rust (cargo is not in PATH, but in ~/.cargo/bin; Debian's is 1.63); https://rustup.rs installs it; and Debian packages; run as root: apt-get install libgcrypt20-dev"
missing 1000 make
rm -r "$work/.cargo"
echo "$needed.0+dfsg3-1" >"$work/debian"
line='missing Debian packages; run as root: apt-get install rustc cargo ca-certificates libgcrypt20-dev'
missing 1000 make
missing 1000 make demo
missing 0 make
rm "$work/debian"; touch "$work/no-lists"
line='missing Debian packages; run as root: apt-get update && apt-get install rustc cargo ca-certificates libgcrypt20-dev'
missing 1000 make
missing 0 make
rm "$work/no-lists"; echo "$needed.0+dfsg3-1" >"$work/debian"
rm "$work/called"
USER_ID=0 ./autoconf-compat/debian-packages --install demo >"$work/out"
printf '%s\n' 'apt-get update' \
    'apt-get install -y --no-install-recommends rustc cargo ca-certificates libgcrypt20-dev' |
    diff - "$work/called" || { echo 'apt-get was not called like that'; exit 1; }

# One that is too old.
printf '#!/bin/sh\necho "cargo 1.63.0 (abc 2022-01-01)"\n' >"$work/bin/cargo"
chmod +x "$work/bin/cargo"
rm "$work/debian"
line="missing: $rust (cargo is 1.63); https://rustup.rs installs it"
missing 1000 make
# A Cargo that somebody chose is never replaced.
CARGO=no-such-cargo; export CARGO
line="missing: $rust (no-such-cargo is not in PATH); https://rustup.rs installs it"
missing 1000 make -e
