#!/bin/sh
# For tests/packages/check: a fresh machine that has nothing but the packages substitutes a compiler, downloads a
# source, and builds Lua with it, from a server on the test network.
#
# The server is a machine like it, with gcc and nginx besides: its daemon builds the compiler's store item
# from Debian's packages, as `make demo' does (demo/toolchain), and `guix-demo' writes what nginx serves.

server=10.78.0.1

step_show() {
    if [ ! -e "$work/fresh" ]; then return; fi
    try 'a server has a compiler as a substitute, and a source' serve
    machine server 1 server-root installed || { failed=$((failed + 1)); return; }
    try 'it is built, signed and served' publish
    try 'a fresh machine substitutes, downloads and builds a program' fetch_and_build
}

# The server's root: the installed one, with more packages, and what is to be built.
serve() {
    overlay server-root "$work/installed/upper:$cache/trixie"
    root=$work/server-root/root
    apt_install "$root" gcc libc6-dev linux-libc-dev binutils patchelf nginx-light busybox-static
    mkdir -p "$root/demo/busybox/bin" "$root/demo/sources" "$root/demo/www"
    cp -R demo/toolchain demo/main.c demo/script.lua demo/scripts "$root/demo"
    cp -R "$built/lua" "$root/demo/lua"
    cp "$built/lua/"*.[ch] demo/main.c "$root/demo/sources"
    inside "$root" sh -eu -c 'cd /demo
        ./toolchain /demo/gathered-toolchain
        rm toolchain
        mv gathered-toolchain toolchain
        cp /usr/bin/busybox busybox/bin
        for applet in sh cp rm mkdir chmod cat head grep find tee tar; do ln -s busybox busybox/bin/$applet; done
        tar -cf www/lua-source.tar -C sources .
        echo changed >sources/changed
        tar -cf other.tar -C sources .
        chmod -R a+rX /demo'
    cat >"$root/etc/nginx/nginx.conf" <<CONF
events { }
http { access_log off; server { listen $server:80; root /demo/www; } }
CONF
    # nginx's own service starts it before there is an address.
    rm -f "$root/etc/systemd/system/multi-user.target.wants/nginx.service"
}

# item NAME: its output in the plan of the server.
item() { sed -n "s/^$1\t\([^\t]*\)\t.*/\1/p" "$work/server/root/demo/plan"; }

publish() {
    cp "$built/guix-demo" "$work/server/root/usr/local/bin"
    on server guix-client archive --generate-key >/dev/null 2>&1
    on server guix-demo derive /demo /demo/plan
    on server guix-client build "$(sed -n 's/^gcc-toolchain\t.*\t//p' "$work/server/root/demo/plan")"
    on server guix-demo publish /demo/www /demo/published "$(item gcc-toolchain)"
    on server chmod -R a+rX /demo/www
    on server systemctl start nginx
    until_true nginx on server busybox wget -q -O /dev/null "http://$server/lua-source.tar"
}

fetch_and_build() {
    [ -z "$(on fresh sh -c 'command -v guile guix gcc cc || true')" ]
    on fresh guix-client archive --authorize <"$work/server/root/etc/guix/signing-key.pub"
    mkdir -p "$work/fresh/root/etc/systemd/system/guix-daemon-rs.service.d" "$work/fresh/root/demo"
    printf '[Service]\nExecStart=\nExecStart=%s --substitute-urls=http://%s\n' \
        "$(sed -n 's/^ExecStart=//p' "$work/fresh/root/usr/lib/systemd/system/guix-daemon-rs.service")" "$server" \
        >"$work/fresh/root/etc/systemd/system/guix-daemon-rs.service.d/substitutes.conf"
    on fresh sh -c 'systemctl daemon-reload; systemctl restart guix-daemon-rs'
    cp "$built/guix-demo" "$work/fresh/root/usr/local/bin"
    cp -R demo/script.lua "$work/server/root/demo/published" "$work/server/root/demo/www/lua-source.tar" \
        "$work/server/root/demo/other.tar" "$work/fresh/root/demo"
    before=$(date +%s)
    on fresh guix-client build "$(item gcc-toolchain)"
    on fresh guix-demo derive-fresh /demo /demo/published "http://$server/" /demo/lua-source.tar /demo/plan
    on fresh guix-client build "$(tail -n 1 "$work/fresh/root/demo/plan" | cut -f 3)"
    on fresh guix-demo report-fresh /demo/plan /demo/published / $(($(date +%s) - before)) >"$work/table"
    cat "$work/table"
    sed 's/^/TABLE:/' "$work/table"
    grep -q ' substituted, a source downloaded, and Lua built' "$work/table"
}

# busy_build: a build whose end `end_busy_build' decides: the download of a source that does not arrive
# before.
busy_build() {
    mkfifo "$work/server/root/demo/answer"
    : >"$work/server/root/demo/request"
    # A writer that stays: the server's program reads its answer from it.
    exec 3<>"$work/server/root/demo/answer"
    on server busybox nc -l -p 8081 <"$work/server/root/demo/answer" >"$work/server/root/demo/request" &
    # 1F91 is the port.
    until_true 'the server' on server grep -qs ':1F91 .* 0A ' /proc/net/tcp /proc/net/tcp6
    on fresh guix-demo derive-fresh /demo /demo/published "http://$server:8081/" /demo/other.tar /demo/plan2
    on fresh guix-client build "$(sed -n 's/^lua-source.tar\t.*\t//p' "$work/fresh/root/demo/plan2")" \
        >"$work/busy" 2>&1 &
    client=$!
    until_true 'the request' grep -q '^GET /lua-source.tar' "$work/server/root/demo/request" || { cat "$work/busy"; exit 1; }
}
end_busy_build() {
    kill -0 "$client" || { cat "$work/busy"; fail 'the build has ended'; }
    source=$work/server/root/demo/other.tar
    { printf 'HTTP/1.1 200 OK\r\nContent-Length: %s\r\nConnection: close\r\n\r\n' "$(wc -c <"$source")"; cat "$source"; } >&3
    exec 3>&-
    wait "$client" || { cat "$work/busy"; fail 'the build has failed'; }
}
