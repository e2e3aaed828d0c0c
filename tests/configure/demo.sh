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

# in_chroot COMMAND...: in a root directory that is not a mount point.
in_chroot() {
    exec unshare --mount sh -euc '
        mkdir "$1"
        for entry in /*; do
            if [ -L "$entry" ]; then cp -P "$entry" "$1"
            elif [ -d "$entry" ]; then mkdir "$1$entry"; mount --rbind "$entry" "$1$entry"; fi
        done
        top=$2; jail=$1; shift 2
        exec chroot "$jail" sh -c "cd \"\$0\" && exec \"\$@\"" "$top" "$@"
    ' sh "$work/jail.$1" "$top" "$@"
}
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
in_chroot env demo/run >"$work/out" 2>&1 &
demo=$!
tries=0
until grep -q '^demo: building' "$work/out"; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] && kill -0 $demo || { tail -n 60 "$work/out"; exit 1; }
    sleep 0.1
done
sleep 1
kill -TERM $demo
status=0
wait $demo || status=$?
[ $status = 143 ] || { echo "exit status $status"; exit 1; }
tail -n 1 "$work/out" | grep -qx 'demo: interrupted; nothing of it is left' || { tail -n 9 "$work/out"; exit 1; }
[ -z "$(left)" ] || { echo "left behind after an interruption:"; left; exit 1; }
