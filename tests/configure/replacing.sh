#!/bin/sh
# The manual's commands for replacing Guix's daemon and for going back, given to a real systemd, with
# Guix's unit where its installation script puts it and where distributions do; and our own units.
#
# systemd runs as the first process of namespaces of its own, in a root made of this machine's /usr,
# what `make install' installs, and a program in the place of Guix's daemon.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
cd "$top"
skip() { echo "$*"; exit 77; }
. "$top/tests/systemd-machine"

ours=/usr/local/bin/guix-daemon
guix=/var/guix/profiles/per-user/root/current-guix/bin

# add_guix DIRECTORY: Guix's daemon, played by a copy of ours, with its unit in DIRECTORY.
add_guix() {
    mkdir -p "$root$guix" "$root/gnu/store"
    echo guixbuilder01:x:30001:30000::/var/empty:/bin/false >>"$root/etc/passwd"
    echo guixbuild:x:30000:guixbuilder01 >>"$root/etc/group"
    cp "$work/installed$ours" "$root$guix/guix-daemon"
    printf '#!/bin/sh\nexit 1\n' >"$root$guix/guix"
    chmod +x "$root$guix/guix"
    cat >"$1/guix-daemon.service" <<UNIT
[Unit]
Description=Build daemon for GNU Guix

[Service]
ExecStart=$guix/guix-daemon --build-users-group=guixbuild --discover=no
Environment=LC_ALL=C.UTF-8
Restart=always
TasksMax=8192

[Install]
WantedBy=multi-user.target
UNIT
}

# manual PAGE SECTION: runs the section's commands, as they stand, on the machine.
manual() {
    awk -v wanted="## $2" '/^## / { inside = $0 == wanted }
        inside && /^```/ { block = !block; next } inside && block' "doc/src/$1" >"$root/tmp/commands"
    [ -s "$root/tmp/commands" ] || die "$1: no commands in ${2}"
    within sh -eu /tmp/commands >"$work/said" 2>&1 || { cat "$work/said"; die "$1, $2: it failed"; }
}
# serves SERVICE PROGRAM: a client is answered, by this program, as that service; nobody else runs.
serves() {
    # systemd does not wait until it listens.
    until_true "$1 to serve a client" add "$1 $2"
    [ -f "$root$item" ] || die "$1: no $item"
    main=$(within systemctl show -P MainPID "$1")
    program=$(within readlink "/proc/$main/exe") || die "$1 does not run"
    [ "$program" = "$2" ] || die "$1 runs $program, not $2"
    [ "$(within systemctl list-units --plain --no-legend --state=active guix-daemon.service guix-daemon-rs.service | wc -l)" = 1 ] ||
        die 'two daemons run'
}
add() { item=$(echo "$1" | within timeout 60 guix-client add-text text); }
is_valid() { within guix-client gc --references "$1" >/dev/null || die "$1 is not valid"; }

# there_and_back FILE: goes to our daemon and back, and the unit stays as it was.
there_and_back() {
    unit=$1
    cp "$unit" "$work/unit"
    # `systemctl --root' sees no mounts.
    mkdir -p "$root/usr/lib/systemd/system"
    cp "$work/units"/* "$root/usr/lib/systemd/system"
    systemctl -q --root="$root" enable guix-daemon.service
    boot
    serves guix-daemon $guix/guix-daemon
    first=$item
    manual replacing.md Switching
    grep -q ' 0 wrong' "$work/said" || { cat "$work/said"; die 'the check of the set-up finds something wrong'; }
    serves guix-daemon $ours
    is_valid "$first"
    second=$item
    manual replacing.md 'Going back'
    serves guix-daemon $guix/guix-daemon
    is_valid "$second"
    cmp "$unit" "$work/unit" || die 'the unit is not as it was'
    [ "$(within systemctl is-enabled guix-daemon)" = enabled ] || die 'the unit is no longer enabled'
    [ -z "$(within systemctl show -P DropInPaths guix-daemon)" ] || die 'a drop-in is left'

    # Our own units conflict with it, and do not hide it.
    within install -D -m 644 /usr/local/share/guix-daemon/build-users.conf \
        /etc/systemd/system/guix-daemon-rs.service.d/build-users.conf
    within systemctl daemon-reload
    within systemctl start guix-daemon-rs.socket
    until_true "Guix's daemon to stop" sh -c '! "$@"' sh nsenter --target "$systemd" --mount --pid -- \
        systemctl -q is-active guix-daemon
    serves guix-daemon-rs $ours
    is_valid "$first"
    within systemctl start guix-daemon
    serves guix-daemon $guix/guix-daemon
    [ "$(within systemctl is-active guix-daemon-rs.socket)" = inactive ] || die 'our socket is still active'
    cmp "$unit" "$work/unit" || die 'the unit is not as it was'
    stop_machine
}

# Where Guix's installation script puts it.
new_root
add_guix "$root/etc/systemd/system"
there_and_back "$root/etc/systemd/system/guix-daemon.service"

# Where distributions put it.
new_root
add_guix "$work/units"
there_and_back "$work/units/guix-daemon.service"
rm "$work/units/guix-daemon.service"

# A machine without Guix, set up by the manual; after a reboot, too.
new_root
boot
manual setting-up.md 'With systemd'
grep -q ' 0 wrong' "$work/said" || { cat "$work/said"; die 'the check of the set-up finds something wrong'; }
serves guix-daemon-rs $ours
stop_machine
boot
serves guix-daemon-rs $ours
if grep -i 'cycle' "$work/console"; then die 'units that wait for each other'; fi
within systemctl enable guix-daemon-rs.service
stop_machine
boot
serves guix-daemon-rs $ours
if grep -i 'cycle' "$work/console"; then die 'units that wait for each other'; fi
