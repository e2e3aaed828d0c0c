# A program in the place of `guix', for daemons with `--fetcher=guix': has the items of @SITE@/items, where
# beside each file there is FILE.is with the hash and size of its nar, and FILE.references.
# @SITE@/mode says how it behaves.
site=@SITE@
items=$site/items
store=@STORE@

# Tries to do what it must not, and says what it could do.
evil() {
    for place in "$site" "$store" "$site/state" "$site/state/db" "$site/etc" /etc /tmp /dev/shm; do
        { echo evil >"$place/evil-file"; } 2>/dev/null && echo "could write to $place"
        mkdir "$place/evil-directory" 2>/dev/null && echo "could make a directory in $place"
        ln -s /etc/passwd "$place/evil-link" 2>/dev/null && echo "could make a link in $place"
    done
    for other in "$(echo "$store"/*-victim-item)" "$site/etc/acl" "$site/state/db/db.sqlite" "$site/mode"; do
        [ -e "$other" ] || continue
        { echo evil >>"$other"; } 2>/dev/null && echo "could write to $other"
        chmod 777 "$other" 2>/dev/null && echo "could open $other to everybody"
        touch -d @12345 "$other" 2>/dev/null && echo "could change the time of $other"
        rm -f "$other" 2>/dev/null && echo "could delete $other"
        mv "$other" "$other.evil" 2>/dev/null && echo "could rename $other"
        ln "$other" "$1" 2>/dev/null && echo "could link $other" && rm "$1"
    done
    rm -rf "$site/state/substitute/cache" 2>/dev/null && echo "could delete its cache"
    mv "$site/state/substitute/cache" "$site/state/substitute/x" 2>/dev/null && echo "could move its cache"
    chmod 777 "${1%/*}/.." 2>/dev/null && echo "could open what is around its destination"
    mount -o remount,bind,rw "$store" 2>/dev/null && echo "could mount"
    mount -o remount,bind,rw / 2>/dev/null && echo "could mount /"
    umount "${1%/*}" 2>/dev/null && echo "could unmount its destination"
    mknod "$1" b 8 0 2>/dev/null && echo "could make a device" && rm "$1"
    mknod "$1" c 1 3 2>/dev/null && { echo >"$1"; } 2>/dev/null && echo "could use a device it has made"
    rm -f "$1"
    kill -0 "$(cat "$site/daemon")" 2>/dev/null && echo "could signal the daemon"
    echo x 2>/dev/null >/proc/sys/kernel/domainname && echo "could change the kernel's settings"
    GUIX_DAEMON_SOCKET=@SOCKET@ @CLIENT@ gc --verify >/dev/null 2>&1 && echo "could talk to the daemon"
    [ -n "$(cat "$site/etc/signing-key.sec")" ] && echo "could read the secret key"
    grep -q '^CapEff:.*[1-9a-f]' /proc/self/status && echo "has capabilities"
    grep -q '^NoNewPrivs:.*0' /proc/self/status && echo "may gain privileges"
    echo the cache >"$site/state/substitute/cache/mine" && echo "can write to its cache"
    echo "evil has ended"
}

case "$*" in
"substitute --query")
    while read -r question paths; do
        for path in $paths; do
            file=$items/${path##*/}
            [ -e "$file" ] || continue
            mode=$(cat $site/mode)
            case $question in
            have) echo "$path" ;;
            info)
                printf '%s\n\n' "$path"
                case $mode in
                fewer) echo 0 ;;
                *)
                    grep -c . "$file.references"
                    cat "$file.references"
                    ;;
                esac
                echo 0
                size=$(cut -d' ' -f2 "$file.is")
                case $mode in
                announced) echo $((size + 8)) ;;
                unknown) echo 0 ;;
                *) echo "$size" ;;
                esac
                ;;
            esac >&4
        done
        echo >&4
    done
    ;;
"substitute --substitute")
    while read -r _ path destination; do
        file=$items/${path##*/}
        is=$(cat "$file.is")
        echo "@ download-started $destination http://evil.example/x 1" >&2
        case $(cat $site/mode) in
        evil) evil "$destination" >&2 ;;
        options) printf '%s\n' "$_NIX_OPTIONS" | grep deduplicate >&2 ;;
        size) is="${is% *} $((${is#* } + 8))" ;;
        hash) is="sha256:$(printf %064d 0) ${is#* }" ;;
        esac
        case $(cat $site/mode) in
        nothing) ;;
        through)
            # A directory with a link, and what an unpacker does that writes through it.
            mkdir "$destination"
            ln -s "$site/etc/acl" "$destination/x"
            echo evil >"$destination/x"
            ;;
        beside) cp "$file" "${destination%/*}/../evil" && cp "$file" "$destination" ;;
        pipe) mkfifo "$destination" ;;
        socket-like) ln "$items/.." "$destination" 2>/dev/null || mkdir "$destination" ;;
        giant) truncate -s 1T "$destination" ;;
        half)
            mkdir "$destination" "$destination/d"
            cp "$file" "$destination/d/half"
            exit 1
            ;;
        children)
            cp "$file" "$destination"
            # One goes on writing to the file that it has open, others to the name.
            setsid sh -c 'exec 5<>"$1"; while :; do echo evil >&5; done' @MARK@ "$destination" >/dev/null 2>&1 4>&- &
            setsid sh -c 'sleep 1; while :; do echo evil >"$1"; done' @MARK@ "$destination" >/dev/null 2>&1 4>&- &
            ;;
        *)
            cp "$file" "$destination"
            chmod 6666 "$destination"
            ;;
        esac
        echo "success $is" >&4
    done
    ;;
"gc --list-busy") ;;
*) exit 1 ;;
esac
