#!/bin/sh
# make install puts every file where the conventions want it, or none if it cannot, and make
# uninstall takes exactly those away.  It needs no Cargo after make.
set -eu
not() { if "$@"; then echo "should have failed: $*"; exit 1; fi; }
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$top"

check_empty() {
    left=$(find "$1" ! -type d)
    [ -z "$left" ] || { echo "left behind: $left"; exit 1; }
}

make -s >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
for prefix in /usr /opt/guix; do
    root=$work$prefix-root
    mkdir -p "$root"
    make -s install DESTDIR="$root" prefix=$prefix >"$work/out"
    for file in bin/guix-daemon bin/guix-client libexec/guix/offload libexec/guix/fetch; do
        [ -x "$root$prefix/$file" ] || { echo "$file is not executable"; exit 1; }
    done
    for file in share/man/man1/guix-daemon.1 share/man/man1/guix-client.1 \
            share/man/man1/guix-offload.1 share/man/man5/guix-offload-machines.5 \
            share/man/man5/machines.toml.5 share/doc/guix-daemon/html/index.html \
            share/doc/guix-daemon/html/offload.html \
            lib/systemd/system/guix-daemon-rs.service \
            lib/systemd/system/guix-daemon-rs-store.service \
            lib/systemd/system/guix-daemon-rs.socket lib/sysusers.d/guix-daemon-rs.conf \
            lib/tmpfiles.d/guix-daemon-rs.conf share/guix-daemon/build-users.conf \
            share/guix-daemon/apparmor/guix-daemon-rs share/shepherd/services/guix-daemon-rs.scm \
            share/bash-completion/completions/guix-daemon share/zsh/site-functions/_guix-daemon \
            share/fish/vendor_completions.d/guix-daemon.fish \
            share/doc/guix-daemon/manual/offload.md; do
        [ -f "$root$prefix/$file" ] || { echo "$file is missing"; exit 1; }
    done
    # Every page of the manual that `make' makes.
    for page in "${CARGO_TARGET_DIR:-target}"/manual/man/*.[0-9]; do
        name=${page##*/}
        [ -f "$root$prefix/share/man/man${name##*.}/$name" ] || { echo "$name is not installed"; exit 1; }
    done
    grep -qx "ExecStart=$prefix/bin/guix-daemon" "$root$prefix/lib/systemd/system/guix-daemon-rs.service"
    grep -q "\"$prefix/bin/guix-daemon\"" "$root$prefix/share/shepherd/services/guix-daemon-rs.scm"
    not grep -rl '@[a-z]*dir@' "$root"
    # Somebody else's files in the same directories stay.
    mine=$root$prefix/share/man/man1/other.1
    echo other >"$mine"
    find "$root" ! -type d | sort >"$work/before"
    make -s install DESTDIR="$root" prefix=$prefix >"$work/out"
    find "$root" ! -type d | sort | cmp - "$work/before"
    make -s uninstall DESTDIR="$root" prefix=$prefix >"$work/out"
    grep -qx "  $root$prefix/bin/guix-daemon" "$work/out"
    [ -f "$mine" ]
    rm "$mine"
    check_empty "$root"
    [ ! -d "$root$prefix/libexec/guix" ]
done

