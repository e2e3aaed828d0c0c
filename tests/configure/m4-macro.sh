#!/bin/sh
# The M4 macro under real Autoconf: it probes, caches, obeys the cache variable and
# --disable-daemon-offload, and answers for cross builds.
set -eu
not() { if "$@"; then echo "should have failed: $*"; exit 1; fi; }
command -v autoconf >/dev/null || { echo 'autoconf is not installed'; exit 77; }
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"

cat >configure.ac <<'AC'
AC_INIT([probe], [1])
AC_CONFIG_AUX_DIR([.])
AC_PROG_CC
GUIX_CHECK_DAEMON_OFFLOAD
AC_CONFIG_HEADERS([config.h])
AC_OUTPUT
AC
echo '#undef HAVE_DAEMON_OFFLOAD_HOOK' >config.h.in
mkdir m4
cp "$top/autoconf-compat/m4/guix.m4" m4
cat m4/guix.m4 >aclocal.m4
# AC_CANONICAL_HOST wants these two beside configure; any Automake or Autoconf carries them.
for name in config.guess config.sub install-sh; do
    found=$(ls /usr/share/misc/$name /usr/share/autoconf/build-aux/$name \
        /usr/share/automake-*/$name 2>/dev/null | head -n 1)
    [ -n "$found" ] || { echo "$name (of Autoconf or Automake) is not installed"; exit 77; }
    cp "$found" .
done
autoconf -W all 2>warnings
! grep -i 'guix.m4' warnings || { cat warnings; exit 1; }

# expect WANTED CONFIGURE-ARGUMENT...
expect() {
    wanted=$1; shift
    rm -f config.h config.cache
    ./configure -q "$@" >out 2>&1 || { cat out; exit 1; }
    got=no
    if grep -q '^#define HAVE_DAEMON_OFFLOAD_HOOK 1' config.h; then got=yes; fi
    [ "$got" = "$wanted" ] || { echo "configure $*: $got, not $wanted"; exit 1; }
}
expect yes
expect no ac_cv_guix_cbips_support_setvbuf=no
expect yes ac_cv_guix_cbips_support_setvbuf=yes
expect no --disable-daemon-offload
expect yes --enable-daemon-offload
# Cross builds: nothing is run.
expect yes --build=x86_64-pc-linux-gnu --host=aarch64-linux-gnu CC=cc
expect no --build=x86_64-pc-linux-gnu --host=x86_64-pc-freebsd CC=cc
not ./configure -q ac_cv_guix_cbips_support_setvbuf=perhaps >out 2>&1
grep -q "must be 'yes' or 'no'" out
# The answer is cached.
./configure -C -q >out 2>&1
grep -q '^ac_cv_guix_cbips_support_setvbuf=.*yes' config.cache
./configure -C >out 2>&1
grep -q 'unbuffered streams over pipes take what was asked... (cached) yes' out
