#!/bin/sh
# guix-daemon --check-setup: finds nothing wrong with what a daemon made, names exactly what is broken
# afterwards, and never changes anything.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d)
daemon=
finish() {
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; fi
    chmod -R u+w "$work"; rm -rf "$work"
}
trap finish EXIT
chmod 755 "$work"
export NIX_STORE_DIR=$work/store GUIX_STATE_DIRECTORY=$work/var/guix \
    GUIX_DATABASE_DIRECTORY=$work/var/guix/db GUIX_LOG_DIRECTORY=$work/log \
    GUIX_CONFIGURATION_DIRECTORY=$work/etc
unset GUIX_DAEMON_SOCKET || true
mkdir -p "$work/store" "$GUIX_STATE_DIRECTORY" "$GUIX_LOG_DIRECTORY" "$work/etc"
env=$top/pre-inst-env

# What a daemon and a client make of empty directories.
"$env" guix-daemon >"$work/daemon.log" 2>&1 &
daemon=$!
tries=0
until [ -S "$GUIX_STATE_DIRECTORY/daemon-socket/socket" ]; do
    tries=$((tries + 1)); [ $tries -lt 100 ] || { cat "$work/daemon.log"; exit 1; }
    sleep 0.05
done
item=$(echo text | "$env" guix-client add-text text)
[ -f "$item" ]
"$env" guix-client archive --generate-key >/dev/null
"$env" guix-client archive --authorize <"$work/etc/signing-key.pub"
kill "$daemon"; wait "$daemon" 2>/dev/null || true; daemon=

# (SQLite notes in db.sqlite-shm who is reading just now; that is no part of the database.)
state() { find "$work/store" "$work/var" "$work/etc" "$work/log" ! -name '*-shm' -printf '%p %i %m %s %T@\n' | sort; }
# look STATUS WORDS: what it says includes WORDS.
look() {
    state >"$work/before"
    status=0
    "$env" guix-daemon --check-setup >"$work/said" 2>&1 || status=$?
    [ $status = "$1" ] && grep -qF -- "$2" "$work/said" ||
        { echo "status $status, not $1 with \`$2'"; cat "$work/said"; exit 1; }
    state | diff "$work/before" - || { echo 'it changed something'; exit 1; }
}
look 0 ' 0 wrong'
grep -q 'right  the only valid item is in the store' "$work/said"
grep -q 'right  the keys for signing' "$work/said"
grep -q 'right  the ACL accepts 1 key: ' "$work/said"
# That is its own.
grep -q 'no substitute server is asked: no key is authorised but' "$work/said"
grep -q 'no substitute server is asked before' "$work/daemon.log"

chmod 644 "$work/etc/signing-key.sec"; look 1 'chmod 400'; chmod 400 "$work/etc/signing-key.sec"
chmod 666 "$work/etc/acl"; look 1 "others can change whose signatures"; chmod 644 "$work/etc/acl"
chmod 777 "$work/var/guix"; look 1 "chmod o-w $work/var/guix"; chmod 755 "$work/var/guix"
echo '(list (build-machine (name "a") (systems (list "x86_64-linux")) (user "u")))' \
    >"$work/etc/machines.scm"
look 1 'missing field initializer'; rm "$work/etc/machines.scm"
echo 8 >"$work/schema"; mv "$GUIX_DATABASE_DIRECTORY/schema" "$work/schema.7"
cp "$work/schema" "$GUIX_DATABASE_DIRECTORY/schema"
look 1 'schema is version 8, but I only support 7'
mv "$work/schema.7" "$GUIX_DATABASE_DIRECTORY/schema"
mv "$item" "$work/item"; look 1 '1 of 1 valid items are not in the store'; mv "$work/item" "$item"
NIX_BUILD_HOOK=/nonexistent/hook; export NIX_BUILD_HOOK
look 0 'no usable build hook'; unset NIX_BUILD_HOOK
status=0
"$env" guix-daemon --check-setup --build-users-group=no-such-group >"$work/said" 2>&1 || status=$?
[ $status = 1 ]
grep -q 'groupadd --system no-such-group' "$work/said"
look 0 ' 0 wrong'

