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
[ "$(id -u)" = 0 ] || skip 'needs root'
[ -x /usr/lib/systemd/systemd ] || skip 'systemd is not installed'
command -v nsenter >/dev/null && command -v pivot_root >/dev/null || skip 'needs nsenter and pivot_root'
groups=$(findmnt -n -l -t cgroup2 -o TARGET | head -n 1)
[ -n "$groups" ] || skip 'there are no control groups, version 2'
groups=$groups$(sed -n 's/^0:://p' /proc/self/cgroup)
group=${groups%/}/guix-test-$$
mkdir "$group" 2>/dev/null || skip 'cannot make a control group'

work=$(mktemp -d)
root=$work/root
machine= systemd=
stop_machine() {
    [ -n "$machine" ] || return 0
    kill -KILL "$machine" 2>/dev/null || true
    wait "$machine" 2>/dev/null || true
    machine=
    # The processes of the machine end with its first one; then its control groups can be removed.
    tries=0
    until find "$group" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null; do
        tries=$((tries + 1)); [ $tries -lt 200 ] || break
        sleep 0.05
    done
}
finish() {
    status=$?
    stop_machine
    rmdir "$group" || status=1
    rm -rf "$work" || status=1
    exit "$status"
}
trap finish EXIT
chmod 755 "$work"

make -s install DESTDIR="$work/installed" prefix=/usr/local >/dev/null
ours=/usr/local/bin/guix-daemon
guix=/var/guix/profiles/per-user/root/current-guix/bin

# Only what every machine needs of systemd's own units.
mkdir "$work/units"
cp /usr/lib/systemd/system/*.target "$work/units"

# new_root: as of a new machine, without Guix.
new_root() {
    rm -rf "$root"
    mkdir "$root"
    for name in usr bin sbin lib lib32 lib64 libx32; do
        if [ -L "/$name" ]; then cp -P "/$name" "$root"; elif [ -d "/$name" ]; then mkdir "$root/$name"; fi
    done
    (cd "$root"; mkdir -p etc/systemd/system proc sys dev run tmp var/empty root gnu/store .old; chmod 1777 tmp)
    for file in ld.so.cache ld.so.conf; do if [ -e "/etc/$file" ]; then cp "/etc/$file" "$root/etc"; fi; done
    : >"$root/etc/machine-id"
    { echo root:x:0:0::/root:/bin/sh; echo guixbuilder01:x:30001:30000::/var/empty:/bin/false; } >"$root/etc/passwd"
    { echo root:x:0:; echo guixbuild:x:30000:guixbuilder01; } >"$root/etc/group"
}

# add_guix DIRECTORY: Guix's daemon, played by a copy of ours, with its unit in DIRECTORY.
add_guix() {
    mkdir -p "$root$guix"
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

# boot: starts systemd on the root.
boot() {
    rm -f "$work/console"
    sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$group" \
        unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child sh -euc '
            cd "$1"; root=$1/root
            mount --make-rprivate /
            mount --bind "$root" "$root"
            for name in usr bin sbin lib lib32 lib64 libx32; do
                if [ -d "/$name" ] && [ ! -L "/$name" ]; then mount --rbind "/$name" "$root/$name"; fi
            done
            mount --rbind units "$root/usr/lib/systemd/system"
            mount --rbind installed/usr/local "$root/usr/local"
            mount -t proc proc "$root/proc"
            mount -t sysfs sysfs "$root/sys"
            mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
            mount -t tmpfs tmpfs "$root/run"
            mount -t tmpfs tmpfs "$root/dev"
            for name in null zero full random urandom tty; do
                : >"$root/dev/$name"
                mount --bind "/dev/$name" "$root/dev/$name"
            done
            mkdir "$root/dev/shm" "$root/dev/pts"
            cd "$root"
            pivot_root . .old
            cd /
            umount -l .old
            exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd --system \
                --unit=multi-user.target --log-target=console --show-status=no
        ' sh "$work" </dev/null >"$work/console" 2>&1 &
    machine=$!
    # The process in the namespaces is the child of the one that made them.
    until_true 'systemd to start' there
    until_true 'the machine to be up' within systemctl -q is-active multi-user.target
}
there() {
    systemd=$(cat "/proc/$machine/task/$machine/children") && systemd=${systemd% } &&
        [ "$(cat "/proc/$systemd/comm")" = systemd ]
}
within() {
    nsenter --target "$systemd" --mount --uts --ipc --net --pid --cgroup -- \
        env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}
die() {
    echo "$*"
    [ -z "$machine" ] || within systemctl --no-pager -l status '*guix*' || true
    cat "$work/console"
    exit 1
}
# until_true WHAT COMMAND...
until_true() {
    what=$1; shift
    tries=0
    until "$@" 2>/dev/null; do
        tries=$((tries + 1)); [ $tries -lt 600 ] || die "waited in vain for $what"
        sleep 0.1
    done
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
    [ "$(within systemctl list-units --plain --no-legend --state=active 'guix-daemon*.service' | wc -l)" = 1 ] ||
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
command=$(sed -n 's/^\(systemctl enable .*\)/\1/p' doc/src/setting-up.md)
[ -n "$command" ]
within $command
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
