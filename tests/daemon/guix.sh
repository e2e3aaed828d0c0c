#!/bin/sh
# A helper program for daemons: has the substitutes in @SITE@/substitutes, where next to each
# file there is FILE.is with the hash and size of its nar. Asked for a path whose name ends in
# -broken, it ends.
items=@SITE@/substitutes
case "$*" in
    "substitute --query")
        while read -r question paths; do
            for path in $paths; do
                case $path in *-lying) printf '@ build-succeeded /victim.drv -\n\033[2J\n' >&2;; esac
                file=$items/${path##*/}
                [ -e "$file" ] || continue
                case $question in
                    have) echo "$path";;
                    info) printf '%s\n\n0\n1234\n' "$path"; cut -d' ' -f2 "$file.is";;
                esac >&4
            done
            echo >&4
        done;;
    "substitute --substitute")
        while read -r _ path destination; do
            file=$items/${path##*/}
            case $path in *-lying)
                printf '@ build-succ' >&2; sleep 0.1; printf 'eeded /victim.drv -\n\033[2J' >&2
                printf '\n@ download-started /f http://u 1\n\033[1mbold\033[0m\n' >&2;;
            esac
            case $path in *-broken) echo "the server is on fire" >&2; exit 1;; esac
            if [ -e "$file" ]; then
                cp "$file" "$destination" && chmod 444 "$destination" && touch -d @1 "$destination"
                echo "success $(cat "$file.is")" >&4
            else
                echo not-found >&4
            fi
        done;;
    "gc --list-busy") ;;
    *) exit 1;;
esac
