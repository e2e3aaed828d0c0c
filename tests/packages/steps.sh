#!/bin/sh
# The steps of tests/packages/check but for the demonstration, which show.sh has.
#
# `installed' is the root of a new machine with both packages; `fresh' is the machine that boots from it.

upstream=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
version=$(sed -n '1s/.*(\(.*\)).*/\1/p' debian/changelog)
architecture=$(dpkg --print-architecture)
built=$cache/built
state=/var/lib/dpkg/info/guix-daemon-rs

fail() { echo "$*"; exit 1; }
# expect FILE WORDS: what a command said.
expect() { grep -qF -- "$2" "$1" || { echo "without \`$2':"; cat "$1"; exit 1; }; }
not() { if "$@"; then fail "should have failed: $*"; fi; }
# packages ROOT [VERSION]: puts them there, in /packages.
packages() {
    rm -rf "$1/packages"
    mkdir "$1/packages"
    cp "$built/"*"_${2-$version}_$architecture.deb" "$1/packages"
    rm -f "$1/packages/"*dbgsym*
}
# Their names, as they are there.
files_of() { (cd "$1" && printf '/%s\n' packages/*.deb); }

# --- the tarball, and packages made of it

tarball() { autoconf-compat/source-tarball "$1/guix-daemon-$upstream.tar.gz"; }
step_tarball() { try 'the tarball has the same bytes, whoever makes it where' same_tarball; }
same_tarball() {
    mkdir -p "$work/first" "$work/second" "$work/tmp"
    tarball "$work/first"
    (umask 077; TZ=Asia/Tokyo TMPDIR=$work/tmp tarball "$work/second")
    cmp "$work/first/"*.gz "$work/second/"*.gz
    rm -r "$work/second"
}

step_build() { try 'they build offline, with what Debian 13 has' build; }
build() {
    mkdir -p "$work/first"
    [ -e "$work/first/guix-daemon-$upstream.tar.gz" ] || tarball "$work/first"
    sum=$(sha256sum <"$work/first/guix-daemon-$upstream.tar.gz")
    # The same source was built by an earlier run.
    if [ "$(cat "$built/sum" 2>/dev/null)" = "$sum" ]; then
        : >"$work/is-built"
        return
    fi
    derived build trixie build-essential lintian faketime
    source=$cache/build/tmp/source
    rm -rf "$source"
    mkdir -p "$source"
    cp -R debian "$source"
    inside "$cache/build" apt-get build-dep -y --no-install-recommends /tmp/source >"$work/apt.log" 2>&1 ||
        { cat "$work/apt.log"; exit 1; }
    overlay build "$cache/build"
    build_in build/one "cd guix-daemon-$upstream && umask 022 && dpkg-buildpackage -us -uc"
    one=$work/build/root/build/one
    rm -rf "$built"
    mkdir "$built"
    # The same as a new version: nothing is compiled again.
    inside "$work/build/root" sh -eu -c "cd /build/one/guix-daemon-$upstream
        sed -i '1s/(.*)/($version+1)/' debian/changelog
        DEB_BUILD_OPTIONS=nocheck dpkg-buildpackage -us -uc -b -nc" >"$work/log" 2>&1 || { tail -n 40 "$work/log"; exit 1; }
    # For the demonstration; with the same flags, so that little is compiled.
    inside "$work/build/root" sh -eu -c "cd /build/one/guix-daemon-$upstream
        { cat debian/rules; printf 'guix-demo:\n\tcargo build --release --locked --offline --bin guix-demo\n'; } |
            make -f - guix-demo" >"$work/log" 2>&1 || { tail -n 40 "$work/log"; exit 1; }
    cp "$one/guix-daemon-$upstream/target/release/guix-demo" "$built"
    cp -R "$one/guix-daemon-$upstream/vendor/"lua-src-*/lua-5.4* "$built/lua"
    find "$one" -maxdepth 1 -type f ! -name 'guix-daemon-*.tar.gz' -exec cp {} "$built" \;
    echo "$sum" >"$built/sum"
    : >"$work/is-built"
}
# build_in DIRECTORY COMMAND: unpacks the source there, and builds.
build_in() {
    mkdir -p "$work/build/root/$1"
    tar -xz -C "$work/build/root/$1" -f "$work/first/guix-daemon-$upstream.tar.gz"
    offline=yes inside "$work/build/root" sh -eu -c "cd /$1; export DEB_BUILD_OPTIONS='nocheck parallel=$(nproc)'; $2" \
        >"$work/log" 2>&1 || { tail -n 60 "$work/log"; exit 1; }
}

step_reproducible() { try 'built again elsewhere and 400 days later, they have the same bits' reproducible; }
reproducible() {
    if [ -e "$built/reproduced" ]; then return; fi
    [ -e "$work/build/root/build" ] || overlay build "$cache/build"
    rm -rf "$work/build/root/build/one"
    build_in build/quite/another/place "cd guix-daemon-$upstream && umask 027 && export TZ=Asia/Tokyo LANG=C &&
        faketime -f +400d dpkg-buildpackage -us -uc -b"
    for file in "$built/"*"_${version}_$architecture.deb"; do
        cmp "$file" "$work/build/root/build/quite/another/place/${file##*/}"
    done
    : >"$built/reproduced"
}

step_lintian() { try 'lintian finds no errors' lintian_finds; }
lintian_finds() {
    overlay lintian "$cache/build"
    mkdir "$work/lintian/root/packages"
    cp "$built/"*"$version"* "$work/lintian/root/packages"
    inside "$work/lintian/root" sh -c "cd /packages && lintian --allow-root --fail-on error guix-daemon-rs_${version}_$architecture.changes"
    no_overlay lintian
}

# --- a new machine

step_fresh() {
    try 'a new Debian 13 gets all it needs with them, and no Guile' install_on_new
    if [ ! -e "$work/installed/whole" ]; then return; fi
    machine fresh 2 installed || { failed=$((failed + 1)); return; }
    try 'clients are served after the first start' first_start
}
install_on_new() {
    base trixie
    overlay installed "$cache/trixie"
    root=$work/installed/root
    packages "$root"
    apt_install "$root" $(files_of "$root")
    [ -z "$(inside "$root" dpkg-query -W -f '${Package}\n' | grep -i -e guile -e '^guix$')" ]
    [ -z "$(find "$root/usr" -iname '*guile*' ! -path '*/doc/*')" ]
    [ "$(inside "$root" dpkg --audit | wc -l)" = 0 ]
    [ -L "$root/etc/systemd/system/sockets.target.wants/guix-daemon-rs.socket" ]
    [ -d "$root/gnu/store" ]
    [ "$(cat "$root/etc/subgid")" = "guix-daemon:$(sed -n 's/^kvm:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/group"):1" ]
    : >"$work/installed/whole"
}
# machine NAME NUMBER LAYER...: boots one whose root begins as these, the first on top.
machine() {
    layers=
    for layer in $(shift 2; echo "$@"); do layers=$layers$work/$layer/upper:; done
    overlay "$1" "$layers$cache/trixie"
    packages "$work/$1/root"
    boot "$1" "$2" && machines="${machines-} $1"
}
first_start() {
    on fresh systemctl -q is-active guix-daemon-rs.socket
    not on fresh systemctl -q is-active guix-daemon-rs.service
    on fresh guix-client build --hello
    [ "$(on fresh readlink "/proc/$(main_pid)/exe")" = /usr/sbin/guix-daemon ]
    # Root need not become the daemon's user.
    on fresh guix-daemon --check-setup
    on fresh systemd-analyze verify --man=no guix-daemon-rs.service guix-daemon-rs.socket
}
main_pid() { on fresh systemctl show -P MainPID guix-daemon-rs; }

# --- upgrades

step_upgrade() {
    if [ ! -e "$work/server/root/demo" ]; then return; fi
    try 'an upgrade while nobody is connected starts the new program' upgrade_idle
    try 'an upgrade during a build lets it end, and says so' upgrade_busy
}
# install_version VERSION: by dpkg, on the running machine.
install_version() {
    rm -rf "$work/fresh/upper/packages.new"
    packages "$work/fresh/root" "$1"
    on fresh sh -c 'dpkg -i /packages/*.deb' >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; exit 1; }
}
upgrade_idle() {
    on fresh guix-client gc --list-dead >/dev/null
    before=$(main_pid)
    install_version "$version+1"
    after=$(main_pid)
    [ "$before" != 0 ] && [ "$after" != 0 ] && [ "$before" != "$after" ] || { cat "$work/dpkg"; fail "$before became $after"; }
    on fresh systemctl -q is-active guix-daemon-rs.socket
    on fresh guix-client build --hello
    install_version "$version"
}
upgrade_busy() {
    busy_build
    before=$(main_pid)
    install_version "$version+1"
    expect "$work/dpkg" 'the daemon is busy (clients: 1), and goes on'
    [ "$(main_pid)" = "$before" ]
    end_busy_build
    on fresh systemctl restart guix-daemon-rs.service
    on fresh guix-client build --hello
    [ "$(main_pid)" != "$before" ]
}

