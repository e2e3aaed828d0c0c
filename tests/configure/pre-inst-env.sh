#!/bin/sh
# pre-inst-env: the uninstalled programs and Guix's directories; the user's word stays.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cp -R "$top/autoconf-compat" "$top/pre-inst-env" "$work"
mkdir -p "$work/target/release"
printf '#!/bin/sh\necho client "$@"\n' >"$work/target/release/guix-client"
chmod +x "$work/target/release/guix-client"
unset CARGO_TARGET_DIR NIX_BUILD_HOOK GUIX_FETCH GUIX_STATE_DIRECTORY GUIX_CONFIGURATION_DIRECTORY \
    GUIX_DATABASE_DIRECTORY GUIX_LOG_DIRECTORY NIX_STORE_DIR || true
cd /
env="$work/pre-inst-env"
is() { [ "$1" = "$2" ] || { echo "got \`$1', not \`$2'"; exit 1; }; }
is "$("$env" printenv NIX_BUILD_HOOK)" "$work/target/release/guix-offload"
is "$("$env" printenv GUIX_FETCH)" "$work/target/release/guix-fetch"
is "$("$env" printenv GUIX_STATE_DIRECTORY)" /var/guix
is "$("$env" printenv GUIX_DATABASE_DIRECTORY)" /var/guix/db
is "$("$env" printenv GUIX_CONFIGURATION_DIRECTORY)" /etc/guix
is "$(NIX_BUILD_HOOK=/my/hook "$env" printenv NIX_BUILD_HOOK)" /my/hook
# What configure chose is taken over.
printf 'storedir = "/s"\nguix_statedir = "/state/guix"\n' >"$work/config.status.toml"
is "$("$env" printenv GUIX_STATE_DIRECTORY)" /state/guix
is "$("$env" printenv NIX_STORE_DIR)" /s
# A `guix' where there is none; a real one is preferred.
is "$(PATH=/usr/bin:/bin "$env" sh -c 'command -v guix >/dev/null && guix build "two words"')" \
    'client build two words'
mkdir "$work/bin"
printf '#!/bin/sh\necho real\n' >"$work/bin/guix"; chmod +x "$work/bin/guix"
is "$(PATH=$work/bin:/usr/bin:/bin "$env" guix)" real
status=0; "$env" sh -c 'exit 7' || status=$?
is $status 7
status=0; "$env" 2>/dev/null || status=$?
is $status 64
