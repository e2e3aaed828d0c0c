#!/bin/sh
# The shells' completions of guix-client and guix-daemon offer commands, options and values, and
# nothing hidden, in each of the shells.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
for shell in bash zsh fish; do
    command -v $shell >/dev/null 2>&1 || { echo "$shell is not installed"; exit 77; }
done
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$top"
"${CARGO:-cargo}" run --release --quiet --bin guix-manual -- "$work"
"$top/pre-inst-env" guix-client manual "$work"
scripts=$work/completions
mkdir "$work/directory"
touch "$work/directory/file"
cd "$work/directory"

# complete_SHELL LINE: what the shell offers at the end of LINE, one a line.
# bash completes as if LINE had been typed: its own division into words, its own call.
cat >"$work/bash.sh" <<'END'
source "$1"
compopt() { :; }
line=$2
program=${line%% *}
# Readline divides at blanks and at `='.
COMP_WORDS=()
for word in $line; do
    while [[ $word == *=* ]]; do
        COMP_WORDS+=("${word%%=*}" =)
        word=${word#*=}
    done
    [[ -z $word ]] || COMP_WORDS+=("$word")
done
[[ $line != *' ' ]] || COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
registered=$(complete -p "$program")
function=${registered#*-F }
"${function%% *}" "$program" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
END
complete_bash() {
    bash --norc "$work/bash.sh" "$scripts/${1%% *}.bash" "$1"
}
# zsh only completes in an interactive shell, which has a terminal here.
cat >"$work/zsh.zsh" <<'END'
zmodload zsh/zpty
scripts=$1 line=$2 found=$3
zpty shell TERM=dumb zsh -f -i
cat >$found.setup <<SETUP
PROMPT= fpath=($scripts \$fpath)
autoload -Uz compinit
compinit -u -D
bindkey '^I' complete-word
compadd () {
    if [[ \${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "\$@"; return; fi
    local -a hits
    builtin compadd -A hits "\$@"
    [[ \$#hits == 0 ]] || print -rl -- \$hits >>$found
    builtin compadd "\$@"
}
finished () { : >$found.finished; exit }
comppostfuncs=(finished)
SETUP
zpty -w shell "source $found.setup; : >$found.ready"
until [[ -e $found.ready ]]; do sleep 0.05; done
zpty -w -n shell "$line"$'\t'
until [[ -e $found.finished ]]; do sleep 0.05; done
zpty -d shell
END
complete_zsh() {
    rm -f "$work"/found*
    touch "$work/found"
    timeout 100 zsh -f "$work/zsh.zsh" "$scripts" "$1" "$work/found"
    cat "$work/found"
}
complete_fish() {
    fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$scripts/${1%% *}.fish" "$1"
}

# Offered words are compared without `=' and a description, and options without their value.
offers() {
    line=$1; shift
    for shell in bash zsh fish; do
        complete_$shell "$line" >"$work/offered" 2>"$work/errors"
        if [ -s "$work/errors" ]; then
            echo "$shell: \`$line':"; cat "$work/errors"; exit 1
        fi
        cut -f 1 "$work/offered" | sed -e 's/=$//' -e 's/^--[a-z-]*=//' >"$work/words"
        for word; do
            case $word in
                !*) if grep -qxF -e "${word#!}" "$work/words"; then
                        echo "$shell: \`$line' offers ${word#!}"; exit 1
                    fi ;;
                *) grep -qxF -e "$word" "$work/words" ||
                        { echo "$shell: \`$line' does not offer $word, but:"; cat "$work/offered"; exit 1; } ;;
            esac
        done
    done
}

offers 'guix-client ' build archive gc offload log weather download add-text !manual !help
offers 'guix-client weather --' --substitute-urls --json
offers 'guix-client download --' --output --name --no-check-certificate
offers 'guix-client download --format=' nix-base32 hex
offers 'guix-client a' archive add add-text authorize
offers 'guix-client gc --list-' --list-dead --list-live --list-roots !--verify
offers 'guix-client build --' --hello --no-offload --verbosity !--no-build-hook !--list-dead
offers 'guix-client build --check --no-' --no-offload --no-substitutes
offers 'guix-client offload ' status test add remove drain return
offers 'guix-client offload add --' --fingerprint --authorize --dry-run
offers 'guix-client offload drain --' --reason --wait
offers 'guix-client offload status --' --json --prometheus --watch 
offers 'guix-client add-text --' --reference
offers 'guix-client hash --format ' nix-base32 base32 base64 hex !base16
offers 'guix-client hash --format=h' hex
offers 'guix-client hash --format=' nix-base32 hex
offers 'guix-client hash -H sha' sha256 sha512 !md5
offers 'guix-client build -v ' 0 1 3
offers 'guix-client gc --verify=' contents repair
offers 'guix-client dashboard --' --listen --host
offers 'guix-client processes -f ' recutils
offers 'guix-daemon --log-' --log-compression
offers 'guix-daemon --log-compression=' none gzip bzip2
offers 'guix-daemon --gc-keep-outputs=' yes no
offers 'guix-daemon --no-' --no-offload --no-substitutes !--no-build-hook

# Once as a person does it: keys are typed, and bash divides the line into words.
mkfifo "$work/keys"
TERM=xterm script -qefc "bash --noprofile --rcfile '$scripts/guix-client.bash' -i" /dev/null \
    <"$work/keys" >"$work/screen" 2>&1 &
terminal=$!
exec 3>"$work/keys"
types() {
    printf '%s\t' "$1" >&3
    tries=0
    until grep -qF -e "$2" "$work/screen"; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] || { echo "bash does not complete \`$1':"; cat "$work/screen"; exit 1; }
        sleep 0.1
    done
    # Deletes the line.
    printf '\025' >&3
}
types 'guix-client gc --list-b' --list-busy
types 'guix-client hash --format=he' --format=hex
types 'guix-client offload st' 'offload status'
printf 'exit\n' >&3
exec 3>&-
wait $terminal

# All scripts are loaded, those of programs without options too.
for script in "$scripts"/*.fish; do
    fish --no-config -c 'source $argv[1]' "$script" >"$work/errors" 2>&1
    [ ! -s "$work/errors" ] || { echo "$script:"; cat "$work/errors"; exit 1; }
done
for script in "$scripts"/*.bash; do bash -n "$script"; done