# --- removing

# What of the store and its database is there.
inventory() { find "$work/fresh/root/gnu" "$work/fresh/root/var/guix/db" -printf '%P %y %U %s\n' | grep -v db.sqlite- | sort; }

step_remove() {
    if [ ! -e "$work/fresh" ]; then return; fi
    try 'removing stops the daemon; installing again goes on with the store' remove_and_back
    try 'purging leaves nothing but the store' purge
}
remove_and_back() {
    item=$(on fresh sh -c 'echo kept | guix-client add-text kept')
    on fresh dpkg --remove guix-daemon-rs >"$work/dpkg" 2>&1
    [ ! -e "$work/fresh/root/usr/sbin/guix-daemon" ]
    [ "$(on fresh systemctl is-active guix-daemon-rs.socket)" != active ]
    not on fresh sh -c 'readlink /proc/[0-9]*/exe | grep guix-daemon'
    [ -e "$work/fresh/root$item" ]
    install_version "$version"
    on fresh systemctl -q is-active guix-daemon-rs.socket
    on fresh guix-client gc --references "$item"
}
purge() {
    # What the demonstration has put there.
    on fresh rm -rf /etc/systemd/system/guix-daemon-rs.service.d /usr/local/bin/guix-demo
    on fresh systemctl daemon-reload
    on fresh guix-client gc --list-dead >/dev/null
    on fresh dpkg -L guix-daemon-rs guix-client-rs | sort -u >"$work/files"
    on fresh systemctl stop guix-daemon-rs.service
    inventory >"$work/before"
    on fresh dpkg --purge guix-daemon-rs guix-client-rs >"$work/dpkg" 2>&1
    expect "$work/dpkg" '/gnu/store stays'
    inventory | diff "$work/before" -
    # Directories that others have, too, are still there.
    while read -r file; do
        if [ ! -d "$work/fresh/root$file" ] && [ -e "$work/fresh/root$file" ]; then fail "$file is left"; fi
    done <"$work/files"
    left=$(on fresh find / -xdev -name '*guix*' ! -path '/gnu/*' ! -path '/var/guix*' ! -path '/proc/*' ! -path '/etc/guix*' \
        ! -path '/packages*' ! -path '/sys/*' ! -path '/run/*' ! -path '/tmp/*' ! -path '/var/log/journal/*')
    [ -z "$left" ] || fail "left: $left"
}

