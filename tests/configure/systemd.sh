#!/bin/sh
# The systemd units are right by systemd's own judgment, and a daemon started by a socket serves
# the client that woke it.
set -eu
not() { if "$@"; then echo "should have failed: $*"; exit 1; fi; }
top=$(cd "$(dirname "$0")/../.." && pwd -P)
cd "$top"
command -v systemd-analyze >/dev/null && command -v systemd-socket-activate >/dev/null ||
    { echo 'systemd is not installed'; exit 77; }
work=$(mktemp -d)
activator=
finish() {
    if [ -n "$activator" ]; then kill "$activator" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT
make -s install prefix="$work/p" >/dev/null
units=$work/p/lib/systemd/system

# It may know of no running system here, but it reads the units.
systemd-analyze verify --man=no "$units"/guix-daemon-rs* \
    >"$work/verify" 2>&1 || { cat "$work/verify"; exit 1; }
not grep guix-daemon "$work/verify"
# With root as its user, too.
mkdir "$units/guix-daemon-rs.service.d"
cp "$work/p/share/guix-daemon/build-users.conf" "$units/guix-daemon-rs.service.d"
systemd-analyze verify --man=no "$units"/guix-daemon-rs*.service >"$work/verify" 2>&1 || { cat "$work/verify"; exit 1; }
not grep guix-daemon "$work/verify"

# The profile that allows user namespaces is one, for the program that was installed.
profile=$work/p/share/guix-daemon/apparmor/guix-daemon-rs
grep -q "^profile guix-daemon-rs $work/p/bin/guix-daemon " "$profile"

# What ExecStart says, woken by the socket that ListenStream would name.
export NIX_STORE_DIR=$work/store GUIX_STATE_DIRECTORY=$work/var/guix \
    GUIX_DATABASE_DIRECTORY=$work/var/guix/db GUIX_LOG_DIRECTORY=$work/var/log/guix \
    GUIX_CONFIGURATION_DIRECTORY=$work/etc/guix
mkdir -p "$work/store" "$GUIX_STATE_DIRECTORY" "$GUIX_LOG_DIRECTORY" "$GUIX_CONFIGURATION_DIRECTORY"
socket=$work/socket
env="-E NIX_STORE_DIR -E GUIX_STATE_DIRECTORY -E GUIX_DATABASE_DIRECTORY -E GUIX_LOG_DIRECTORY
     -E GUIX_CONFIGURATION_DIRECTORY"
systemd-socket-activate $env -l "$socket" "$work/p/bin/guix-daemon" >"$work/log" 2>&1 &
activator=$!
tries=0
until [ -S "$socket" ]; do
    tries=$((tries + 1)); [ $tries -lt 100 ] || { cat "$work/log"; exit 1; }
    sleep 0.05
done
echo 'through a socket' >"$work/file"
export GUIX_DAEMON_SOCKET=$socket
item=$(timeout 20 "$work/p/bin/guix-client" gc --list-dead) || { cat "$work/log"; exit 1; }
grep -q 'socket-activated with 1 socket' "$work/log" || { cat "$work/log"; exit 1; }
# --listen would have made this one.
[ ! -e "$GUIX_STATE_DIRECTORY/daemon-socket/socket" ]
