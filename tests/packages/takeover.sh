#!/bin/sh
# Taking over from Guix's own daemon, and going back, under a real systemd and with a store in use: Guix's
# daemon as root, with build users, and as a user of its own; by the manual's commands; while clients
# connect ten times a second.  Both find what the other has built.
#
# Usage: GUIX_REFERENCE_DAEMON=PROGRAM GUIX_REFERENCE_GUIX=PROGRAM tests/packages/takeover.sh
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
cd "$top"
skip() { echo "$*"; exit 77; }
theirs=${GUIX_REFERENCE_DAEMON-} guix=${GUIX_REFERENCE_GUIX-}
[ -n "$theirs" ] && [ -n "$guix" ] ||
    skip "needs Guix's own programs: GUIX_REFERENCE_DAEMON and GUIX_REFERENCE_GUIX"
[ -x "$theirs" ] && [ -x "$guix" ] || skip "$theirs or $guix is not a program"
# Where they are, the machine has them, too.
for program in "$theirs" "$guix"; do
    above=/$(echo "$program" | cut -d/ -f2)
    case $above in
        /usr | /bin) ;;
        *) case " ${machine_mounts-} " in *" $above "*) ;; *) machine_mounts="${machine_mounts-} $above" ;; esac ;;
    esac
done
"${CARGO:-cargo}" build --release --bin guix-demo
. "$top/tests/systemd-machine"
. "$top/tests/packages/on-machine"
ours=/usr/local/bin/guix-daemon

# runs UNIT PROGRAM: that is what answers.
runs() {
    client gc --list-dead >"$work/said" 2>&1 || { cat "$work/said"; die "$1 does not answer"; }
    program=$(within readlink "/proc/$(within systemctl show -P MainPID "$1")/exe") || die "$1 does not run"
    [ "$program" = "$2" ] || die "$1 runs $program, not $2"
}
# works: builds, and collects what nobody needs; what was kept stays.
works() {
    said 'successfully built' client build --hello
    add dropped
    client gc >"$work/said" 2>&1 || { cat "$work/said"; die 'it does not collect garbage'; }
    [ ! -e "$root$item" ] && [ -e "$root$kept" ] || die 'the wrong items were collected'
    client gc --verify=contents >"$work/said" 2>&1 || { cat "$work/said"; die 'something is damaged'; }
}

new_root
{ echo alice:x:1000:1000::/home/alice:/bin/sh; } >>"$root/etc/passwd"
echo alice:x:1000: >>"$root/etc/group"
mkdir -p "$root/home/alice" "$root/gnu/store" "$root/var/guix/profiles/per-user/root/current-guix/bin"
chown 1000:1000 "$root/home/alice"
# What the manual's drop-in names.
ln -s "$guix" "$root/var/guix/profiles/per-user/root/current-guix/bin/guix"
units=$root/etc/systemd/system
cat >"$units/guix-daemon.socket" <<'UNIT'
[Socket]
ListenStream=/var/guix/daemon-socket/socket

[Install]
WantedBy=sockets.target
UNIT
cat >"$units/guix-daemon.service" <<UNIT
[Service]
ExecStart=$theirs --build-users-group=guixbuild --no-substitutes
Environment=GUIX=$guix LC_ALL=C.UTF-8
UNIT
boot
within systemd-sysusers guix-daemon-rs.conf >/dev/null 2>&1
within systemctl start guix-daemon.socket

say "Guix's daemon, as root"
add kept
kept=$item
runs guix-daemon "$theirs"
within runuser -u alice -- guix-client build "$kept" --root=/home/alice/kept >/dev/null
works
say 'our program fetches for it, by the manual'
cp "${CARGO_TARGET_DIR:-target}/release/guix-demo" "$root/root/guix-demo"
server() { within env GUIX_CONFIGURATION_DIRECTORY=/root/server "$@"; }
server guix-client archive --generate-key >/dev/null 2>&1
within sh -c 'guix-client archive --authorize </root/server/signing-key.pub' >/dev/null
add 'from a server'
server /root/guix-demo publish /srv/substitutes /root/published "$item"
client gc --delete "$item" >"$work/said" 2>&1
[ ! -e "$root$item" ]
within systemd-run --quiet --unit=server busybox httpd -f -p 127.0.0.1:8000 -h /srv/substitutes
mkdir "$units/guix-daemon.service.d"
cat >"$units/guix-daemon.service.d/server.conf" <<UNIT
[Service]
ExecStart=
ExecStart=$theirs --build-users-group=guixbuild --substitute-urls=http://127.0.0.1:8000
UNIT
manual guixs-daemon.md Switching
# Nothing of Guix's fetches.
rm "$root/var/guix/profiles/per-user/root/current-guix/bin/guix"
ln -s /bin/false "$root/var/guix/profiles/per-user/root/current-guix/bin/guix"
said "$item" client build "$item"
[ "$(cat "$root$item")" = 'from a server' ] || die 'it was not substituted'
# The rest is Guix's to do.
ln -sf "$guix" "$root/var/guix/profiles/per-user/root/current-guix/bin/guix"
runs guix-daemon "$theirs"
works
rm "$units/guix-daemon.service.d/server.conf"
manual guixs-daemon.md 'Going back'
within systemctl stop server
[ -z "$(ls "$units/guix-daemon.service.d")" ] && [ ! -e "$installed/libexec/guix/guix-for-daemon" ] || die 'something is left'
runs guix-daemon "$theirs"
works
say 'ours in its unit, by the manual'
served "$kept" 0 manual replacing.md Switching
runs guix-daemon $ours
works
say "Guix's again, by the manual"
served "$kept" 0 manual replacing.md 'Going back'
runs guix-daemon "$theirs"
works

say "Guix's daemon, as a user of its own"
within systemctl stop guix-daemon.socket guix-daemon.service
within guix-daemon --change-owner=guix-daemon
cat >"$units/guix-daemon.service" <<UNIT
[Service]
User=guix-daemon
ExecStart=$theirs --no-substitutes
AmbientCapabilities=CAP_CHOWN
PrivateMounts=true
MountFlags=private
BindPaths=/gnu/store
Type=exec
Environment=GUIX=$guix LC_ALL=C.UTF-8
UNIT
within systemctl daemon-reload
within systemctl start guix-daemon.socket
runs guix-daemon "$theirs"
works
say 'ours, in our units'
# From one socket to the other: there is a moment without.
to_ours() { within systemctl start guix-daemon-rs.socket; }
served "$kept" 50 to_ours
runs guix-daemon-rs $ours
[ "$(within systemctl is-active guix-daemon.socket)" != active ]
works
say "Guix's again"
back() { within systemctl start guix-daemon.socket; }
served "$kept" 50 back
runs guix-daemon "$theirs"
[ "$(within systemctl is-active guix-daemon-rs.socket)" != active ]
works
if grep -i 'cycle' "$work/console"; then die 'units that wait for each other'; fi
echo 'both ways, twice'
