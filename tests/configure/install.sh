#!/bin/sh
# make install puts every file where the conventions want it, and make uninstall takes exactly
# those away.
set -eu
not() { if "$@"; then echo "should have failed: $*"; exit 1; fi; }
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$top"

check_empty() {
    left=$(find "$1" ! -type d)
    [ -z "$left" ] || { echo "left behind: $left"; exit 1; }
}

for prefix in /usr /opt/guix; do
    root=$work$prefix-root
    mkdir -p "$root"
    make -s install DESTDIR="$root" prefix=$prefix >"$work/out"
    for file in bin/guix-daemon bin/guix-client libexec/guix/offload; do
        [ -x "$root$prefix/$file" ] || { echo "$file is not executable"; exit 1; }
    done
    for file in share/man/man1/guix-daemon.1 share/man/man1/guix-client.1 \
            share/man/man1/guix-offload.1 lib/systemd/system/guix-daemon.service \
            lib/systemd/system/guix-daemon.socket share/shepherd/services/guix-daemon.scm \
            share/bash-completion/completions/guix-daemon share/zsh/site-functions/_guix-daemon \
            share/fish/vendor_completions.d/guix-daemon.fish \
            share/doc/guix-daemon/manual/offload.md; do
        [ -f "$root$prefix/$file" ] || { echo "$file is missing"; exit 1; }
    done
    grep -q "ExecStart=$prefix/bin/guix-daemon " "$root$prefix/lib/systemd/system/guix-daemon.service"
    grep -q "\"$prefix/bin/guix-daemon\"" "$root$prefix/share/shepherd/services/guix-daemon.scm"
    not grep -rl '@[a-z]*dir@' "$root"
    # Somebody else's files in the same directories stay.
    mine=$root$prefix/share/man/man1/other.1
    echo other >"$mine"
    find "$root" ! -type d | sort >"$work/before"
    make -s install DESTDIR="$root" prefix=$prefix >"$work/out"
    find "$root" ! -type d | sort | cmp - "$work/before"
    make -s uninstall DESTDIR="$root" prefix=$prefix
    [ -f "$mine" ]
    rm "$mine"
    check_empty "$root"
    [ ! -d "$root$prefix/libexec/guix" ]
done

# Installed programs do without the tree.
make -s install prefix="$work/p" >/dev/null
(cd / && env -i PATH=/usr/bin:/bin "$work/p/bin/guix-daemon" --version) | grep -q 'guix-daemon (GNU Guix)'
(cd / && env -i PATH=/usr/bin:/bin "$work/p/bin/guix-client" --version) | grep -q guix
bash -n "$work/p/share/bash-completion/completions/guix-daemon"
make -s uninstall prefix="$work/p"
check_empty "$work/p"
