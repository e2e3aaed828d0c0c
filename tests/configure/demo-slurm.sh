#!/bin/sh
# make demo-slurm, with installed programs, and without access to the build tree; and in a plain chroot.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
cd "$top"
[ "$(id -u)" = 0 ] || { echo 'needs root'; exit 77; }
export PATH="$PATH:/usr/sbin:/sbin"
command -v slurmctld >/dev/null || { echo 'Slurm is not installed'; exit 77; }
. tests/configure/demo/installed.sh

timeout 600 demo/run slurm >"$work/out" 2>&1 || { tail -n 90 "$work/out"; exit 1; }
grep -q '^50! = 30414093201713378043612608166064768844377641568960512000000000000' "$work/out"
grep -q "waiting for a job of 'cluster' .*: Resources" "$work/out"
grep -q ' derivations, [0-9]* s, by [0-9]* jobs of Slurm; the head built none, and no job is left.' "$work/out"
[ -z "$(left)" ] || { echo "left behind:"; left; exit 1; }

# In a chroot, and interrupted in the middle of the builds: nothing stays either.
interrupted_run HUP 129 slurm
