#!/bin/sh
# The manual names exactly the options there are, its links lead somewhere, and its commands for a
# checkout work as they stand.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$top/doc/src"

options() { grep -o -- '--[a-z][a-z0-9.-]*[a-z0-9]' | sort -u; }
same() {
    if ! diff "$work/manual" "$work/program" >"$work/diff"; then
        echo "$1: < in the manual only, > in the program only"; cat "$work/diff"; exit 1
    fi
}
# Every bulleted option, against the help; former names are hidden there.
grep '^- `--' invoking-guix-daemon.md | sed 's/:.*//' | options >"$work/manual"
{ "$top/pre-inst-env" guix-daemon --help | sed -n 's/^ *\(-[A-Za-z?], \)*\(--[a-z].*\)/\2/p' |
    sed 's/[ =[].*//' | options
  printf '%s\n' --no-build-hook --disable-store-optimization --disable-log-compression; } |
    sort -u >"$work/program"
same guix-daemon

# The client's, command by command.
for command in build log archive gc; do
    awk -v wanted="## $command" '/^## / { inside = $0 == wanted } inside' invoking-guix-client.md |
        grep '^- `--' | sed 's/:.*//' | options >"$work/manual"
    # Those of build are understood by archive too, and not told twice.
    "$top/pre-inst-env" guix-client $command --help |
        sed -n 's/^ *\(-[A-Za-z], \)*\(--[a-z-]*\).*/\2/p' | sort -u >"$work/$command"
    if [ $command = archive ]; then
        comm -23 "$work/archive" "$work/build" >"$work/program"
        echo --recursive >>"$work/program"
        sort -u -o "$work/program" "$work/program"
    else
        grep -v '^--help$' "$work/$command" >"$work/program"
    fi
    same "guix-client $command"
done

# Those of `offload' are those of its commands.
awk '/^## / { inside = $0 == "## offload" } inside' invoking-guix-client.md |
    grep '^- `--' | sed 's/:.*//' | options >"$work/manual"
for command in status test add remove drain return; do
    "$top/pre-inst-env" guix-client offload $command --help | sed -n 's/^ *\(-[A-Za-z], \)*\(--[a-z-]*\).*/\2/p'
done | grep -v '^--help$' | sort -u >"$work/program"
same 'guix-client offload'

# Variables: what the programs read and the manual tells is the same.
variables() { grep -o '\(GUIX\|NIX\)_[A-Z_]*[A-Z]' | sort -u; }
sed -n '/^## Environment variables/,/^## Messages/p' invoking-guix-daemon.md | variables >"$work/manual"
{ cd "$top"
  grep -rhE --include='*.rs' '(var|var_os|try_from_env|variable|directory)\(&?\[?"(GUIX|NIX)_|^(pub )?const [A-Z_]*: &str = "(GUIX|NIX)_' \
      daemon hook client fetch crates/*/src | variables
  # The programs read these by way of lists and constants of several lines.
  grep -rhoE --include='*.rs' '"(NIX_STORE_DIR|NIX_STORE|NIX_BIN_DIR|GUIX_CONFIGURATION_DIRECTORY)"' crates/store/src | variables
} | grep -v -e '^GUIX_HELD' -e '^NIX_HELD' -e '^GUIX_TEST_' | sort -u >"$work/program"
same 'environment variables'
cd "$top/doc/src"
# The daemon's man page has those of the manual, but for what programs tell each other.
sed -n '/^## Environment variables/,/^## Messages/s/^| \(`[^|]*`\) |.*/\1/p' invoking-guix-daemon.md | tr -d '`,' |
    tr ' ' '\n' | grep -v -e '^GUIX_OFFLOAD_REASONS$' -e '^GUIX_OFFLOAD_FRAMES$' -e '^GUIX_OFFLOAD_TOKEN$' -e '^GUIX_OFFLOAD_ROWS$' -e '^and$' -e '^the$' -e '^like$' |
    sort -u >"$work/manual"
(cd "$top" && sed -n '/command: daemon_options::command/,/files: &\[/p' doc/manual.rs) |
    grep -o '"[A-Za-z_, ]*"' | grep '[a-z]_proxy\|[A-Z][A-Z]' | tr -d '",' | tr ' ' '\n' | sort -u >"$work/page"
comm -23 "$work/manual" "$work/page" >"$work/missing"
[ "$(wc -l <"$work/page")" -ge 20 ]
[ ! -s "$work/missing" ] || { echo 'guix-daemon(1) lacks variables of the manual:'; cat "$work/missing"; exit 1; }
# The hook's own, where its page and its help tell them.
for variable in GUIX_OFFLOAD_MACHINES GUIX_OFFLOAD_VERBOSE; do
    "$top/pre-inst-env" guix-offload --help | grep -q $variable || { echo "guix-offload --help: no $variable"; exit 1; }
    grep -q $variable offload.md machine-files.md || { echo "offload.md, machine-files.md: no $variable"; exit 1; }
done
# Fields of the machine file: those that are understood are those that are told.  (That their limits
# and defaults are right is a test of hook/machines/entry.rs; hook/machines/generator.rs tests those of commands.)
cat "$top/hook/machines/entry.rs" "$top/hook/machines/pool_fields.rs" |
    sed -n '/^\(pub \)*fn set(/,/^}/s/^        "\([a-z-]*\)" => .*/\1/p' | sort -u >"$work/program"
sed '/^## Entries from a command/,/^## machines$/d' machine-files.md |
    sed -n 's/^| `\([a-z-]*\)` |.*/\1/p' | sort >"$work/manual"
[ "$(wc -l <"$work/program")" -ge 15 ]
same 'fields of the machine file'

# Pages: all in the summary, all links good.
for page in *.md; do
    [ "$page" = SUMMARY.md ] || grep -q "($page)" SUMMARY.md || { echo "$page is not in SUMMARY.md"; exit 1; }
    sed -n 's/.*](\([a-z][^):#]*\.md\).*/\1/p' "$page" | while read -r target; do
        [ -f "$target" ] || { echo "$page: no page $target"; exit 1; }
    done
done

# Commands marked `Runs in a checkout.'
cat ./*.md | awk '/^```sh$/ { block = ""; inside = 1; next }
    /^```$/ && inside { if (block ~ /^# Runs in a checkout\./) printf "%s", block; inside = 0 }
    inside { block = block $0 "\n" }' >"$work/commands"
[ "$(grep -c '^# Runs in a checkout' "$work/commands")" -ge 2 ]
cd "$top"
sh -eu "$work/commands" >"$work/out" 2>&1 || { cat "$work/commands" "$work/out"; exit 1; }
