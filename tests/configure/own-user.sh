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
    # The blocks of the page that give the installation away and take it back, but for systemd.
    awk '/^```/ { if (inside) { inside = 0; block++ } else inside = 1; next }
         inside { print > (work "/block" block + 0) }' work="$work" "$top/doc/src/own-user.md"
    set -- $(grep -l '^chown -R' "$work"/block* | sort -V)
    [ $# = 2 ] || fail "the page has $# blocks with chown -R, not two"
    sed '/^systemctl /d; /^rm /d' "$1" >"$work/give"
    sed '/^systemctl /d; /^rm /d' "$2" >"$work/back"
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
    "$@" >/log 2>&1 </dev/null &
    tries=0
    until guix-client processes >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || fail 'the daemon does not answer'
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
serve guix-daemon --build-users-group=guixbuild --no-offload
builds
add_for_alice
stop

# To a user of its own, by the commands for a new installation and for an old one.
. /work/new
. /work/give
runuser -u guix-daemon -- guix-daemon --check-setup >/out || { cat /out; fail 'the set-up is wrong'; }
serve runuser -u guix-daemon -- guix-daemon --no-offload
builds
as_alice guix-client gc --verify=contents
as_alice guix-client gc >/dev/null 2>&1
[ -e "$item" ] || fail 'a root was not heeded'
[ "$(stat -c %U /var/guix/profiles/per-user/alice)" = alice ]
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

# And back.
. /work/back
guix-daemon --build-users-group=guixbuild --check-setup >/out || { cat /out; fail 'the set-up is wrong'; }
serve guix-daemon --build-users-group=guixbuild --no-offload
builds
guix-client gc --verify=contents
[ -e "$item" ] && [ "$(stat -c %U "$item")" = root ] ||
    { echo "$item is not there, or not root's"; exit 1; }
[ "$(stat -c %U /var/guix/profiles/per-user/alice)" = alice ]
stop
