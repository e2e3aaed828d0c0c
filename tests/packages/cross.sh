#!/bin/sh
# Built for arm64 by Debian 13's own cross tools, and tried under qemu-user: the tests of what is read and
# written; the checks of build machines, from and of arm64; and daemons that take over each other's stores.
#
# Usage: tests/packages/cross.sh [--cache DIRECTORY]
#
# Needs root on an x86-64 machine with Debian's debootstrap, Cargo, Linux 6.7, a network, and 4 GB in
# DIRECTORY, by default target/packages, where the root directory and what was compiled are kept for the
# next time.  What is tried is what is committed.  Everything runs in namespaces that end with this
# script; binfmt_misc(5), by which the kernel starts qemu, is the one of a user namespace, so that nothing
# is registered on the machine.
#
# qemu-user has threads of its own in each process, can't fork a sibling, and has no filters of system calls:
# what forks builders, with or without a sandbox, can't be tried by it.
set -u
export LC_ALL=C
top=$(cd "$(dirname "$0")/../.." && pwd -P)
triplet=aarch64-linux-gnu target=aarch64-unknown-linux-gnu

# The first part: makes the root directory, and starts the second there.
if [ "${1-}" != inside ]; then
    cd "$top" || exit 1
    : "${CARGO_TARGET_DIR:=target}" "${CARGO:=cargo}" "${GUIX_PACKAGES_MIRROR:=http://deb.debian.org/debian}"
    cache=$CARGO_TARGET_DIR/packages
    if [ "${1-}" = --cache ]; then cache=$2; fi
    skip() { echo "$1"; exit 77; }
    [ "$(id -u)" = 0 ] || skip 'needs root'
    [ "$(uname -m)" = x86_64 ] || skip 'needs an x86-64 machine'
    command -v debootstrap >/dev/null || skip 'needs debootstrap'
    mkdir -p "$cache" && cache=$(cd "$cache" && pwd -P) || exit 1
    work=$(mktemp -d "$cache/cross-run.XXXXXX") || exit 1
    child=
    finish() {
        if [ -n "$child" ]; then
            # The first process of the namespace takes all others with it.
            first=$(cat "/proc/$child/task/$child/children" 2>/dev/null)
            kill -KILL ${first:+$first} "$child" 2>/dev/null
            wait "$child" 2>/dev/null
        fi
        rm -rf "$work"
    }
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    root=$cache/cross
    if [ ! -e "$root" ]; then
        rm -rf "$root.new"
        debootstrap --variant=minbase trixie "$root.new" "$GUIX_PACKAGES_MIRROR" >"$work/log" 2>&1 ||
            { tail -n 20 "$work/log"; exit 1; }
        cp -L /etc/resolv.conf "$root.new/etc/resolv.conf"
        apt-config dump | grep -E '^Acquire::(http|https|Retries|Check)' >"$root.new/etc/apt/apt.conf.d/90host"
        # Manual pages of the two architectures are not always the same, which dpkg refuses.
        printf 'path-exclude=/usr/share/%s/*\n' man doc locale >"$root.new/etc/dpkg/dpkg.cfg.d/small"
        libraries=$(for name in libc6 libsqlite3 libgcrypt20 libzstd libcurl4-openssl zlib1g; do
            echo "$name-dev $name-dev:arm64"
        done)
        cat >"$root.new/root/packages" <<END
dpkg --add-architecture arm64
apt-get update
apt-get install -y --no-install-recommends cargo rustc libstd-rust-dev:arm64 crossbuild-essential-arm64 \
    pkgconf pkgconf:arm64 make $(echo $libraries) qemu-user openssh-server openssh-client iproute2 file
END
        unshare --mount --pid --fork --kill-child sh -euc '
            mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"
            exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
                LC_ALL=C.UTF-8 chroot "$1" sh -e /root/packages' sh "$root.new" >"$work/log" 2>&1 </dev/null ||
            { tail -n 30 "$work/log"; exit 1; }
        mv "$root.new" "$root"
    fi
    mkdir -p "$cache/cross-target" "$work/source"
    git archive HEAD | tar -x -C "$work/source" || exit 1
    (cd "$work/source" && "$CARGO" vendor -q --locked "$work/vendor") >"$work/vendor.toml" || exit 1

    mkfifo "$work/ready" || exit 1
    unshare --user --mount --net --pid --ipc --fork --kill-child \
        sh -c 'read -r _ <"$0" && exec "$@"' "$work/ready" "$0" inside "$cache" "$work" &
    child=$!
    while [ "$(readlink "/proc/$child/ns/user")" = "$(readlink /proc/self/ns/user)" ]; do sleep 0.1; done
    # All ids, as they are.
    for map in uid_map gid_map; do echo '0 0 4294967295' >"/proc/$child/$map"; done
    echo >"$work/ready"
    status=0
    wait "$child" || status=$?
    child=
    exit "$status"
fi

