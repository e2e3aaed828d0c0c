#!/bin/sh
# The substitutes of a machine's daemon, which runs this as `guix': for each ITEM in
# @SITE@/substitutes there are ITEM.info and ITEM.status, what `guix substitute' answers. Writes what it
# fetches to the file `fetched' in its cache: our daemon lets it write nowhere else. If there is a file
# `dead' or `mute' beside the items, it dies when it should fetch or when it is asked; if there is
# `stuck', it does not fetch, makes a file `waiting' in its cache, and never ends.
items=@SITE@/substitutes
cache=@SITE@/state/substitute/cache
case "$*" in
    "substitute --query")
        while read -r question paths; do
            [ ! -e $items/mute ] || exit 1
            for path in $paths; do
                item=$items/${path##*/}
                [ -e "$item.info" ] || continue
                echo "$path"
                [ "$question" = have ] || cat "$item.info"
            done >&4
            echo >&4
        done;;
    "substitute --substitute")
        while read -r _ path destination; do
            item=$items/${path##*/}
            [ ! -e $items/dead ] || exit 1
            if [ -e $items/stuck ]; then mkdir -p $cache; echo >$cache/waiting; exec sleep 1000; fi
            mkdir -p $cache; echo "$path" >>$cache/fetched
            cp -a "$item" "$destination"
            echo "success $(cat "$item.status")" >&4
        done;;
    *) exec @GUIX@ "$@";;
esac
