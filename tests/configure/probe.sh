#!/bin/sh
# The probe itself: yes on this system, and no where streams read ahead.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
: "${CC:=cc}"
$CC -Wall -Wextra -Werror -o "$work/probe" "$top/autoconf-compat/unbuffered-pipe.c"
"$work/probe"

# A C library whose streams stay buffered whatever is asked of them.
cat >"$work/buffered.c" <<'C'
#include <stdio.h>
int setvbuf (FILE *f, char *b, int m, size_t n)
{ (void) f; (void) b; (void) m; (void) n; return 0; }
C
$CC -shared -fPIC -o "$work/buffered.so" "$work/buffered.c"
status=0
LD_PRELOAD="$work/buffered.so" "$work/probe" || status=$?
[ $status = 1 ] || { echo "with buffering the probe exits $status"; exit 1; }
