#!/bin/sh
# Machines for tests/packages/check, which reads this: namespaces in whose root a real systemd runs as the
# first process, joined by one network.  The root is that of `overlay NAME'.
#
# The network is a bridge in a network namespace of this script's own; a machine's number is the last
# part of its address, 10.78.0.NUMBER.

# until_true WHAT COMMAND...: waits for that, a minute at most.
until_true() {
    what=$1; shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { echo "waited in vain for $what"; return 1; }
        sleep 0.1
    done
}

# boot NAME NUMBER
boot() {
    group=$groups/$1
    mkdir -p "$group"
    sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$group" \
        unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child sh -euc '
            root=$1
            hostname "$2"
            mount -t proc proc "$root/proc"
            mount -t sysfs sysfs "$root/sys"
            mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
            mount -t tmpfs -o mode=755 tmpfs "$root/run"
            mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
            mount -t tmpfs -o mode=755 tmpfs "$root/dev"
            for name in null zero full random urandom tty; do
                : >"$root/dev/$name"
                mount --bind "/dev/$name" "$root/dev/$name"
            done
            mkdir "$root/dev/shm" "$root/dev/pts"
            chmod 1777 "$root/dev/shm"
            mkdir "$root/run/old"
            cd "$root"
            pivot_root . run/old
            cd /
            umount -l run/old
            exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd --system \
                --unit=multi-user.target --log-target=console --show-status=no
        ' sh "$work/$1/root" "$1" </dev/null >"$work/$1/console" 2>&1 &
    eval "machine_$1=$!"
    until_true "systemd of $1" is_systemd "$1" $! || { cat "$work/$1/console"; return 1; }
    eval "systemd_$1=$(tr -d ' ' <"/proc/$!/task/$!/children")"
    eval "process=\$systemd_$1"
    # A cable.
    $network ip link add "$1" type veth peer name eth0 netns "$process"
    $network ip link set "$1" master bridge up
    nsenter --target "$process" --net sh -c "ip link set lo up; ip addr add 10.78.0.$2/24 dev eth0; ip link set eth0 up"
    until_true "$1 to be up" on "$1" systemctl -q is-active multi-user.target || { cat "$work/$1/console"; return 1; }
}
is_systemd() {
    child=$(tr -d ' ' <"/proc/$2/task/$2/children") && [ -n "$child" ] && [ "$(cat "/proc/$child/comm")" = systemd ]
}

# on NAME COMMAND...
on() {
    eval "process=\$systemd_$1"; shift
    nsenter --target "$process" --mount --uts --ipc --net --pid --cgroup -- \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive "$@"
}

# halt NAME: all its processes end with the first one.
halt() {
    eval "process=\$machine_$1"
    kill -KILL "$process" 2>/dev/null
    wait "$process" 2>/dev/null
    $network ip link del "$1" 2>/dev/null
    until_true "the end of $1" sh -c 'find "$1" -mindepth 1 -depth -type d -exec rmdir {} +; rmdir "$1"' sh "$groups/$1"
}
