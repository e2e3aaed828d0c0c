//! A head with a pool, whose scheduler is a script: it counts the jobs, and does what a test tells it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::entry::Entry;
use crate::farm::{Farm, HOOK, SYSTEM, names};
use crate::harness::derivations::Client;
use crate::harness::eventually;
use crate::namespaces::Process;

/// What stands for `srun`: its words are the job's name, options, `--`, and the worker's command line.
const LAUNCHER: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >>"$here/launched"
id -un >>"$here/users"
case $(cat "$here/mode") in
    busy) echo 'srun: error: Requested nodes are busy' >&2; exit 1 ;;
    wrong) echo 'srun: error: invalid partition specified: x' >&2; exit 1 ;;
    banner) echo 'Welcome to node 7'; echo; printf 'no end of line' ;;
    version) echo 'guix-offload worker 99'; sleep 1000 ;;
    noise) yes 'The quota is exceeded' ;;
    deaf)
        # A worker that says very much, and reads nothing.
        hello='{"version":2,"host":"deaf","system":"none","cores":1,"key":"(none)"}'
        printf '\nguix-offload worker 2\n'
        printf '\001\000\000\000\'"$(printf %03o ${#hello})"'\000\000\000%s' "$hello"
        while :; do printf '\007\000\000\000\000\000\000\000'; done ;;
    limit) (sleep 1; echo 'slurmstepd: error: CANCELLED DUE TO TIME LIMIT' >&2; kill 0) & ;;
esac
case " $* " in *' --gres=none '*) echo 'srun: error: Invalid generic resource' >&2; exit 1 ;; esac
while [ "$(cat "$here/mode")" = pending ]; do sleep 0.05; done
until [ "$1" = -- ]; do shift; done
shift
exec "$@"
"#;

/// What stands for `scancel`.
const CANCELLER: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$1" >>"$here/cancelled"
[ ! -e "$here/refuses" ]
"#;

/// A head and the scripts of a scheduler.
pub struct PoolFarm {
    pub farm: Farm,
}

impl PoolFarm {
    /// A head that builds nothing itself, and has a pool with this entry; its daemon runs.
    pub fn new(change: impl FnOnce(Entry) -> Entry) -> PoolFarm {
        let pool = PoolFarm::stopped();
        pool.farm.configure(&[change(pool.entry())]);
        let mut farm = pool.farm;
        farm.start(&["--max-jobs=0"]);
        PoolFarm { farm }
    }

    /// The same, without a daemon and a machine file.
    pub fn stopped() -> PoolFarm {
        let farm = Farm::with(&[]);
        let directory = farm.site.path("scheduler");
        fs::create_dir(&directory).unwrap();
        let pool = PoolFarm { farm };
        for (name, text) in [("launch", LAUNCHER), ("cancel", CANCELLER)] {
            let file = pool.file(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        pool.set_mode("run");
        pool
    }

    /// A file of the scheduler.
    pub fn file(&self, name: &str) -> PathBuf {
        self.farm.site.path("scheduler").join(name)
    }

    /// What the launcher does from now on: `run`, or one of its modes.
    pub fn set_mode(&self, mode: &str) {
        let (new, file) = (self.file("mode.new"), self.file("mode"));
        fs::write(&new, mode).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// The entry of a pool of one job at a time, whose workers are trusted by their connection.
    pub fn entry(&self) -> Entry {
        let file = |name| self.file(name).to_str().unwrap().to_owned();
        Entry::default()
            .text("name", "pool")
            .list("systems", &[SYSTEM])
            .text("transport", "command")
            .list(
                "command",
                &[&file("launch"), "{job}", "{options}", "--", "{worker}"],
            )
            .list("cancel", &[&file("cancel"), "{job}"])
            .list("pending", &["echo", "Resources; $HOME"])
            .list("busy", &["nodes are busy"])
            .text("worker", HOOK)
            .text("trust", "connection")
            .plain("idle", "60")
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The words of each job that was started.
    pub fn launched(&self) -> Vec<String> {
        self.lines("launched")
    }

    /// The users as whom jobs were started.
    pub fn users(&self) -> Vec<String> {
        self.lines("users")
    }

    /// The names of the jobs that were cancelled.
    pub fn cancelled(&self) -> Vec<String> {
        self.lines("cancelled")
    }

    /// A client that requests offloading.
    pub fn client(&self) -> Client {
        self.farm.client()
    }

    /// The keepers that run.
    pub fn keepers(&self) -> Vec<Process> {
        let mut all = self.farm.hooks();
        all.retain(|process| process.line.ends_with(" keeper"));
        all
    }

    /// The launchers and workers that run.
    pub fn workers(&self) -> Vec<Process> {
        let mut all = self.farm.head_processes();
        let launcher = self.file("launch").to_str().unwrap().to_owned();
        all.retain(|process| process.line.contains(&launcher) || process.line.contains(" worker"));
        all
    }

    /// What the hook knows about the pool.
    pub fn health(&self) -> serde_json::Value {
        let file = self.farm.offload_directory().join("pool:22/health.json");
        serde_json::from_slice(&fs::read(file).unwrap_or_default()).unwrap_or_default()
    }

    /// Kills all keepers, which ends their jobs at once.
    pub fn kill_keepers(&self) {
        for keeper in self.keepers() {
            keeper.kill();
        }
    }

    /// Kills all keepers, and checks that nothing is left.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        self.kill_keepers();
        self.assert_ends();
    }

    /// Checks that everything has ended by itself.
    #[track_caller]
    pub fn assert_ends(&self) {
        self.farm.assert_nothing_left();
        let temporary = || -> Vec<String> {
            let mut all = names(&self.farm.site.path("tmp"));
            all.retain(|name| name.contains("worker"));
            all
        };
        assert!(eventually(|| temporary().is_empty()), "{:?}", temporary());
    }
}
