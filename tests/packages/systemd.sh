#!/bin/sh
# The daemon as a user of its own, under a real systemd, with the units that `make install' installs:
# builds, garbage collection, substitutes, offloading and repairs; a store that is shown read-only; stores
# that change hands by the manual's commands, while clients wait; and what is said when something of that
# is wrong.
#
# Usage: tests/packages/systemd.sh.  It takes some minutes, and is no part of `make check'.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
cd "$top"
skip() { echo "$*"; exit 77; }
for tool in busybox runuser ssh-keygen /usr/sbin/sshd; do
    command -v $tool >/dev/null || skip "$tool is missing"
done
"${CARGO:-cargo}" build --release --bin guix-demo
machine_units='systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket'
. "$top/tests/systemd-machine"
. "$top/tests/packages/on-machine"

journal() { within journalctl --no-pager -o cat -u "$1"; }
journal_has() { until_true "\`$2' in the journal of $1" logged "$1" "$2"; }
logged() { journal "$1" | grep -qF -- "$2"; }
main_pid() { within systemctl show -P MainPID guix-daemon-rs; }
runs_as() {
    # (The first client starts it.)
    client gc --list-dead >/dev/null 2>&1 || die 'the daemon does not answer'
    user=$(within stat -c %U "/proc/$(main_pid)")
    [ "$user" = "$1" ] || die "the daemon runs as $user, not $1"
}
# override NAME LINES: of the unit, as `systemctl edit' makes them; without lines, none.
override() {
    file=$root/etc/systemd/system/guix-daemon-rs.service.d/$1.conf
    mkdir -p "${file%/*}"
    if [ -n "${2-}" ]; then printf '[Service]\n%s\n' "$2" >"$file"; else rm "$file"; fi
    within systemctl daemon-reload
}
options() { override options "ExecStart=
ExecStart=/usr/local/bin/guix-daemon $1"; within systemctl restart guix-daemon-rs; }

new_root
echo alice:x:1000:1000::/home/alice:/bin/sh >>"$root/etc/passwd"
echo alice:x:1000: >>"$root/etc/group"
mkdir -p "$root/home/alice"
chown 1000:1000 "$root/home/alice"
boot
within systemctl start systemd-journald

say 'the profile for AppArmor, as far as its parser goes here'
profile=$root/usr/local/share/guix-daemon/apparmor/guix-daemon-rs
if [ -e /etc/apparmor.d/abi/4.0 ] && command -v apparmor_parser >/dev/null; then
    apparmor_parser --skip-kernel-load --skip-cache --stdout "$profile" >/dev/null
else
    echo 'SKIPPED: it takes apparmor_parser 4'
fi

say 'a new machine, by the manual'
manual setting-up.md 'With systemd'
right_setup
within guix-client archive --generate-key >/dev/null 2>&1
said 'built in' client build --hello
runs_as guix-daemon
hello=$(sed -n 's|^\(/gnu/store/[^ ]*-guix-client-hello\)$|\1|p' "$work/said")
[ "$(within stat -c %U "$hello")" = guix-daemon ]
capabilities=$(within sed -n 's/^CapEff:[[:blank:]]*//p' "/proc/$(main_pid)/status")
[ "$capabilities" = 0000000000000001 ] || die "the daemon has capabilities $capabilities"
said 'built in' within runuser -u alice -- guix-client build --hello
[ "$(within stat -c %U /var/guix/profiles/per-user/alice)" = alice ]

say 'the group kvm for builds'
checked() { within runuser -u guix-daemon -- guix-daemon --check-setup; }
kvm=$(sed -n 's/^kvm:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/group")
within sh -c 'grep "^Groups:.*\<$1\>" "/proc/$2/status"' sh "$kvm" "$(main_pid)" >/dev/null || die 'the daemon is not in kvm'
if within sh -c 'command -v newgidmap' >/dev/null; then
    said "sh -c 'echo guix-daemon:$kvm:1 >>/etc/subgid'" checked
    said "program \`newgidmap' failed" client build --hello
    block=$(sed -n '/^## What it needs/,/^## /p' doc/src/own-user.md | grep -n -e '^```$' -e '>>/etc/subgid' |
        sed '/subgid/q' | grep -c '```')
    manual own-user.md 'What it needs' $(((block + 1) / 2))
    said "right  builds can have the group \`kvm'" checked
    said 'built in' client build --hello
    if grep newgidmap "$work/said"; then die 'the group is still not mapped'; fi
else
    say 'SKIPPED: newgidmap is missing'
    said "no \`newgidmap'" checked
fi

say 'garbage collection and repairs'
add kept
within runuser -u alice -- guix-client build "$item" --root=/home/alice/kept >/dev/null
kept=$item
add dropped
client gc >/dev/null 2>&1
[ -e "$root$kept" ] && [ ! -e "$root$item" ] || die 'the wrong items were collected'
client gc --verify=contents >/dev/null 2>&1

say 'substitutes, of a server that the administrator has named; and repairs by them'
cp "${CARGO_TARGET_DIR:-target}/release/guix-demo" "$root/root/guix-demo"
server() { within env GUIX_CONFIGURATION_DIRECTORY=/root/server "$@"; }
server guix-client archive --generate-key >/dev/null 2>&1
within sh -c 'guix-client archive --authorize </root/server/signing-key.pub'
add 'from a server'
server /root/guix-demo publish /srv/substitutes /root/published "$item"
client gc --delete "$item" >/dev/null 2>&1
[ ! -e "$root$item" ]
within systemd-run --quiet --unit=server busybox httpd -f -p 127.0.0.1:8000 -h /srv/substitutes
options '--substitute-urls=http://127.0.0.1:8000'
said "$item" client build "$item"
[ "$(cat "$root$item")" = 'from a server' ] || die 'it was not substituted'
[ "$(within stat -c %U "$item")" = guix-daemon ]
within runuser -u guix-daemon -- chmod 644 "$item"
echo damaged >"$root$item"
chmod 444 "$root$item"
fails "$item" client gc --verify=contents
client gc --verify=repair,contents >"$work/said" 2>&1 || { cat "$work/said"; die 'no repair'; }
[ "$(cat "$root$item")" = 'from a server' ] || die 'it was not repaired'
client gc --verify=contents >/dev/null 2>&1

say 'offloading to a daemon that is another user of its own, on a store of its own'
worker=/srv/worker
for directory in gnu/store var/guix var/log/guix; do within install -d -o guix-daemon $worker/$directory; done
within install -d $worker/etc/guix /run/sshd /home/offload/.ssh
echo 'offload:*:1001:1001::/home/offload:/bin/sh' >>"$root/etc/passwd"
echo 'offload:x:1001:' >>"$root/etc/group"
echo 'sshd:x:1002:65534::/run/sshd:/bin/false' >>"$root/etc/passwd"
within install -d -o guix-daemon -m 700 /etc/guix/offload
within runuser -u guix-daemon -- ssh-keygen -q -t ed25519 -N '' -f /etc/guix/offload/id_ed25519
within ssh-keygen -q -t ed25519 -N '' -f /srv/host_key
cp "$root/etc/guix/offload/id_ed25519.pub" "$root/home/offload/.ssh/authorized_keys"
within chown -R 1001:1001 /home/offload
cat >"$root/srv/sshd_config" <<'CONFIG'
Port 2222
ListenAddress 127.0.0.1
HostKey /srv/host_key
UsePAM no
AllowStreamLocalForwarding yes
CONFIG
for unit in worker-daemon worker-sshd; do
    cat >"$root/etc/systemd/system/$unit.service" <<UNIT
[Service]
PrivateMounts=true
BindPaths=$worker/gnu/store:/gnu/store $worker/var/guix:/var/guix $worker/var/log/guix:/var/log/guix $worker/etc/guix:/etc/guix
UNIT
done
printf 'User=guix-daemon\nExecStart=/usr/local/bin/guix-daemon\n' >>"$root/etc/systemd/system/worker-daemon.service"
echo 'ExecStart=/usr/sbin/sshd -D -e -f /srv/sshd_config' >>"$root/etc/systemd/system/worker-sshd.service"
at_worker() { within env GUIX_CONFIGURATION_DIRECTORY=$worker/etc/guix "$@"; }
at_worker guix-client archive --generate-key >/dev/null 2>&1
within sh -c "guix-client archive --authorize <$worker/etc/guix/signing-key.pub"
at_worker sh -c 'guix-client archive --authorize </etc/guix/signing-key.pub'
cat >"$root/etc/guix/machines.scm" <<MACHINES
(list (build-machine
        (name "127.0.0.1") (port 2222) (user "offload")
        (systems (list "$(within /root/guix-demo system)"))
        (overload-threshold #f)
        (private-key "/etc/guix/offload/id_ed25519")
        (host-key "$(cut -d' ' -f1,2 "$root/srv/host_key.pub")")))
MACHINES
within systemctl daemon-reload
within systemctl start worker-daemon worker-sshd
until_true 'the SSH server' within sh -c 'busybox nc 127.0.0.1 2222 </dev/null | grep -q SSH'
until_true "the worker's daemon" test -S "$root$worker/var/guix/daemon-socket/socket"
within runuser -u guix-daemon -- guix-client offload test >"$work/said" 2>&1 || { cat "$work/said"; die 'the machine is not right'; }
options '--max-jobs=0 --no-substitutes'
said 'offloaded' client build --hello
output=$(sed -n 's|^\(/gnu/store/[^ ]*-guix-client-hello\)$|\1|p' "$work/said")
[ -e "$root$worker$output" ] || die "$output was not built by the worker"
[ "$(within stat -c %U "$output")" = guix-daemon ]
within systemctl stop worker-daemon worker-sshd
rm "$root/etc/guix/machines.scm" "$root/etc/systemd/system"/worker-*
options --no-substitutes

say 'a store that is shown read-only, and in use'
cat >"$root/etc/systemd/system/gnu-store.mount" <<'UNIT'
[Mount]
What=/gnu/store
Where=/gnu/store
Type=none
Options=bind,ro
UNIT
within systemctl daemon-reload
within systemctl start gnu-store.mount
fails 'Read-only file system' within touch /gnu/store/file
said 'built in' client build --hello
within sh -c 'exec sleep 1000 <"$1" >/dev/null 2>&1 &' sh "$kept"
within systemctl restart guix-daemon-rs
said 'built in' client build --hello
within systemctl stop guix-daemon-rs 2>/dev/null
until_true 'the view of the store to go' within sh -c '! findmnt -n /run/guix-daemon-rs/store >/dev/null'
said 'built in' client build --hello
[ "$(within systemctl is-active gnu-store.mount)" = active ]
rm "$root/etc/systemd/system/gnu-store.mount"
within systemctl daemon-reload
within umount --lazy /gnu/store

say 'restarts, while clients connect ten times a second: none is refused'
restart_thrice() { for _ in 1 2 3; do within systemctl restart guix-daemon-rs; client gc --list-dead >/dev/null 2>&1; done; }
served "$kept" 0 restart_thrice

say 'back to root and its build users, and again, by the manual'
manual own-user.md 'Build users instead' 1
right_setup
runs_as root
said 'built in' client build --hello
client gc --verify=contents >/dev/null 2>&1
[ "$(within stat -c '%U %G %a' /gnu/store)" = 'root guixbuild 1775' ]
manual own-user.md 'Build users instead' 2
runs_as guix-daemon
said 'built in' client build --hello
client gc --verify=contents >/dev/null 2>&1
[ -e "$root$kept" ]

say "a store that is root's, under a daemon that is not"
within systemctl stop guix-daemon-rs.socket guix-daemon-rs
within guix-daemon --change-owner=root >/dev/null
owners() { find "$root/gnu" "$root/var/guix" ! -name '*-shm' ! -name '*-wal' -printf '%P %u %g %m\n' | sort; }
owners >"$work/owners"
within systemctl start guix-daemon-rs.socket
fails 'Permission denied' client build --hello
journal_has guix-daemon-rs "warning: the store \`/gnu/store' belongs to root, and this daemon is guix-daemon"
fails "WRONG  the store \`/gnu/store' belongs to root, not to guix-daemon" \
    within runuser -u guix-daemon -- guix-daemon --check-setup
fails 'systemd does for it; stop it first: systemctl stop' within guix-daemon --change-owner=guix-daemon
within systemctl stop guix-daemon-rs.socket guix-daemon-rs
owners | diff "$work/owners" - || die 'it was changed'
manual own-user.md 'A store that exists'
said 'built in' client build --hello
runs_as guix-daemon

say 'what the administrator has overridden'
options --build-users-group=guixbuild
said 'built in' client build --hello
journal_has guix-daemon-rs "warning: only root can build as members of \`guixbuild'; builds run as guix-daemon"
override options
override user 'User=nobody-here'
within systemctl stop guix-daemon-rs 2>/dev/null
if within systemctl start guix-daemon-rs 2>/dev/null; then die 'it started as a user who does not exist'; fi
user_is_missing() { [ "$(within systemctl show -P ExecMainStatus guix-daemon-rs)" = 217 ]; }
until_true 'systemd to miss the user' user_is_missing
override user
within systemctl stop guix-daemon-rs.service
within systemctl reset-failed guix-daemon-rs.service guix-daemon-rs.socket
within systemctl restart guix-daemon-rs.socket
said 'built in' client build --hello

say "Guix's daemon, still running"
mkdir -p "$root/opt/guix/bin"
cp "$installed/bin/guix-daemon" "$root/opt/guix/bin"
cat >"$root/etc/systemd/system/guix-daemon.service" <<'UNIT'
[Service]
ExecStart=/opt/guix/bin/guix-daemon --build-users-group=guixbuild
UNIT
within systemctl daemon-reload
within systemctl stop guix-daemon-rs.socket guix-daemon-rs
owners >"$work/owners"
within /opt/guix/bin/guix-daemon --change-owner=root >/dev/null
within systemctl start guix-daemon
until_true "Guix's daemon" client gc --list-roots >/dev/null
fails 'stop it first' within guix-daemon --change-owner=guix-daemon
[ "$(within stat -c %U /gnu/store)" = root ]
within systemctl stop guix-daemon
within guix-daemon --change-owner=guix-daemon >/dev/null
within systemctl start guix-daemon-rs.socket
said 'built in' client build --hello
client gc --verify=contents >/dev/null 2>&1
if grep -i 'cycle' "$work/console"; then die 'units that wait for each other'; fi
echo 'all of it works'
