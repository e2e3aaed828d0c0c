#!/bin/sh
# Root directories of Debian for tests/packages/check, which reads this: made by debootstrap, kept in the
# cache, and used through overlays, so that no test changes what others see.
#
# The mirror is GUIX_PACKAGES_MIRROR, or deb.debian.org; proxies and other peculiarities of the network
# are those that this machine's own apt and environment know.

: "${GUIX_PACKAGES_MIRROR:=http://deb.debian.org/debian}"

# inside ROOT COMMAND...: in processes of its own, which end with it.  With `offline=yes', without a
# network.
inside() {
    root=$1; shift
    set -- env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy+"http_proxy=$http_proxy"} ${https_proxy+"https_proxy=$https_proxy"} \
        ${no_proxy+"no_proxy=$no_proxy"} \
        ${CARGO_PROFILE_RELEASE_OPT_LEVEL+"CARGO_PROFILE_RELEASE_OPT_LEVEL=$CARGO_PROFILE_RELEASE_OPT_LEVEL"} "$@"
    unshare --mount --pid --fork --kill-child ${offline:+--net} sh -euc '
        root=$1; shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=755 tmpfs "$root/run"
        exec chroot "$root" "$@"' sh "$root" "$@"
}

# base SUITE: its smallest system, in $cache/SUITE.
base() {
    [ ! -e "$cache/$1" ] || return 0
    say "debootstrap of $1"
    rm -rf "$cache/$1.new"
    debootstrap --variant=minbase "$1" "$cache/$1.new" "$GUIX_PACKAGES_MIRROR" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 20 "$work/debootstrap.log"; return 1; }
    # What apt needs to know of the network here.
    cp -L /etc/resolv.conf "$cache/$1.new/etc/resolv.conf"
    apt-config dump | grep -E '^Acquire::(http|https|ftp|Retries|Check)' >"$cache/$1.new/etc/apt/apt.conf.d/90host" || true
    mv "$cache/$1.new" "$cache/$1"
}

# derived NAME SUITE PACKAGE...: the same with these packages, in $cache/NAME.
derived() {
    name=$1 suite=$2; shift 2
    base "$suite" || return 1
    if [ ! -e "$cache/$name" ]; then
        rm -rf "$cache/$name.new"
        cp -a "$cache/$suite" "$cache/$name.new"
        mv "$cache/$name.new" "$cache/$name"
    fi
    # What is there already takes no network.
    if ! inside "$cache/$name" dpkg-query -W "$@" >/dev/null 2>&1; then
        say "packages for $name"
        apt_install "$cache/$name" "$@" || return 1
    fi
}

# apt_install ROOT PACKAGE-OR-FILE...
apt_install() {
    target=$1; shift
    { inside "$target" apt-get update && inside "$target" apt-get install -y --no-install-recommends "$@"; } \
        >"$work/apt.log" 2>&1 </dev/null || { tail -n 30 "$work/apt.log"; return 1; }
}

# overlay NAME LOWER: the directory $work/NAME/root, which begins as LOWER.  Many directories may lie
# over one another: LOWER:LOWER.
overlay() {
    mkdir -p "$work/$1/upper" "$work/$1/work" "$work/$1/root"
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$work/$1/upper,workdir=$work/$1/work" "$work/$1/root"
}
# Takes it away, with all that was written to it.
no_overlay() {
    umount -l "$work/$1/root"
    rm -rf "${work:?}/$1"
}