# --- what may be in the way

step_obstacles() {
    if [ ! -e "$work/installed/whole" ]; then return; fi
    machine plain 3 installed || { failed=$((failed + 1)); return; }
    on plain dpkg --purge guix-daemon-rs guix-client-rs >/dev/null 2>&1
    try "where Guix's daemon serves, nothing is changed, and the way to switch is told" other_daemon
    try 'so it is where root runs that daemon' roots_daemon
    try "a store that belongs to somebody else is left alone" foreign_store
    try "a store that belongs to root is served by root, once that is told" roots_store
}
# try_install: what it says is in $work/dpkg.
try_install() {
    on plain dpkg --purge guix-daemon-rs guix-client-rs >/dev/null 2>&1
    packages "$work/plain/root"
    on plain sh -c 'dpkg -i /packages/*.deb' >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; exit 1; }
    not on plain systemctl -q is-enabled guix-daemon-rs.socket
    not on plain systemctl -q is-active guix-daemon-rs.socket
}
other_daemon() { replaced guix-daemon; }
roots_daemon() { replaced root --build-users-group=guixbuild; }
# replaced USER OPTION...: a daemon that runs as USER is replaced by what the installation says, and put back.
replaced() {
    user=$1; shift
    # Our program plays Guix's, with its unit.
    guix=/opt/guix/bin
    mkdir -p "$work/plain/root$guix"
    cp "$work/installed/root/usr/sbin/guix-daemon" "$work/plain/root$guix"
    on plain rm -rf /gnu /var/guix /var/log/guix
    on plain install -d -o "$user" /gnu/store /var/guix /var/log/guix
    cat >"$work/plain/root/etc/systemd/system/guix-daemon.service" <<UNIT
[Service]
User=$user
ExecStart=$guix/guix-daemon $*
[Install]
WantedBy=multi-user.target
UNIT
    on plain sh -c 'systemctl daemon-reload; systemctl -q enable --now guix-daemon.service'
    until_true "Guix's daemon" test -S "$work/plain/root/var/guix/daemon-socket/socket"
    pid=$(on plain systemctl show -P MainPID guix-daemon)
    try_install
    expect "$work/dpkg" "not started: guix-daemon.service is enabled or active, and /gnu/store belongs to $user. To switch: systemctl disable"
    [ "$(on plain systemctl show -P MainPID guix-daemon)" = "$pid" ]
    item=$(on plain sh -c 'echo theirs | guix-client add-text theirs')
    # There and back, by what was said; and back by removing the package.
    on plain sh -c "$(sed -n 's/.*To switch: //p' "$work/dpkg" | tail -n 1)"
    on plain guix-client gc --references "$item"
    on plain guix-client build --hello
    [ "$(on plain stat -c %U "/proc/$(on plain systemctl show -P MainPID guix-daemon-rs)")" = "$user" ]
    [ "$(on plain systemctl is-active guix-daemon.service)" != active ]
    on plain sh -c 'systemctl -q disable --now guix-daemon-rs.socket guix-daemon-rs.service; systemctl -q enable --now guix-daemon.service'
    until_true "Guix's daemon" on plain guix-client gc --references "$item"
    on plain dpkg --purge guix-daemon-rs >"$work/dpkg" 2>&1
    on plain guix-client gc --references "$item"
    on plain sh -c 'systemctl -q disable --now guix-daemon.service
        rm -rf /etc/systemd/system/guix-daemon.service /etc/systemd/system/guix-daemon-rs.service.d
        systemctl daemon-reload' >/dev/null
}
foreign_store() {
    on plain chown -R --no-dereference 4321:4321 /gnu/store
    try_install
    expect "$work/dpkg" '/gnu/store belongs to'
    [ "$(on plain stat -c %u /gnu/store)" = 4321 ]
    on plain dpkg --purge guix-daemon-rs guix-client-rs >"$work/dpkg" 2>&1
    [ "$(on plain stat -c %u /gnu/store)" = 4321 ]
}

