#!/bin/sh
# What demo.sh and demo-slurm.sh begin with: programs that are installed in a directory `work'; `left', which
# tells what a demonstration has left behind; and demonstrations that are interrupted.

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
make -s install prefix="$work/p" >/dev/null
"${CARGO:-cargo}" build --release --quiet --bin guix-demo
# Its directories are made here, so that what it leaves can be seen.
mkdir "$work/tmp"
export DEMO_PREFIX=$work/p TMPDIR=$work/tmp
left() { ls -A "$work/tmp"; grep -las "work=$work/tmp/guix-demo" /proc/[0-9]*/environ || true; }

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

# interrupted_run SIGNAL STATUS [slurm]: a demonstration in a chroot, interrupted in the middle of the builds.
interrupted_run() {
    signal=$1 expected=$2; shift 2
    in_chroot env --default-signal="$signal" demo/run "$@" >"$work/out" 2>&1 &
    demo=$!
    tries=0
    until grep -q '^demo: building' "$work/out"; do
        tries=$((tries + 1))
        [ $tries -lt 6000 ] && kill -0 $demo || { tail -n 60 "$work/out"; exit 1; }
        sleep 0.1
    done
    sleep 1
    kill -"$signal" $demo
    status=0
    wait $demo || status=$?
    [ $status = "$expected" ] || { echo "exit status $status"; exit 1; }
    grep -qx 'demo: interrupted; nothing of it is left' "$work/out" || { tail -n 9 "$work/out"; exit 1; }
    [ -z "$(left)" ] || { echo "left behind after an interruption:"; left; exit 1; }
}
