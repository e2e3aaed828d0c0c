#!/bin/sh
# What demo.sh and demo-slurm.sh begin with: programs that are installed in a directory `work', and `left', which
# tells what a demonstration has left behind.

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
make -s install prefix="$work/p" >/dev/null
"${CARGO:-cargo}" build --release --quiet --bin guix-demo
# Its directories are made here, so that what it leaves can be seen.
mkdir "$work/tmp"
export DEMO_PREFIX=$work/p TMPDIR=$work/tmp
left() { ls -A "$work/tmp"; grep -las "work=$work/tmp/guix-demo" /proc/[0-9]*/environ || true; }
