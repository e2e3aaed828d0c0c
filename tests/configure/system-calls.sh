#!/bin/sh
# The numbers of system calls in filters are those of the kernel's headers: what
# crates/system/src/call_numbers.rs says, and what the crate libc says of the calls that crates/system
# names, for each processor that has filters.
#
# Usage: system-calls.sh [--all]
#
# Compares with the headers that are installed, and names those that are not: with --all, that is a
# failure.  Debian 13's linux-libc-dev has them all, as have linux-libc-dev-arm64-cross and
# linux-libc-dev-armhf-cross of Debian 12.
set -eu
export LC_ALL=C
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
: "${CC:=cc}" "${CARGO:=cargo}"
numbers=$top/crates/system/src/call_numbers.rs
cd "$top"
libc=$($CARGO metadata --format-version 1 --offline --locked | tr ',' '\n' |
    sed -n -e 's/.*"manifest_path":"\(.*\/libc\)\/Cargo.toml".*/\1/p' \
        -e 's/.*"manifest_path":"\(.*\/libc-0[^"]*\)\/Cargo.toml".*/\1/p')
[ -d "$libc" ] || { echo "cannot find the sources of the crate libc: '$libc'"; exit 1; }
abis=$libc/src/unix/linux_like/linux/gnu/b64

# headers TRIPLET FILE: the directory with this processor's asm/FILE, or nothing.
headers() {
    for directory in "/usr/include/$1" "/usr/$1/include"; do
        if [ -e "$directory/asm/$2" ]; then echo "$directory"; return; fi
    done
}

# ours MODULE: a line `NAME NUMBER' for each constant of a module in call_numbers.rs.
ours() {
    awk -v start="mod $1 {" '
        !inside && substr($0, length($0) - length(start) + 1) == start { inside = 1; end = $0; sub(/[^ ].*/, "}", end); next }
        inside && $0 == end { exit }
        inside && /pub const [A-Z0-9_]*: c_long = [0-9]*;$/ {
            sub(/;$/, ""); name = $3; sub(/:/, "", name); print tolower(name), $NF
        }' "$numbers"
}

# of_libc FILE...: the same for the calls that crates/system names as libc::SYS_....
of_libc() {
    cat "$@" | sed -n 's/^ *pub const SYS_\([a-z0-9_]*\): c_long = \([0-9]*\);.*/\1 \2/p' | sort >"$work/libc"
    find "$top/crates/system/src" -name '*.rs' -exec cat {} + | grep -o 'libc::SYS_[a-z0-9_]*' |
        sed 's/.*SYS_//' | sort -u | join - "$work/libc"
}

# compare WHAT AT-LEAST TRIPLET HEADER OPTION...: compares the lines of standard input with a header.
# Calls that the header is too old to have are left out, so AT-LEAST so many have to be in it.
compare() {
    what=$1 least=$2 directory=$(headers "$3" "$4") header=$4
    if [ -z "$directory" ]; then
        cat >/dev/null
        echo "not compared, because asm/$4 of $3 is not installed: $what" | tee -a "$work/missing"
        return
    fi
    shift 4
    { echo "#include <asm/$header>"
      while read -r name number; do
          printf '#ifdef __NR_%s\n_Static_assert(__NR_%s == %s, "%s");\nint compared_%s;\n#endif\n' \
              "$name" "$name" "$number" "$name" "$name"
      done; } >"$work/calls.c"
    check "$directory" "$@"
    count=$($CC "$@" -nostdinc -I "$directory" -I /usr/include -E "$work/calls.c" | grep -c '^int compared_')
    [ "$count" -ge "$least" ] ||
        { echo "$what: only $count calls are in $directory/asm/$header"; exit 1; }
    echo "$what: $count calls are as in $directory/asm/$header"
}

# check DIRECTORY OPTION...: whether the assertions in calls.c hold.
check() {
    directory=$1
    shift
    if ! $CC "$@" -std=c11 -nostdinc -I "$directory" -I /usr/include -fsyntax-only "$work/calls.c" >"$work/said" 2>&1; then
        cat "$work/said"
        exit 1
    fi
}

: >"$work/missing"
intel=x86_64-linux-gnu arm64=aarch64-linux-gnu armhf=arm-linux-gnueabihf
ours new >"$work/new"
[ "$(wc -l <"$work/new")" = 9 ] && [ "$(ours i386 | wc -l)" = 14 ] && [ "$(ours arm | wc -l)" = 14 ] ||
    { echo "not all of $numbers is understood"; exit 1; }
{ cat "$work/new"; of_libc "$abis/x86_64/mod.rs" "$abis/x86_64/not_x32.rs"; } |
    compare 'x86-64' 100 $intel unistd_64.h
{ cat "$work/new"; ours i386; } | compare 'i386' 17 $intel unistd_32.h
{ cat "$work/new"; of_libc "$abis/aarch64/mod.rs" "$abis/aarch64/lp64.rs"; } |
    compare 'arm64' 85 $arm64 unistd.h -U__x86_64__ -D__aarch64__
# The header chooses by the ABI.
{ cat "$work/new"; ours arm; } | compare 'arm' 17 $armhf unistd.h -U__x86_64__ -D__ARM_EABI__

# The names of the ABIs.
{ echo '#include <linux/audit.h>'
  sed -n 's/^ *pub const \(AUDIT_ARCH_[A-Z0-9_]*\): u32 = \(0x[0-9a-f_]*\);/\1 \2/p' "$numbers" | tr -d _ |
      sed 's/^AUDITARCH/AUDIT_ARCH_/; s/X8664/X86_64/' |
      while read -r name number; do echo "_Static_assert($name == ${number}u, \"$name\");"; done
} >"$work/calls.c"
[ "$(grep -c Static_assert "$work/calls.c")" = 4 ] || { echo 'not all ABIs are understood'; exit 1; }
include=$(headers $intel unistd_64.h)
[ -n "$include" ] || include=$(headers $arm64 unistd.h)
check "$include"

# The comparison itself: a wrong number is found.
printf '#include <linux/audit.h>\n_Static_assert(AUDIT_ARCH_ARM == 1, "ARM");\n' >"$work/calls.c"
if (check "$include") >/dev/null; then echo 'a wrong number is not found'; exit 1; fi

if [ "${1-}" = --all ] && [ -s "$work/missing" ]; then exit 1; fi