roots_store() {
    on plain chown -R --no-dereference root:guixbuild /gnu/store
    on plain rm -rf /var/guix
    try_install
    expect "$work/dpkg" '/gnu/store belongs to root, and guix-daemon-rs.service runs as guix-daemon'
    # The first of the ways that README.Debian has.
    on plain sh -eu -c "$(sed -n '/^    cd .etc.systemd.system/,/^    systemctl enable/p' debian/guix-daemon-rs.README.Debian)"
    on plain guix-client build --hello
    on plain systemctl show -P User guix-daemon-rs.service | grep -qx root
}

# --- installations that do not come to their end

step_unfinished() {
    if [ ! -e "$work/installed/whole" ]; then return; fi
    try 'what failed to be configured is configured later' half_configured
    try 'where /var is full, the upgrade fails and the old program serves on' full_var
}
half_configured() {
    overlay half "$work/installed/upper:$cache/trixie"
    root=$work/half/root
    packages "$root"
    touch "$root/gnu/store/item"
    inside "$root" dpkg --purge guix-daemon-rs >/dev/null 2>&1
    # No user can be made where /etc cannot be written to.
    inside "$root" sh -c 'mount --bind /etc /etc; mount -o remount,bind,ro /etc
        dpkg -i /packages/guix-daemon-rs_*.deb' >"$work/dpkg" 2>&1 && fail 'it was configured'
    inside "$root" dpkg-query -W -f '${db:Status-Status}\n' guix-daemon-rs | grep -qx -e half-configured -e unpacked
    inside "$root" dpkg --configure -a >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; exit 1; }
    inside "$root" dpkg-query -W -f '${db:Status-Status}\n' guix-daemon-rs | grep -qx installed
    [ -L "$root/etc/systemd/system/sockets.target.wants/guix-daemon-rs.socket" ]
    # Unpacked only, and removed.
    inside "$root" sh -c 'dpkg --purge guix-daemon-rs && dpkg --unpack /packages/guix-daemon-rs_*.deb &&
        dpkg --remove guix-daemon-rs' >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; exit 1; }
    [ -e "$root/gnu/store/item" ]
    no_overlay half
}
full_var() {
    overlay full "$work/installed/upper:$cache/trixie"
    root=$work/full/root
    packages "$root" "$version+1"
    cat >"$root/packages/full" <<'SCRIPT'
set -eu
rm -rf /var/cache/apt /var/lib/apt/lists
cp -a /var /packages/var
mount -t tmpfs -o size=64m tmpfs /var
cp -a /packages/var/. /var
runuser -u guix-daemon -- guix-daemon >/tmp/log 2>&1 &
daemon=$!
while [ ! -S /var/guix/daemon-socket/socket ]; do kill -0 $daemon; sleep 0.1; done
item=$(echo kept | guix-client add-text kept)
dd if=/dev/zero of=/var/filler bs=64k >/dev/null 2>&1 || true
if dpkg -i /packages/guix-daemon-rs_*.deb; then echo 'it was upgraded'; exit 1; fi
guix-client gc --references "$item"
rm /var/filler
dpkg --configure -a
dpkg -i /packages/guix-daemon-rs_*.deb
guix-client gc --references "$item"
kill $daemon
wait $daemon || true
runuser -u guix-daemon -- guix-daemon >/tmp/log 2>&1 &
while ! guix-client gc --references "$item"; do kill -0 $!; sleep 0.1; done
SCRIPT
    inside "$root" sh /packages/full >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; exit 1; }
    expect "$work/dpkg" 'No space left on device'
    no_overlay full
}

