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

# A whole system around it: what `uninstall' leaves is what there was before, byte for byte, and directories that
# others have, too.
everything() { (cd "$root" && find . ! -type d -exec ls -ln --time-style=+ {} + && find . -type f -exec sha256sum {} +) | sort; }
root=$work/system
mkdir -p "$root/usr/local/libexec/guix" "$root/usr/local/bin/.debug" "$root/usr/local/share/doc/guix-daemon/manual" \
    "$root/usr/local/share/man/man1" "$root/gnu/store/item" "$root/var/guix/db" "$root/etc/guix"
for file in usr/local/libexec/guix/authenticate usr/local/bin/.debug/other.debug usr/local/share/doc/guix-daemon/notes \
    usr/local/share/doc/guix-daemon/manual/mine.md usr/local/bin/guix usr/local/bin/guix-daemon.old \
    usr/local/share/man/man1/guix.1 gnu/store/item/file var/guix/db/db.sqlite etc/guix/machines.scm; do
    echo "$file" >"$root/$file"
done
everything >"$work/before"
make -s install CARGO=no-cargo DESTDIR="$root" prefix=/usr/local >"$work/out"
make -s uninstall CARGO=no-cargo DESTDIR="$root" prefix=/usr/local >"$work/removed"
everything | diff "$work/before" - || { echo 'uninstall leaves that, or has removed it'; exit 1; }
sed -n 's/^  //p' "$work/out" | sort >"$work/put"
sed -n 's/^  //p' "$work/removed" | sort | diff "$work/put" - || { echo 'not what was installed'; exit 1; }
empty=$(cd "$root" && find . -type d -empty -path '*guix*')
[ -z "$empty" ] || { echo "empty directories are left: $empty"; exit 1; }
# From a checkout where nothing was made, too; and there is nothing to do a second time.
make -s install CARGO=no-cargo DESTDIR="$root" prefix=/usr/local >"$work/out"
make -s uninstall CARGO=no-cargo DESTDIR="$root" prefix=/usr/local CARGO_TARGET_DIR="$work/no-target" >"$work/out"
everything | diff "$work/before" - || { echo 'uninstall leaves that, or has removed it'; exit 1; }
make -s uninstall CARGO=no-cargo DESTDIR="$root" prefix=/usr/local >"$work/out"
echo 'removing:' | diff - "$work/out"

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
# Units would name other directories than those that the programs use.
fails 'localstatedir is /other, and the programs were made for /' localstatedir=/other
fails 'sysconfdir is /other, and the programs were made for /' sysconfdir=/other
fails 'storedir is /other, and the programs were made for /' storedir=/other
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
mkdir "$root/etc/systemd/system/guix-daemon-rs.service.d"
cp "$root/p/share/guix-daemon/build-users.conf" "$root/etc/systemd/system/guix-daemon-rs.service.d"
# The script of the page about Guix's own daemon.
sed -n '/^#!.bin.sh/,/^esac/p' doc/src/guixs-daemon.md | sed 's|/usr/local/|/p/|' >"$root/p/libexec/guix/guix-for-daemon"
make -s uninstall DESTDIR="$root" prefix=/p 2>"$work/out" >/dev/null
names() { grep -qxF -- "uninstall: $root$1" "$work/out" || { echo "not named: $1"; cat "$work/out"; exit 1; }; }
names '/etc/systemd/system/sockets.target.wants/guix-daemon-rs.socket remains; see systemctl disable'
names '/etc/systemd/system/guix-daemon.service.d/rust.conf still names /p/bin/guix-daemon'
names '/etc/systemd/system/guix-daemon-rs.service.d/build-users.conf still names /p/bin/guix-daemon'
names '/p/libexec/guix/guix-for-daemon still names /p/libexec/guix/fetch'
[ "$(wc -l <"$work/out")" = 4 ] || { cat "$work/out"; exit 1; }
[ "$(find "$root" ! -type d | wc -l)" = 4 ]

# Installed programs do without the tree.
make -s install prefix="$work/p" >/dev/null
(cd / && env -i PATH=/usr/bin:/bin "$work/p/bin/guix-daemon" --version) | grep -q 'guix-daemon (GNU Guix)'
(cd / && env -i PATH=/usr/bin:/bin "$work/p/bin/guix-client" --version) | grep -q guix
bash -n "$work/p/share/bash-completion/completions/guix-daemon"
make -s uninstall prefix="$work/p"
check_empty "$work/p"

# Two installations at once: each uses its own hook, its own program that fetches, and the `guix' beside it, not those
# where `configure' would have put them; and these if it has none.
chosen() { sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" config.status.toml 2>/dev/null || true; }
bin=$(chosen bindir) libexec=$(chosen libexecdir)
export work bin="${bin:-/usr/local/bin}" libexec="${libexec:-/usr/local/libexec}"
# What is there is hidden by a file system of the test's own.
export above="${libexec%/*}"
while [ ! -d "$above/" ]; do above=${above%/*}; done
case $bin in "$above"/*) ;; *) above= ;; esac
make -s install prefix="$work/p" >/dev/null
if [ -n "$above" ] && [ "$above" != /usr ] && $mounts true 2>/dev/null; then
    $mounts sh -eu <<'INSIDE'
mount -t tmpfs -o mode=755 none "$above"
mkdir -p "$bin" "$libexec/guix"
for program in "$bin/guix" "$libexec/guix/offload" "$libexec/guix/fetch"; do
    printf '#!/bin/sh\nexit 1\n' >"$program"
    chmod +x "$program"
done
# asks WORDS OPTION...: the check of the set-up says that.
asks() {
    words=$1; shift
    env -i PATH=/usr/bin:/bin GUIX_STATE_DIRECTORY="$work/state" GUIX_LOG_DIRECTORY="$work/log" \
        GUIX_CONFIGURATION_DIRECTORY="$work/etc" NIX_STORE_DIR="$work/store" \
        "$work/p/bin/guix-daemon" --check-setup "$@" >"$work/out" 2>&1 || true
    grep -qF -- "$words" "$work/out" || { echo "without: $words"; cat "$work/out"; exit 1; }
}
asks "$work/p/libexec/guix/fetch"
asks "$work/p/libexec/guix/offload"
asks "$bin/guix" --fetcher=guix
cp "$bin/guix" "$work/p/bin"
asks "$work/p/bin/guix" --fetcher=guix
rm "$work/p/bin/guix" "$work/p/libexec/guix/offload" "$work/p/libexec/guix/fetch"
asks "$libexec/guix/fetch"
asks "$libexec/guix/offload"
INSIDE
else
    echo 'SKIPPED: two installations at once (needs mounts, and directories that can be hidden)'
fi
make -s uninstall prefix="$work/p" >/dev/null
check_empty "$work/p"