# Programs are small, and yet debuggers find which line of which file an address is, as backtraces do.
release=$(make -s -f - <<'MAKE'
include Makefile
print: ; @echo $(release)
.DEFAULT_GOAL = print
MAKE
)
make -s install CARGO=no-cargo prefix="$work/p" >"$work/out"
for program in bin/guix-daemon:guix_daemon::main:daemon bin/guix-client:guix_client::main:client \
        libexec/guix/offload:guix_offload::main:hook libexec/guix/fetch:guix_fetch::main:fetch; do
    file=$work/p/${program%%:*} rest=${program#*:}
    function=${rest%:*} directory=${rest##*:}
    debug=${file%/*}/.debug/$(readelf --string-dump=.gnu_debuglink "$file" | sed -n 's/.* \([a-z-]*\.debug\)$/\1/p')
    [ -f "$debug" ] || { echo "$file has no debug information beside it"; exit 1; }
    [ "$(wc -c <"$file")" -lt 12000000 ] || { echo "$file: $(wc -c <"$file") bytes"; exit 1; }
    address=$(nm --demangle "$debug" | sed -n "s/ [tT] $function\$//p")
    addr2line --exe="$file" "0x$address" >"$work/out"
    grep -q "/$directory/main.rs:[0-9]" "$work/out" || { echo "$function of $file is at:"; cat "$work/out"; exit 1; }
done
make -s uninstall prefix="$work/p"
check_empty "$work/p"
[ ! -e "$work/p/bin/.debug" ]

# Where something is in the way, nothing is installed, and what was there before stays.  Cargo has
# made everything already.
tree() { find "$1" -type d -printf '%P %y\n' -o -printf '%P %y %s %T@\n' | sort; }
# fails WORDS VARIABLE=VALUE...: so does the installation, with these words; $root is unchanged.
fails() {
    words=$1; shift
    tree "$root" >"$work/before"
    status=0
    make -s install CARGO=no-cargo DESTDIR="$root" prefix=/p "$@" >"$work/out" 2>&1 || status=$?
    [ $status != 0 ] && grep -qF -- "$words" "$work/out" && grep -q 'nothing was installed' "$work/out" ||
        { echo "status $status, without \`$words'"; cat "$work/out"; exit 1; }
    tree "$root" | diff "$work/before" - || { echo 'it changed something'; exit 1; }
}
root=$work/failing
mkdir -p "$root/p/bin" "$work/partial/installed"
echo old >"$root/p/bin/guix-daemon"
echo new >"$work/partial/installed/guix-daemon"
fails "files are missing, such as $work/partial/installed/guix-client; run" release="$work/partial"
fails "$work/no-such-strip is missing" STRIP="$work/no-such-strip"
# It is there, and fails at the last of the three programs.
printf '#!/bin/sh\ncase $1 in */offload.new) echo it strips no hook; exit 1 ;; esac\n' >"$work/strip"
chmod +x "$work/strip"
fails 'it strips no hook' STRIP="$work/strip"
mkdir -p "$root/p/share/man/man1/guix-daemon.1"
fails 'guix-daemon.1 is a directory'
rmdir "$root/p/share/man/man1/guix-daemon.1"
echo file >"$root/p/libexec"
fails "$root/p/libexec is not a directory"
rm "$root/p/libexec"

mounts='unshare --mount'
[ "$(id -u)" = 0 ] || mounts='unshare --mount --user --map-root-user'
if $mounts true 2>/dev/null; then
    export work
    for how in 'size=1m' 'ro'; do
        # The functions above are known there, too.
        { sed -n '/^tree() /p; /^fails() {/,/^}/p' "$top/tests/configure/install.sh"
          cat <<'INSIDE'
root=$work/mounted
mkdir -p "$root"
mount -t tmpfs -o mode=755 none "$root"
mkdir -p "$root/p/bin"
echo old >"$root/p/bin/guix-daemon"
case $how in
    ro) mount -o remount,ro "$root"; fails 'cannot write to' ;;
    *) mount -o "remount,$how" "$root"; fails 'No space left on device' ;;
esac
INSIDE
        } >"$work/inside"
        how=$how $mounts sh -eu "$work/inside"
    done
else
    echo 'SKIPPED: a full and a read-only file system (needs mounts)'
fi
make -s install CARGO=no-cargo DESTDIR="$root" prefix=/p >/dev/null
cmp "$root/p/bin/guix-daemon" "$release/installed/guix-daemon"

# What the administrator has made of the installation stays, and is named.
mkdir -p "$root/etc/systemd/system/sockets.target.wants" "$root/etc/systemd/system/guix-daemon.service.d"
ln -s /p/lib/systemd/system/guix-daemon-rs.socket "$root/etc/systemd/system/sockets.target.wants"
printf '[Service]\nExecStart=\nExecStart=/p/bin/guix-daemon --debug\n' \
    >"$root/etc/systemd/system/guix-daemon.service.d/rust.conf"
make -s uninstall DESTDIR="$root" prefix=/p 2>"$work/out"
grep -q 'sockets.target.wants/guix-daemon-rs.socket remains' "$work/out"
grep -q 'guix-daemon.service.d/rust.conf still names /p/bin/guix-daemon' "$work/out"
[ "$(find "$root" ! -type d | wc -l)" = 2 ]

# Installed programs do without the tree.
make -s install prefix="$work/p" >/dev/null
(cd / && env -i PATH=/usr/bin:/bin "$work/p/bin/guix-daemon" --version) | grep -q 'guix-daemon (GNU Guix)'
(cd / && env -i PATH=/usr/bin:/bin "$work/p/bin/guix-client" --version) | grep -q guix
bash -n "$work/p/share/bash-completion/completions/guix-daemon"
make -s uninstall prefix="$work/p"
check_empty "$work/p"