# --- Debian 12

# Its Rust is too old to build them, and what Debian 13 builds asks for newer libraries.  So apt must refuse them; and what
# the scripts of the packages do is tried with packages that ask for no libraries.
step_bookworm() {
    try 'Debian 12 refuses packages of Debian 13, and is left as it was' bookworm_refuses
    try "the packages' scripts work with Debian 12's systemd" bookworm_scripts
}
bookworm_refuses() {
    base bookworm
    overlay twelve "$cache/bookworm"
    packages "$work/twelve/root"
    inside "$work/twelve/root" apt-get update >/dev/null 2>&1
    not inside "$work/twelve/root" sh -c 'apt-get install -y /packages/*.deb' >"$work/dpkg" 2>&1
    expect "$work/dpkg" 'but it is not'
    [ "$(inside "$work/twelve/root" dpkg --audit | wc -l)" = 0 ]
    no_overlay twelve
}
bookworm_scripts() {
    base bookworm
    overlay twelve "$cache/bookworm"
    root=$work/twelve/root
    packages "$root"
    inside "$root" sh -eu -c 'cd /packages
        for file in *.deb; do
            dpkg-deb -R $file tree
            sed -i "s/^Depends:.*/Depends: systemd/" tree/DEBIAN/control
            dpkg-deb -b tree $file
            rm -r tree
        done' >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; exit 1; }
    apt_install "$root" $(files_of "$root")
    inside "$root" getent group guixbuild
    [ -d "$root/gnu/store" ]
    [ -L "$root/etc/systemd/system/sockets.target.wants/guix-daemon-rs.socket" ]
    touch "$root/gnu/store/item"
    inside "$root" sh -eu -c 'dpkg -i /packages/*.deb; dpkg --remove guix-daemon-rs; dpkg -i /packages/*.deb
        dpkg --purge guix-daemon-rs guix-client-rs' >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; exit 1; }
    [ -e "$root/gnu/store/item" ]
    [ ! -L "$root/etc/systemd/system/sockets.target.wants/guix-daemon-rs.socket" ]
    no_overlay twelve
}

# --- the other scripts of this directory

# They need no package, but what they take is as long.
step_scripts() {
    for script in systemd takeover static cross guix; do
        set --
        if [ $script = cross ]; then set -- --cache "$cache"; fi
        try "$script.sh" "tests/packages/$script.sh" "$@"
    done
}