# The second part: in namespaces, makes the root directory the root.
if [ "$2" != root ]; then
    cache=$2 work=$3
    set -e
    mount --make-rprivate /
    root=$work/root
    mkdir "$root" "$work/upper" "$work/overlay"
    mount -t overlay overlay -o "lowerdir=$cache/cross,upperdir=$work/upper,workdir=$work/overlay" "$root"
    for name in source vendor target; do mkdir -p "$root/root/$name"; done
    mount --bind "$work/source" "$root/root/source"
    mount --bind "$work/vendor" "$root/root/vendor"
    mount --bind "$cache/cross-target" "$root/root/target"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mkdir "$root/run/old" "$root/run/binfmt" "$root/run/sshd"
    mount -t binfmt_misc binfmt "$root/run/binfmt"
    cd "$root"
    pivot_root . run/old
    cd /
    # As qemu-user-binfmt has it: the heads of arm64's programs; with the name that a program is called by
    # (P), which the daemon's fork server goes by; opened now, so that it is found in any root (F).
    printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64:PF' \
        >/run/binfmt/register
    umount -l /run/old
    ip link set lo up
    mkdir -p /root/.cargo
    printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "/root/vendor"\n' \
        >/root/.cargo/config.toml
    exec env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin CARGO_TARGET_DIR=/root/target \
        CARGO_NET_OFFLINE=true ${CARGO_PROFILE_RELEASE_OPT_LEVEL:+"CARGO_PROFILE_RELEASE_OPT_LEVEL=$CARGO_PROFILE_RELEASE_OPT_LEVEL"} \
        sh /root/source/tests/packages/cross.sh inside root
fi

# The third part: builds, and tries.
cd /root/source || exit 1
suite=cross said=/tmp/said
. tests/packages/single.sh
cross=/root/target/$target/release native=/root/target/release

without_hook() {
    ac_cv_guix_cbips_support_setvbuf=no ./autoconf-compat/configure --host=$triplet &&
        grep -qx 'daemon_offload = false' config.status.toml
}
configures() {
    ./autoconf-compat/configure --host=$triplet && cp "$said" /tmp/configured && cat config.mk &&
        grep -qx 'daemon_offload = true' config.status.toml &&
        grep -q "Target *: $target (Guix: aarch64-linux)" /tmp/configured &&
        grep -qx "export PKG_CONFIG_aarch64_unknown_linux_gnu = $triplet-pkg-config" config.mk
}
installs() {
    make -s install DESTDIR=/tmp/installed || return 1
    for program in bin/guix-daemon bin/guix-client libexec/guix/offload libexec/guix/fetch; do
        file "/tmp/installed/usr/local/$program" | tee /dev/stderr | grep -q 'ARM aarch64' || return 1
    done
}
# The programs of this processor, to offload and to compare.
makes_native() { (rm config.mk && cargo build --release --bin guix-daemon --bin guix-offload --bin guix-client); }
# What is read and written is the same: formats, wire, database, signatures, filters, numbers.
tests_pass() {
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$triplet-gcc PKG_CONFIG_ALLOW_CROSS=1 \
        CC_aarch64_unknown_linux_gnu=$triplet-gcc PKG_CONFIG_aarch64_unknown_linux_gnu=$triplet-pkg-config
    cargo test --release --no-fail-fast --target $target "$@"
}

check 'the cache variable leaves offloading out' without_hook
check 'configure finds the cross tools' configures
check 'make' make
if [ "$failed" != 0 ]; then counted; exit 1; fi
check 'make install' installs
check 'programs for this machine' makes_native
if [ "$failed" != 0 ]; then counted; exit 1; fi
check 'numbers of system calls are those of the kernel, for arm64, arm, x86-64 and i386' \
    tests/configure/system-calls.sh --all
check 'tests of formats, protocol and signatures' tests_pass -p guix-formats -p guix-protocol -p guix-gcrypt
check 'tests of the store' tests_pass -p guix-store --lib
check 'tests of filters' tests_pass -p guix-system --lib seccomp

# Two machines that have the same store directory: `here', where the daemon is root's, and `there', where it
# is an ordinary user's, in a mount namespace with a store of its own.
useradd --create-home worker && usermod -p '*' worker || exit 1
mkdir -p /tmp/store /tmp/here/etc /tmp/there/store /tmp/there/etc
arm64=/tmp/arm64 x86=/tmp/x86
mkdir -m 755 $arm64 $x86
cp $cross/guix-daemon $cross/guix-client $cross/guix-offload $arm64
cp $native/guix-daemon $native/guix-client $native/guix-offload $x86
# as MACHINE: whose directories, and whose socket.
as() {
    export NIX_STORE_DIR=/tmp/store GUIX_STATE_DIRECTORY="/tmp/$1/state" GUIX_LOG_DIRECTORY="/tmp/$1/log" \
        GUIX_CONFIGURATION_DIRECTORY="/tmp/$1/etc" GUIX_DAEMON_SOCKET="/tmp/$1/socket"
}
ssh-keygen -q -t ed25519 -N '' -f /tmp/host-key
ssh-keygen -q -t ed25519 -N '' -f /tmp/key
install -d -o worker -g worker -m 700 /home/worker/.ssh
install -o worker -g worker -m 600 /tmp/key.pub /home/worker/.ssh/authorized_keys
cat >/tmp/sshd_config <<END
Port 2222
ListenAddress 127.0.0.1
HostKey /tmp/host-key
PidFile none
SetEnv NIX_STORE_DIR=/tmp/store GUIX_STATE_DIRECTORY=/tmp/there/state GUIX_CONFIGURATION_DIRECTORY=/tmp/there/etc GUIX_DAEMON_SOCKET=/tmp/there/socket
END

