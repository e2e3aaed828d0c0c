#!/bin/sh
# autoconf-compat/patiently: says that a silent command is at work, and is otherwise that command.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
patiently=$top/autoconf-compat/patiently
is() { [ "$1" = "$2" ] || { echo "got \`$1', not \`$2'"; exit 1; }; }

# It ends when the first line is there, however long that takes.
export work
"$patiently" 1 'waiting for a line' sh -c '
    until grep -q . "$work/said"; do sleep 0.1; done
    echo done; exit 7' >"$work/out" 2>"$work/said" || echo $? >"$work/status"
is "$(cat "$work/status")" 7
is "$(cat "$work/out")" 'done'
is "$(head -n 1 "$work/said" | tr -d 0-9)" '... waiting for a line,  s'

# What is read and the words are the command's own; the process is, too, so a signal reaches it.
is "$(echo 'two words' | "$patiently" 60 '' sh -c 'cat; echo "$1"' sh 'a  b')" 'two words
a  b'
"$patiently" 60 '' sh -c 'trap "echo got it >\"$work/signal\"; exit 0" TERM; touch "$work/ready"
    while :; do sleep 0.1; done' &
command=$!
until [ -e "$work/ready" ]; do sleep 0.1; done
kill -TERM $command
wait $command
is "$(cat "$work/signal")" 'got it'
