#!/bin/sh
# configure: its options end up in config.status.toml and config.mk; bad ones change nothing.
set -eu
not() { if "$@"; then echo "should have failed: $*"; exit 1; fi; }
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir "$work/tree"
cp -R "$top/configure" "$top/autoconf-compat" "$top/Cargo.toml" "$top/build.rs" "$top/Makefile" "$work/tree"
cd "$work/tree"
configure=./configure

has() { grep -qxF -- "$2" "$1" || { echo "$1 lacks: $2"; cat "$1"; exit 1; }; }

$configure >out
has config.status.toml 'guix_statedir = "/var/guix"'
has config.status.toml 'guix_sysconfdir = "/etc/guix"'
has config.status.toml 'libexecdir = "/usr/local/libexec"'
has config.status.toml 'daemon_offload = true'
has config.mk 'bindir = $(exec_prefix)/bin'
grep -q 'Offload hook *: /usr/local/libexec/guix/offload' out

$configure --prefix=/opt/guix --exec-prefix /opt/guix-exec --libexecdir='${exec_prefix}/le' \
    --localstatedir=/state --sysconfdir=/conf --with-store-dir=/some/store \
    --with-bash-completion-dir=/b --with-zsh-completion-dir=/z --with-fish-completion-dir=/f \
    --disable-silent-rules --enable-maintainer-mode --runstatedir=/run >out 2>&1
has config.status.toml 'storedir = "/some/store"'
has config.status.toml 'guix_statedir = "/state/guix"'
has config.status.toml 'guix_logdir = "/state/log/guix"'
has config.status.toml 'guix_sysconfdir = "/conf/guix"'
has config.status.toml 'bindir = "/opt/guix-exec/bin"'
has config.status.toml 'libexecdir = "/opt/guix-exec/le"'
has config.mk 'fishcompletiondir = /f'
# What the programs have does not change with `make install prefix=...'.
has config.mk 'localstatedir = /state'
grep -q "other than '/gnu/store' will prevent" out
not grep -q unrecognized out

# Make agrees with configure about every directory.
make -s -f - <<'MAKE' >made
include Makefile
print:
	@echo $(libexecdir) $(localstatedir) $(bashcompletiondir) $(mandir)
.DEFAULT_GOAL = print
MAKE
has made '/opt/guix-exec/le /state /b /opt/guix/share/man'

$configure -q --prefix=/opt/guix 2>/dev/null
has config.status.toml 'guix_statedir = "/opt/guix/var/guix"'
has config.mk 'localstatedir = /opt/guix/var'
has config.mk 'sysconfdir = /opt/guix/etc'

# And about where Cargo builds: the environment's word, configure's, Cargo's own.
built_in() { printf 'include Makefile\nprint: ; @echo $(release)\n' | make -s -f - print; }
is() { [ "$1" = "$2" ] || { echo "got \`$1', not \`$2'"; exit 1; }; }
CARGO_TARGET_DIR=/chosen $configure -q
unset CARGO_TARGET_DIR
is "$(built_in)" /chosen/release
is "$(export CARGO_TARGET_DIR=/mine; built_in)" /mine/release
$configure -q
is "$(built_in)" target/release

$configure --disable-daemon-offload -q
has config.status.toml 'daemon_offload = false'
$configure -q ac_cv_guix_cbips_support_setvbuf=no
has config.status.toml 'daemon_offload = false'
$configure -C -q ac_cv_guix_cbips_support_setvbuf=no
$configure -C >out
grep -q '(cached) no' out
rm config.cache

# Cross builds.
$configure --host=aarch64-linux-gnu CC=cc >out
has config.status.toml 'guix_system = "aarch64-linux"'
has config.mk 'CARGO_TARGET = aarch64-unknown-linux-gnu'
has config.mk 'OBJCOPY = aarch64-linux-gnu-objcopy'
has config.mk 'export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER = cc'
grep -q '(cross-compiling) yes' out

$configure --help | grep -q -- '--disable-daemon-offload'
$configure --version | grep -q '^guix-daemon configure [0-9]'

# refused WORDS ARGUMENT...: one line, exit 1, nothing written.
refused() {
    words=$1; shift
    rm -f config.status.toml
    if $configure "$@" >out 2>&1; then echo "accepted: $*"; exit 1; fi
    grep -qF -- "$words" out || { cat out; exit 1; }
    [ ! -e config.status.toml ]
}
refused 'unrecognized option: `--frobnicate' --frobnicate
refused 'expected an absolute directory name for --prefix: here' --prefix=here
refused 'missing argument to --libexecdir' --libexecdir
refused 'invalid variable name' '1x=y'
refused "must be \`yes' or \`no'" ac_cv_guix_cbips_support_setvbuf=maybe
refused 'C compiler cannot create executables' CC=false
# What guix-fetch needs is asked for, too.
cat >"$work/cc" <<'CC'
#!/bin/sh
for word; do
    case $word in *.c) if grep -q -e '<curl/curl.h>' -e '<zlib.h>' "$word"; then exit 1; fi ;; esac
done
exec cc "$@"
CC
chmod 755 "$work/cc"
refused 'missing: libcurl (Debian: libcurl4-openssl-dev), zlib (Debian: zlib1g-dev)' CC="$work/cc"
refused 'unsafe characters' '--prefix=/a"b'
$configure --with-nonsense -q 2>out
grep -q 'WARNING: unrecognized options: --with-nonsense' out