# serves MACHINE PROGRAM OPTION...: starts a daemon, and waits until it serves.
serves() {
    machine=$1; shift
    as "$machine"
    # Not what the daemon before has written.
    rm -f "/tmp/$machine/log.daemon"
    "$@" --listen="/tmp/$machine/socket" >"/tmp/$machine/log.daemon" 2>&1 &
    daemon=$!
    tries=0
    until grep -qs '^listening on' "/tmp/$machine/log.daemon"; do
        tries=$((tries + 1))
        if [ $tries = 1200 ] || ! kill -0 "$daemon" 2>/dev/null; then
            cat "/tmp/$machine/log.daemon"
            return 1
        fi
        sleep 0.1
    done
}
# By the signal, as programs end that clean up first.
ends() {
    kill "$1" || return 1
    wait "$1"
    [ $? = 143 ]
}
# have_keys: each machine's own key is the other architecture's work.
have_keys() {
    (as there && $arm64/guix-client archive --generate-key) && (as here && $x86/guix-client archive --generate-key) &&
        (as here && $arm64/guix-client archive --authorize </tmp/there/etc/signing-key.pub) &&
        (as there && $x86/guix-client archive --authorize </tmp/here/etc/signing-key.pub) &&
        chown -R worker: /tmp/there
}
there() { unshare --mount sh -c 'mount --bind /tmp/there/store /tmp/store && exec "$@"' sh "$@"; }
# there_serves PROGRAMS
there_serves() {
    as there
    rm -f /tmp/there/log.daemon
    unshare --mount sh -c 'mount --bind /tmp/there/store /tmp/store &&
        exec setpriv --reuid worker --regid worker --clear-groups "$@"' sh \
        "$1/guix-daemon" --disable-chroot --no-offload --listen=/tmp/there/socket >/tmp/there/log.daemon 2>&1 &
    there=$!
    tries=0
    until grep -qs '^listening on' /tmp/there/log.daemon; do
        tries=$((tries + 1))
        if [ $tries = 1200 ] || ! kill -0 $there 2>/dev/null; then cat /tmp/there/log.daemon; return 1; fi
        sleep 0.1
    done
}
builds_there() { (as there && there $x86/guix-client build --hello) && grep -q 'Hello from' "$said"; }
# machine TRANSPORT
machine() {
    cat >/tmp/here/etc/machines.toml <<END
[[machine]]
name = "127.0.0.1"
port = 2222
systems = ["x86_64-linux"]
user = "worker"
private-key = "/tmp/key"
host-key = "$(cut -d' ' -f1,2 /tmp/host-key.pub)"
daemon-socket = "/tmp/there/socket"
transport = "$1"
program = "$arm64/guix-client"
overload-threshold = false
END
}
# examines TRANSPORT PROGRAMS
examines() { machine "$1" && (as here && "$2/guix-client" offload test) && ! grep -q '  wrong  ' "$said"; }
# verifies MACHINE CLIENT: contents and database
verifies() { (as "$1" && "$2" gc --verify=contents) && ! grep -q 'modified\|corrupt\|disappeared' "$said"; }

check 'keys are made and authorised' have_keys
check 'a daemon of arm64 starts, without root' there_serves $arm64
there /usr/sbin/sshd -D -e -f /tmp/sshd_config >/tmp/sshd.log 2>&1 &
tries=0
until grep -q '^Server listening' /tmp/sshd.log || [ $tries = 600 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
check 'a daemon of x86-64 starts' serves here $x86/guix-daemon --no-offload
here=$daemon
check 'as a build machine, it passes all checks of x86-64, by its socket' examines socket $x86
check 'it ends' ends "$there"
check 'a daemon of x86-64 takes over its store' there_serves $x86
check 'x86-64 finds it whole' verifies there $x86/guix-client
check 'it builds' builds_there
for transport in socket commands; do
    check "the x86-64 machine passes all checks of arm64, with transport $transport" examines $transport $arm64
done
check 'it ends, too' ends "$here"
check 'a daemon of arm64 takes over its store, with what was built' serves here $arm64/guix-daemon --no-offload
check 'arm64 finds it whole' verifies here $arm64/guix-client
check 'it ends as well' ends "$daemon"
counted
