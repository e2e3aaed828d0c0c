#!/bin/sh
# The configuration files in doc/examples: the manual shows them as they are, logrotate and promtool
# accept them, and they do what the manual says.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d)
daemon=
finish() {
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT
cd "$top"
fail() { echo "$*"; exit 1; }
export PATH="$PATH:/usr/sbin:/sbin"

# Shown in the manual, whole and unchanged.
shown() {
    awk '/^```/ { if (inside) { inside = 0; block++ } else inside = 1; next }
         inside { print > (work "/block" block + 0) }' work="$work" "doc/src/$2"
    for block in "$work"/block*; do
        if cmp -s "$block" "doc/examples/$1"; then rm "$work"/block*; return; fi
    done
    fail "doc/src/$2 does not show doc/examples/$1 as it is"
}
shown guix-daemon.logrotate logs.md
shown guix-offload.rules.yml prometheus.md

# Metrics: those that the program prints, the manual lists, and the rules use.
sed -n 's/^            "\([a-z_]*\)",$/\1/p; s/^        ("\([a-z_]*\)", .*/\1/p' hook/status/prometheus.rs |
    grep -v '^gauge$\|^counter$' | sort >"$work/program"
[ "$(wc -l <"$work/program")" -ge 9 ]
sed -n 's/^| `guix_offload_\([a-z_]*\)` .*/\1/p' doc/src/prometheus.md | sort >"$work/manual"
diff "$work/program" "$work/manual" || fail 'the metrics in the manual are not those of the program'
grep -o 'guix_offload_[a-z_]*' doc/examples/guix-offload.rules.yml | sed 's/guix_offload_//' | sort -u |
    comm -23 - "$work/program" >"$work/unknown"
[ ! -s "$work/unknown" ] || { cat "$work/unknown"; fail 'the rules name metrics that there are not'; }

# The daemon's log is rotated under the daemon, which goes on to write to it.
command -v logrotate >/dev/null || { echo 'logrotate is missing'; exit 77; }
sed "s|/var/log/|$work/|" doc/examples/guix-daemon.logrotate >"$work/conf"
chmod 644 "$work/conf"
logrotate -d "$work/conf" 2>"$work/out" || { cat "$work/out"; exit 1; }
if grep -i 'error' "$work/out"; then fail 'logrotate complains'; fi
export NIX_STORE_DIR="$work/store" GUIX_STATE_DIRECTORY="$work/var" GUIX_LOG_DIRECTORY="$work/log" \
    GUIX_CONFIGURATION_DIRECTORY="$work/etc"
unset GUIX_DAEMON_SOCKET
"$top/pre-inst-env" sh -c 'exec guix-daemon --no-offload' >>"$work/guix-daemon.log" 2>&1 </dev/null &
daemon=$!
log=$work/guix-daemon.log
# A client comes, and the log says so, once.
visit() {
    "$top/pre-inst-env" guix-client gc --list-live >/dev/null
    [ "$(grep -c '^accepted connection' "$log")" = 1 ] || { cat "$log"; fail 'not one line'; }
}
tries=0
until [ -S "$work/var/daemon-socket/socket" ]; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || { cat "$log"; fail 'the daemon did not start'; }
    kill -0 "$daemon" || { cat "$log"; fail 'the daemon ended'; }
    sleep 0.1
done
visit
logrotate -f -s "$work/state" "$work/conf"
zcat "$log.1.gz" | grep -q '^accepted connection'
visit
# Who does not append leaves zeros before the new line.
head -c 1 "$log" | grep -q a || fail 'the log has a hole'

# The rules.
# Debian has promtool in the server's package, which would start a server: only unpacked here.
if ! command -v promtool >/dev/null && command -v dpkg-deb >/dev/null; then
    if (cd "$work" && apt-get download prometheus && dpkg-deb -x prometheus_*.deb prometheus) \
        >"$work/download" 2>&1; then
        PATH=$PATH:$work/prometheus/usr/bin
    else
        cat "$work/download"
    fi
fi
command -v promtool >/dev/null || { echo 'promtool is missing (on Debian, package prometheus)'; exit 77; }
cp doc/examples/guix-offload.rules.yml "$work"
cat >"$work/tests.yml" <<'YAML'
rule_files: [guix-offload.rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'guix_offload_up{machine="a:22"}'
        values: '1+0x10 0+0x20'
      - series: 'guix_offload_up{machine="b:22"}'
        values: '1+0x30'
      - series: 'guix_offload_up{machine="c:22"}'
        values: '0+0x30'
      - series: 'guix_offload_drained{machine="c:22"}'
        values: '1+0x90'
      - series: 'guix_offload_slots{machine="c:22"}'
        values: '8+0x90'
      - series: 'guix_offload_slots_used{machine="c:22"}'
        values: '0+0x90'
      - series: 'guix_offload_drained{machine="a:22"}'
        values: '0+0x30'
      - series: 'guix_offload_failures_total{machine="b:22"}'
        values: '0+1x90'
      - series: 'guix_offload_free_bytes{machine="b:22"}'
        values: '1000000000+0x90'
      - series: 'guix_offload_slots{machine="b:22"}'
        values: '4+0x90'
      - series: 'guix_offload_slots_used{machine="b:22"}'
        values: '4+0x90'
      - series: 'node_textfile_mtime_seconds{file="/x/guix-offload.prom"}'
        values: '0+0x30'
    alert_rule_test:
      - { eval_time: 15m, alertname: GuixBuildMachineDown, exp_alerts: [] }
      - eval_time: 25m
        alertname: GuixBuildMachineDown
        exp_alerts:
          - exp_labels: { machine: "a:22" }
            exp_annotations: { summary: "Build machine a:22 has been unusable for ten minutes." }
      - { eval_time: 2m, alertname: GuixBuildMachineFailing, exp_alerts: [] }
      - eval_time: 80m
        alertname: GuixBuildMachineFailing
        exp_alerts:
          - exp_labels: { machine: "b:22" }
            exp_annotations: { summary: "Build machine b:22 failed 60 times in an hour." }
      - eval_time: 40m
        alertname: GuixBuildMachineFull
        exp_alerts:
          - exp_labels: { machine: "b:22" }
            exp_annotations: { summary: "Build machine b:22 has 953.7MiB left." }
      - { eval_time: 50m, alertname: GuixBuildMachinesBusy, exp_alerts: [] }
      - eval_time: 70m
        alertname: GuixBuildMachinesBusy
        exp_alerts:
          - exp_annotations:
              summary: "All slots of all build machines that are not drained have been taken for an hour."
      - { eval_time: 9m, alertname: GuixOffloadMetricsStale, exp_alerts: [] }
      - eval_time: 12m
        alertname: GuixOffloadMetricsStale
        exp_alerts:
          - exp_labels: { file: "/x/guix-offload.prom" }
            exp_annotations: { summary: "Nobody has asked the build machines for ten minutes." }
YAML
promtool check rules "$work/guix-offload.rules.yml"
promtool test rules "$work/tests.yml"
