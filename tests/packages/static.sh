#!/bin/sh
# `make static': the programs run where there is nothing else, not even a C library, and know users and
# groups from /etc/passwd and /etc/group.
#
# Usage: tests/packages/static.sh      as root; builds them, which takes some minutes
#
# The root directory of the test has the three programs, two files in /etc, /proc and some devices.  It is
# on a file system in memory, in namespaces that end with this script.  So is that of a node, which has two
# programs, /proc and some devices, and builds for this machine as an ordinary user, without an account.
set -u
export LC_ALL=C
top=$(cd "$(dirname "$0")/../.." && pwd -P)

if [ "${1-}" != inside ]; then
    [ "$(id -u)" = 0 ] || { echo 'static: needs root' >&2; exit 1; }
    cd "$top" || exit 1
    output=$(make -s static) || exit 1
    static=$(cd "$(printf '%s\n' "$output" | tail -n 1)" && pwd -P) || exit 1
    work=$(mktemp -d) || exit 1
    child=
    finish() {
        if [ -n "$child" ]; then kill -KILL "$child" 2>/dev/null; wait "$child" 2>/dev/null; fi
        rm -rf "$work"
    }
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    unshare --mount --net --pid --ipc --fork --kill-child "$0" inside "$static" "$work" &
    child=$!
    status=0
    wait "$child" || status=$?
    child=
    exit "$status"
fi

static=$2 work=$3
chroot=$(command -v chroot) || exit 1
suite=static said=$work/said
. "$top/tests/packages/single.sh"