# Advice names no program that is not there.
program=$("$env" sh -c 'command -v guix-daemon')
mkdir "$work/programs"
PATH=$work/programs "$program" --check-setup >"$work/said" 2>&1
grep -q -- '-> install the package slirp4netns' "$work/said" || { cat "$work/said"; exit 1; }
if grep -q 'apt-get\|sudo' "$work/said"; then cat "$work/said"; exit 1; fi
for name in apt-get sudo; do ln -s /bin/true "$work/programs/$name"; done
PATH=$work/programs "$program" --check-setup >"$work/said" 2>&1
grep -q -- '-> apt-get install slirp4netns' "$work/said" || { cat "$work/said"; exit 1; }

# Nor a file that is not there.
without_guix() { GUIX=$work/no-guix PATH=$work/programs "$program" --check-setup "$@" >"$work/said" 2>&1; }
if without_guix --fetcher=guix; then cat "$work/said"; exit 1; fi
grep -q "WRONG  cannot use .$work/no-guix' (GUIX): No such file or directory; there are no substitutes" "$work/said" ||
    { cat "$work/said"; exit 1; }
if grep -q -e '-> GUIX=' "$work/said" && [ ! -x /run/current-system/profile/bin/guix ]; then cat "$work/said"; exit 1; fi
guix=$GUIX_STATE_DIRECTORY/profiles/per-user/root/current-guix/bin/guix
mkdir -p "${guix%/*}"
ln -s /bin/true "$guix"
if without_guix --fetcher=guix; then cat "$work/said"; exit 1; fi
grep -qF -- "-> GUIX=$guix" "$work/said" || { cat "$work/said"; exit 1; }
# guix-fetch needs none.
GUIX_FETCH=${program%/*}/guix-fetch without_guix --fetcher=guix-fetch
grep -q "right .*/guix-fetch', for substitutes and downloads" "$work/said" || { cat "$work/said"; exit 1; }
if grep -q no-guix "$work/said"; then cat "$work/said"; exit 1; fi
rm -r "$GUIX_STATE_DIRECTORY/profiles/per-user/root"
# What was chosen and is not there is named, and not what would be used otherwise.
export GUIX_FETCH=$work/no-fetch
look 1 "WRONG  cannot use \`$work/no-fetch' (GUIX_FETCH): No such file or directory"
unset GUIX_FETCH

# Keys that root has made, and the daemon may not read: they are given to it, not removed.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    cp "$program" "$work/guix-daemon"
    mkdir "$work/own" "$work/own/store" "$work/own/var" "$work/own/log" "$work/own/etc"
    cp "$work/etc/signing-key.sec" "$work/etc/signing-key.pub" "$work/etc/acl" "$work/own/etc"
    chmod 400 "$work/own/etc/signing-key.sec"
    chown 1000:1000 "$work/own/store" "$work/own/var" "$work/own/log"
    # by USER WORDS: run by that user, it says WORDS, and nothing of removing.
    by() {
        NIX_STORE_DIR=$work/own/store GUIX_STATE_DIRECTORY=$work/own/var GUIX_LOG_DIRECTORY=$work/own/log \
            GUIX_DATABASE_DIRECTORY=$work/own/var/db GUIX_CONFIGURATION_DIRECTORY=$work/own/etc \
            setpriv --reuid "$1" --regid "$1" --clear-groups "$work/guix-daemon" --check-setup \
            --disable-chroot >"$work/said" 2>&1 || true
        grep -qF -- "$2" "$work/said" || { echo "it doesn't say \`$2'"; cat "$work/said"; exit 1; }
        if grep -e '-> .*\(rm\|mv\) ' "$work/said"; then exit 1; fi
    }
    by 1000 "may not read the key \`$work/own/etc/signing-key.sec'"
    grep -q -- "-> .*chown [^ ]* $work/own/etc/signing-key.sec" "$work/said" || { cat "$work/said"; exit 1; }
    by 1001 "whether the key \`$work/own/etc/signing-key.sec' is right is unknown"
    chown 1000 "$work/own/etc/signing-key.sec" "$work/own/etc/signing-key.pub"
    by 1000 'right  the keys for signing'
    chmod 600 "$work/own/etc/acl"
    by 1000 'may not read whose signatures are accepted'
    chmod 700 "$work/own/etc"
    by 1000 "cannot look into \`$work/own/etc'"
    # Root need not know as whom that daemon runs; with build users, it is root's.
    chmod 755 "$work/own/etc"
    chmod 644 "$work/own/etc/acl"
    chown daemon "$work/own/etc/signing-key.sec" "$work/own/etc/signing-key.pub"
    chown daemon:daemon "$work/own/store" "$work/own/var" "$work/own/log"
    by 0 "The store \`$work/own/store' belongs to daemon: this is checked as that user."
    grep -q "right  the store" "$work/said" && grep -q ' 0 wrong' "$work/said" || { cat "$work/said"; exit 1; }
    chown -R root:root "$work/own/var" "$work/own/log"
    by 0 "WRONG  the state directory \`$work/own/var' belongs to root, not to daemon"
    grep -q -- '-> .*guix-daemon --change-owner=daemon' "$work/said" || { cat "$work/said"; exit 1; }
else
    echo 'SKIPPED: keys of another user (needs root and setpriv)'
fi

# A damaged database, and what is said to do about it.
if command -v sqlite3 >/dev/null; then
    database=$GUIX_DATABASE_DIRECTORY/db.sqlite
    page=$(sqlite3 "$database" "select rootpage - 1 from sqlite_master where name = 'IndexReferrer'")
    size=$(sqlite3 "$database" 'pragma page_size')
    dd if=/dev/urandom of="$database" bs="$size" seek="$page" count=1 conv=notrunc 2>/dev/null
    look 1 'the database is damaged'
    (cd "$work" && sed -n 's/^ *-> \(sqlite3 .*recovered.*\)/\1/p' said >remedy && sh -e remedy)
    mv "$work/recovered.sqlite" "$database"
    look 0 ' 0 wrong'
    grep -q 'right  the only valid item is in the store' "$work/said"
else
    echo 'SKIPPED: the remedy for a damaged database (needs sqlite3)'
fi

# Where no build can start, that is said, and what is said to help does.
hidden=
for directory in /proc/acpi /proc/scsi /proc/driver /proc/fs; do
    if [ -d "$directory" ]; then hidden=$directory; break; fi
done
if [ "$(id -u)" = 0 ] && [ -n "$hidden" ] && command -v setpriv >/dev/null && unshare -m true 2>/dev/null; then
    cp "$program" "$work/guix-daemon"
    other=$work/other
    mkdir "$other" "$other/store" "$other/var" "$other/log" "$other/etc"
    chown -R 1000:1000 "$other"
    # masked COMMANDS OPTIONS...: as user 1000, with a /proc as in a container, after COMMANDS.
    masked() {
        commands=$1; shift
        NIX_STORE_DIR=$other/store GUIX_STATE_DIRECTORY=$other/var GUIX_DATABASE_DIRECTORY=$other/var/db \
            GUIX_LOG_DIRECTORY=$other/log GUIX_CONFIGURATION_DIRECTORY=$other/etc \
            unshare -m sh -ec "
                mount -t tmpfs -o ro none $hidden
                mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys
                $commands
                exec setpriv --reuid 1000 --regid 1000 --clear-groups $work/guix-daemon --check-setup \"\$@\"" \
            sh "$@" >"$work/said" 2>&1
    }
    expect() { grep -q -- "$1" "$work/said" || { echo "it doesn't say \`$1'"; cat "$work/said"; exit 1; }; }
    status=0
    masked : || status=$?
    [ $status = 1 ]
    expect 'WRONG  no build can start: .*in phase mountProc'
    expect "$hidden, /proc/sys"
    expect '--disable-chroot'
    masked "umount $hidden /proc/sys"
    expect 'right  a build can start'
    expect ' 0 wrong'
    masked : --disable-chroot
    expect ' 0 wrong'
    [ -z "$(find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'guix-build-check-setup*')" ]
else
    echo 'SKIPPED: a masked /proc (needs root, setpriv, and mounts)'
fi
