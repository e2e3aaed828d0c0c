#!/bin/sh
# make demo, with installed programs, and without access to the build tree; and in a plain chroot.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
cd "$top"
unshare --net true 2>/dev/null || unshare --user --map-root-user --net true 2>/dev/null ||
    { echo 'neither root nor user namespaces'; exit 77; }
. tests/configure/demo/installed.sh

timeout 600 demo/run >"$work/out" 2>&1 || { tail -n 60 "$work/out"; exit 1; }
grep -q '^50! = 30414093201713378043612608166064768844377641568960512000000000000' "$work/out"
grep -q ' derivations, [0-9]* s, on two machines; the head built none.' "$work/out"
grep -q '^2 items (.*) substituted, a source downloaded, and Lua built, ' "$work/out"
[ -z "$(left)" ] || { echo "left behind:"; left; exit 1; }

if [ "$(id -u)" = 0 ]; then
    # Users can make no namespaces there, and are told so before anything is compiled.
    cp demo/namespaces "$work"
    chmod 755 "$work" "$work/namespaces"
    status=0
    (in_chroot setpriv --reuid=65534 --regid=65534 --clear-groups "$work/namespaces") >"$work/out" 2>&1 || status=$?
    [ $status = 1 ] && grep -q 'in no chroot: run `make demo'\'' as root' "$work/out" ||
        { cat "$work/out"; exit 1; }
else
    in_chroot() { exec "$@"; }
    echo 'SKIPPED: in a chroot (needs root)'
fi

# In a chroot, and interrupted in the middle of the builds: nothing stays either.
interrupted_run TERM 143