mount --make-rprivate /
mount -t proc proc /proc
# make_root DIRECTORY: on a file system in memory.
make_root() {
    mkdir "$1"
    mount -t tmpfs -o mode=755 static "$1"
    mkdir "$1/bin" "$1/proc" "$1/dev"
    mkdir -m 1777 "$1/tmp"
    for device in null zero full random urandom tty; do
        : >"$1/dev/$device"
        mount --bind "/dev/$device" "$1/dev/$device"
    done
    mount -t proc proc "$1/proc"
}
root=$work/root
make_root "$root"
mkdir "$root/libexec" "$root/libexec/guix" "$root/etc" "$root/dev/shm" "$root/dev/pts" "$root/var" "$root/gnu"
cp "$static"/bin/* "$root/bin"
cp "$static/libexec/guix/offload" "$root/libexec/guix"
cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/:/bin/sh
guixbuilder1:x:30001:30000:builder:/var/empty:/bin/false
guixbuilder2:x:30002:30000:builder:/var/empty:/bin/false
END
cat >"$root/etc/group" <<'END'
root:x:0:
guixbuild:x:30000:guixbuilder1,guixbuilder2
END
# Nobody has these; a program that asks them nevertheless fails, or says so.
printf 'passwd: nonesuch\ngroup: nonesuch\nhosts: nonesuch\n' >"$root/etc/nsswitch.conf"

# within COMMAND...
within() { (PATH=/bin && exec "$chroot" "$root" "$@"); }

daemon=
# serves: waits until the daemon, which was started just before, does.
serves() {
    daemon=$!
    tries=0
    until grep -q '^listening on' "$work/daemon"; do
        tries=$((tries + 1))
        if [ $tries = 600 ] || ! kill -0 "$daemon" 2>/dev/null; then cat "$work/daemon"; return 1; fi
        sleep 0.1
    done
}
# start OPTION...: the daemon, until it serves.
start() {
    : >"$work/daemon"
    PATH=/bin "$chroot" "$root" guix-daemon "$@" >"$work/daemon" 2>&1 &
    serves
}
# By the signal, as programs end that clean up first.
stop() {
    kill "$daemon" || return 1
    wait "$daemon"
    [ $? = 143 ]
}

is_static() {
    for program in "$root/bin/guix-daemon" "$root/bin/guix-client" "$root/libexec/guix/offload"; do
        if readelf -d "$program" | grep NEEDED; then return 1; fi
        if readelf -l "$program" | grep INTERP; then return 1; fi
    done
}
says_version() { within guix-daemon --version && within guix-client --version && within /libexec/guix/offload --version; }
builds() {
    within guix-client build --hello || { cat "$work/daemon"; return 1; }
    within guix-client gc --verify=contents
}
knows_members() {
    within guix-daemon --check-setup --build-users-group=guixbuild >"$work/setup" 2>&1
    cat "$work/setup"
    grep -q '2 build users' "$work/setup"
}
lacks_a_group() {
    within guix-daemon --build-users-group=nobody-has-it --check-setup >"$work/setup" 2>&1
    cat "$work/setup"
    grep -q 'nobody-has-it' "$work/setup"
}
# Only ssh is missing, and that is what it says.
asks_for_ssh() {
    mkdir -p "$root/etc/guix"
    cat >"$root/etc/guix/machines.toml" <<'END'
[[machine]]
name = "worker"
systems = ["x86_64-linux", "aarch64-linux"]
user = "offload"
host-key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEHSUyPdQf4DXy5yB3hTyqYvVfGQgOyUcP2Qr3+1m0Qs"
END
    within guix-client offload test >"$work/test" 2>&1
    cat "$work/test"
    grep -q 'ssh' "$work/test"
}

# The node's root is that of a mount namespace, as on a machine: in a chroot, no user could make namespaces.
start_node() {
    node=$work/node
    make_root "$node"
    mkdir "$node/.old"
    cp "$static/bin/guix-daemon" "$node/bin"
    cp "$static/libexec/guix/offload" "$node/bin/guix-offload"
    mkfifo "$work/never"
    unshare --mount --propagation private sh -euc '
        exec 3<>"$2"
        cd "$1"
        pivot_root . .old
        cd /
        "/.old$3" umount -l /.old
        echo up
        read -r forever <&3' sh "$node" "$work/never" "$(readlink -f "$(command -v busybox)")" >"$work/node.said" &
    holder=$!
    tries=0
    until grep -q up "$work/node.said"; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] && kill -0 "$holder" || return 1
        sleep 0.1
    done
    nsenter --target "$holder" --mount /bin/guix-offload --version || return 1
    ! nsenter --target "$holder" --mount /bin/sh -c true
}
# at_head PROGRAM OPTION...: with directories of its own on this machine.
at_head() {
    NIX_STORE_DIR=$work/head/store GUIX_STATE_DIRECTORY=$work/head/state GUIX_LOG_DIRECTORY=$work/head/log \
        GUIX_DATABASE_DIRECTORY=$work/head/db GUIX_CONFIGURATION_DIRECTORY=$work/head/etc \
        NIX_BUILD_HOOK=$static/libexec/guix/offload "$@"
}
start_head() {
    mkdir -p "$work/head/etc"
    at_head "$static/bin/guix-client" archive --generate-key || return 1
    cat >"$work/head/etc/machines.toml" <<END
[[machine]]
name = "node"
systems = ["$(uname -m)-linux"]
transport = "command"
command = ["nsenter", "--target=$holder", "--mount", "--setuid=30100", "--setgid=30100", "--", "{worker}"]
worker = "/bin/guix-offload"
trust = "connection"
idle = 0
END
    : >"$work/daemon"
    at_head "$static/bin/guix-daemon" --max-jobs=0 >"$work/daemon" 2>&1 &
    serves
}
worker_is_right() { at_head "$static/bin/guix-client" offload test; }
worker_builds() {
    at_head "$static/bin/guix-client" build --hello >"$work/built" 2>&1 || { cat "$work/built" "$work/daemon"; return 1; }
    cat "$work/built"
    grep -q "by the build machine 'node'" "$work/built"
}
worker_leaves_nothing() {
    tries=0
    until [ -z "$(ls -A "$node/tmp")" ]; do
        tries=$((tries + 1))
        if [ $tries = 600 ]; then ls -AR "$node/tmp"; return 1; fi
        sleep 0.1
    done
}

check 'they need no library' is_static
check 'they start' says_version
check 'the daemon starts, with build users of the files' start --build-users-group=guixbuild
check 'it builds in a sandbox' builds
check 'it ends' stop
check 'members of a group are known' knows_members
check 'a group that does not exist is missed' lacks_a_group
check 'addresses are understood, and localhost' start --listen=/tmp/socket --listen=127.0.0.1:0 --listen=localhost:0
check 'it ends again' stop
check 'the client asks for ssh' asks_for_ssh
check 'a node with two programs' start_node
check 'and a head for it' start_head
check 'its worker is all right, as an ordinary user' worker_is_right
check 'and builds' worker_builds
check 'and leaves nothing' worker_leaves_nothing
check 'the head ends' stop
counted
