#!/bin/sh
# The manual's commands by which an installation of root's daemon changes hands to a user of its own,
# and back: what was built stays valid, builds work, and what the page says of GC roots is so.
#
# Runs in namespaces, in a root with users of its own.
set -eu
skip() { echo "$*"; exit 77; }
fail() { echo "$*"; cat /log 2>/dev/null || true; exit 1; }

if [ "${1-}" != inside ]; then
    top=$(cd "$(dirname "$0")/../.." && pwd -P)
    export PATH="$PATH:/usr/sbin:/sbin"
    [ "$(id -u)" = 0 ] || skip 'needs root'
    for tool in runuser pivot_root unshare setpriv; do
        command -v $tool >/dev/null || skip "$tool is missing"
    done
    setpriv --reuid 65534 --regid 65534 --clear-groups unshare --user true 2>/dev/null ||
        skip 'ordinary users may not make user namespaces'
    work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    # The blocks of the page that create the user, give the installation away and take it back, but for
    # systemd.
    awk '/^```/ { if (inside) { inside = 0; block++ } else inside = 1; next }
         inside { print > (work "/block" block + 0) }' work="$work" "$top/doc/src/own-user.md"
    set -- $(grep -l '^guix-daemon .*--change-owner' "$work"/block* | sort -V)
    [ $# = 3 ] || fail "the page has $# blocks with --change-owner, not three"
    for name in give back give-again; do
        sed '/^systemctl /d; /^rm /d; /^install -D/,/[^\\]$/d' "$1" >"$work/$name"
        shift
    done
    sed -n '/^install -d/p' "$(grep -l '^install -d .*/gnu/store' "$work"/block*)" >"$work/new"
    mkdir -p "$work/programs/bin" "$work/programs/libexec/guix" "$work/root"
    PATH=/usr/bin:/bin "$top/pre-inst-env" sh -c 'cp "$(command -v guix-daemon)" "$(command -v guix-client)" "$1"' \
        copy "$work/programs/bin"
    unshare --mount --net --pid --fork --kill-child sh "$top/tests/configure/own-user.sh" inside "$work"
    exit
fi

work=$2
mount --make-rprivate /
root=$work/root
mount -t tmpfs -o mode=755 root "$root"
for name in usr bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then cp -P "/$name" "$root"
    elif [ -d "/$name" ]; then mkdir "$root/$name"; mount --rbind "/$name" "$root/$name"; fi
done
cd "$root"
mkdir -p etc proc sys dev run tmp var/empty root gnu home/alice work .old
chmod 1777 tmp
mount --rbind /dev dev
mount --bind "$work" work
for file in ld.so.cache pam.d security nsswitch.conf login.defs; do
    if [ -e "/etc/$file" ]; then cp -R "/etc/$file" etc; fi
done
cat >etc/passwd <<'PASSWD'
root:x:0:0:root:/root:/bin/sh
guixbuilder1:x:30001:30000::/var/empty:/usr/sbin/nologin
guix-daemon:x:30010:30010::/var/empty:/usr/sbin/nologin
alice:x:30020:30020::/home/alice:/bin/sh
PASSWD
printf 'root:x:0:\nguixbuild:x:30000:guixbuilder1\nguix-daemon:x:30010:\nalice:x:30020:\n' >etc/group
chown 30020:30020 home/alice
pivot_root . .old
cd /
mount -t proc proc /proc
umount -l /.old
export PATH=/work/programs/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
for variable in TMPDIR $(env | sed -n 's/^\(\(GUIX\|NIX\)[A-Z_]*\)=.*/\1/p'); do unset "$variable"; done

# serve COMMAND...: until `stop'.
serve() {
    : >/log
    "$@" >/log 2>&1 </dev/null &
    tries=0
    until grep -q '^listening on' /log; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || fail 'the daemon does not listen'
        sleep 0.1
    done
}
stop() {
    for process in /proc/[0-9]*; do
        if [ "$(cat "$process/comm" 2>/dev/null)" = guix-daemon ]; then kill "${process#/proc/}" || true; fi
    done
    wait
}
as_alice() { runuser -u alice -- env HOME=/home/alice "$@"; }
builds() { as_alice guix-client build --hello >/out 2>&1 || { cat /out; fail 'no build'; }; }
add_for_alice() {
    item=$(as_alice guix-client add /etc/passwd)
    as_alice guix-client build "$item" --root=/home/alice/kept >/dev/null
}

# Root's daemon.
guix-client archive --generate-key >/dev/null
guix-client archive --authorize </etc/guix/signing-key.pub
serve guix-daemon --build-users-group=guixbuild --no-offload
builds
add_for_alice
stop

# What must never change hands: what links lead to, what somebody has linked into the state, and what
# users have.
mkdir /precious
echo precious >/precious/file
ln -s /precious /var/guix/gcroots/precious
ln -s /precious/file /var/log/guix/link
echo other >/var/guix/first
ln /var/guix/first /var/guix/second
as_alice touch /var/guix/profiles/per-user/alice/generation
root_has() { [ "$(stat -c %u "$@" | sort -u)" = 0 ] || { stat -c '%n %u' "$@"; fail "not all root's: $*"; }; }
unchanged() {
    root_has /precious /precious/file /var/guix/first /var/guix/profiles/per-user/root
    [ "$(stat -c %U /var/guix/profiles/per-user/alice/generation)" = alice ]
}
mkdir -p /var/guix/profiles/per-user/root
# refuses WORDS OPTIONS...: and changes nothing.
owners() { find /gnu /var /etc -printf '%p %u %g %m\n' | sort; }
refuses() {
    words=$1; shift
    owners >/before
    if guix-daemon "$@" >/out 2>&1; then fail "it should have refused: $*"; fi
    grep -qF -- "$words" /out || { cat /out; fail "it doesn't say: $words"; }
    owners | diff /before - || fail 'it changed something'
}

# A daemon of the wrong user is told, and so is who looks.
refuses "the user \`nobody-here' does not exist" --change-owner=nobody-here
refuses 'leave out --build-users-group' --build-users-group=guixbuild --change-owner=guix-daemon
if runuser -u guix-daemon -- guix-daemon --check-setup >/out 2>&1; then fail 'that set-up is right?'; fi
grep -q "WRONG  the store ./gnu/store' belongs to root, not to guix-daemon" /out || { cat /out; exit 1; }
grep -q -- '-> .*guix-daemon --change-owner=guix-daemon$' /out || { cat /out; exit 1; }
serve guix-daemon --build-users-group=guixbuild --no-offload
refuses 'stop it first: systemctl stop' --change-owner=guix-daemon
rm /var/guix/daemon-socket/socket
refuses 'stop it first' --change-owner=guix-daemon
stop
# It has gone from its socket, but not from the store.
serve guix-daemon --build-users-group=guixbuild --no-offload --listen=/elsewhere
GUIX_DAEMON_SOCKET=/elsewhere guix-client gc --list-dead >/dev/null 2>&1
refuses 'a daemon has the store open' --change-owner=guix-daemon
stop

# A run that is interrupted, wherever, leaves the store directory to its former owner, who serves on; and is
# repeated.
for place in "$(find /var/log/guix -type f | head -n 1)" /var/guix/db/db.sqlite \
        "$(find /gnu/store -mindepth 1 -maxdepth 1 | sort | head -n 1)" "$(find /gnu/store -mindepth 1 -maxdepth 1 | sort | tail -n 1)"; do
    mount --bind "$place" "$place"
    mount -o remount,bind,ro "$place"
    if guix-daemon --change-owner=guix-daemon >/out 2>&1; then fail 'it cannot change a read-only file'; fi
    grep -q "cannot change the owner of .*${place##*/}.*: Read-only file system" /out || { cat /out; exit 1; }
    umount "$place"
    root_has /gnu/store
    [ "$(stat -c %U "$place")" = root ]
    serve guix-daemon --build-users-group=guixbuild --no-offload
    builds
    stop
done
# It does not mind that the store is shown read-only to everybody, as by gnu-store.mount.
mount --bind /gnu/store /gnu/store
mount -o remount,bind,ro /gnu/store

# To a user of its own.
. /work/give >/out || { cat /out; fail 'the commands fail'; }
grep -q "note   ./gnu/store' is shown read-only here" /out || { cat /out; exit 1; }
umount /gnu/store
. /work/give >/out || { cat /out; fail 'the commands fail'; }
grep -q ' 0 wrong' /out || { cat /out; fail 'the set-up is wrong'; }
grep -q "left as it is: ./var/guix/first', it has other names" /out || { cat /out; exit 1; }
grep -q 'right  the keys for signing' /out || { cat /out; exit 1; }
root_has /etc/guix /etc/guix/acl
[ -z "$(find /gnu/store ! -user guix-daemon)" ] || { ls -lR /gnu/store; exit 1; }
[ -z "$(find /var/guix/db ! -user guix-daemon)" ] || { ls -l /var/guix/db; exit 1; }
unchanged
serve runuser -u guix-daemon -- guix-daemon --no-offload
builds
as_alice guix-client gc --verify=contents
as_alice guix-client gc >/dev/null 2>&1
[ -e "$item" ] || fail 'a root was not heeded'
[ "$(stat -c %U /var/guix/profiles/per-user/alice)" = alice ]
# A link of root's that leads to one of somebody else's.
as_alice ln -s /precious /home/alice/log
ln -s /home/alice/log /log-of-alice
stop
export GUIX_LOG_DIRECTORY=/log-of-alice
refuses 'leads through a directory of alice' --change-owner=guix-daemon
unset GUIX_LOG_DIRECTORY
rm /log-of-alice /home/alice/log
serve runuser -u guix-daemon -- guix-daemon --no-offload
# A root that the daemon cannot read keeps nothing.
chmod 700 /home/alice
guix-client gc >/out 2>&1
grep -q 'cannot read potential root' /out || { cat /out; fail 'the unreadable root is not told of'; }
[ ! -e "$item" ] || fail 'the page is wrong: unreadable roots keep items'
chmod 711 /home/alice
rm /home/alice/kept
add_for_alice
guix-client gc >/dev/null 2>&1
[ -e "$item" ] || fail 'the page is wrong: permission to enter is not enough'
stop

# And back; where Guix's installer has given the directory around the store away, that is told.
chown guix-daemon /gnu
. /work/back >/out || { cat /out; fail 'the commands fail'; }
grep -q ' 0 wrong' /out || { cat /out; fail 'the set-up is wrong'; }
root_has /etc/guix /etc/guix/*
[ -z "$(find /gnu/store ! -user root)" ] || { ls -lR /gnu/store; exit 1; }
[ "$(stat -c '%a %G' /gnu/store)" = '1775 guixbuild' ]
grep -q "left as it is: ./gnu', which belongs to guix-daemon; chown root:root /gnu" /out || { cat /out; exit 1; }
chown root:root /gnu
unchanged
serve guix-daemon --build-users-group=guixbuild --no-offload
builds
guix-client gc --verify=contents
[ -e "$item" ] || fail "$item is not there"
[ "$(stat -c %U /var/guix/profiles/per-user/alice)" = alice ]
stop

# And there again, with links that root has made; those of others do not count.
mv /var/guix /var/moved
ln -s moved /var/guix
mkdir /theirs
ln -s /var/log/guix /theirs/log
chown -R --no-dereference guix-daemon /theirs
export GUIX_LOG_DIRECTORY=/theirs/log
refuses "\`/theirs' belongs to guix-daemon, who can move" --change-owner=guix-daemon
unset GUIX_LOG_DIRECTORY
. /work/give-again >/out || { cat /out; fail 'the commands fail'; }
[ -z "$(find /var/moved/db ! -user guix-daemon)" ] || { ls -l /var/moved/db; exit 1; }
serve runuser -u guix-daemon -- guix-daemon --no-offload
builds
guix-client gc --verify=contents
[ -e "$item" ] || fail "$item is not there"
unchanged
stop

# A new machine.
mkdir /old /old/var /old/log
mv /gnu /old
rm /var/guix
mv /var/moved /old/var/guix
mv /var/log/guix /old/log
. /work/new
runuser -u guix-daemon -- guix-daemon --check-setup >/out || { cat /out; fail 'the set-up is wrong'; }
serve runuser -u guix-daemon -- guix-daemon --no-offload
builds
stop
