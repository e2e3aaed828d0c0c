//! A head whose jobs are containers of the real Podman.
//!
//! Containers, volumes and what Podman writes down about them are in the head's directory: the mount
//! namespace of the head shows it in the places where Podman has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::entry::Entry;
use crate::farm::{DAEMON, Farm, HOOK, SYSTEM};
use crate::harness::derivations::Client;
use crate::harness::{copy_program, eventually, skip};
use crate::inspection::names;
use crate::namespaces::{Process, output};

/// Shell code: what Podman writes goes to `$1`. Where a machine has control groups of both versions,
/// Podman's runtime takes those of the first one only.
const OWN_PLACES: &str =
    "for place in /var/lib/containers /run/containers /run/libpod /run/crun /dev/shm; do
        mkdir -p \"$place\" \"$1$place\"; mount --bind \"$1$place\" \"$place\"
    done
    if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi";

/// What the administrator of some machines has to add: where root may not raise limits, or where there
/// are no control groups.
const ADDITIONS: [&[&str]; 4] = [
    &[],
    &["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"],
    &["--cgroups=disabled"],
    &[
        "--cgroups=disabled",
        "--ulimit=nofile=1024:1024",
        "--ulimit=nproc=1000:1000",
    ],
];

/// A head, and the root directory of containers.
pub struct PodmanFarm {
    pub farm: Farm,
    /// The options that Podman needs on this machine.
    additions: &'static [&'static str],
}

impl PodmanFarm {
    /// A head that builds nothing itself, with this entry. `None`, and the test is skipped, where Podman
    /// can start no container at all.
    pub fn new(change: impl FnOnce(Entry) -> Entry) -> Option<PodmanFarm> {
        let farm = Farm::with(&[]);
        let places = farm.site.path("podman");
        make_root(&farm.site.path("container"));
        let mut command = Command::new("sh");
        command.args(["-ec", OWN_PLACES, "sh"]).arg(&places);
        let (succeeded, text) = output(farm.on_head(&command), b"");
        assert!(succeeded, "{text}");
        let mut podman = PodmanFarm {
            farm,
            additions: &[],
        };
        if let Err(reason) = podman.find_additions() {
            skip(&format!("podman can start no container here: {reason}"));
            return None;
        }
        podman.farm.configure(&[change(podman.entry())]);
        podman.farm.start(&["--max-jobs=0"]);
        Some(podman)
    }

    /// Finds out with which options containers run here.
    fn find_additions(&mut self) -> Result<(), String> {
        let root = self.root();
        let mut said = "there is no podman".to_owned();
        for additions in ADDITIONS {
            let mut words = vec!["run", "--rm", "--network=none"];
            words.extend(additions);
            words.extend(["--rootfs", root.to_str().unwrap()]);
            words.extend(["/bin/guix-offload", "--version"]);
            let (succeeded, text) = match which("podman") {
                true => self.podman(&words),
                false => break,
            };
            if succeeded {
                self.additions = additions;
                return Ok(());
            }
            said = text.trim().replace('\n', "; ");
        }
        Err(said)
    }

    /// The root directory of all containers.
    pub fn root(&self) -> PathBuf {
        self.farm.site.path("container")
    }

    /// The entry: as in the manual.
    pub fn entry(&self) -> Entry {
        let root = self.root();
        let mut options = self.additions.to_vec();
        options.extend(["--rootfs", root.to_str().unwrap()]);
        Entry::default()
            .text("name", "containers")
            .list("systems", &[SYSTEM])
            .text("transport", "command")
            .text("scheduler", "podman")
            .text("worker", "/bin/guix-offload")
            .list("options", &options)
            .plain("parallel-builds", "2")
            .text("trust", "connection")
            .plain("idle", "60")
    }

    /// Whether Podman succeeds on the head, and what it prints.
    pub fn podman(&self, words: &[&str]) -> (bool, String) {
        self.farm.try_run("podman", words)
    }

    /// The file with what hooks know of how the pool is.
    pub fn health(&self) -> PathBuf {
        let directory = self.farm.offload_directory();
        directory.join("containers:22/health.json")
    }

    /// The names of all containers, those that have ended, too.
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        let (succeeded, text) = self.podman(&["ps", "--all", "--format={{.Names}}"]);
        assert!(succeeded, "{text}");
        text.lines().map(str::to_owned).collect()
    }

    /// A client that requests offloading.
    pub fn client(&self) -> Client {
        self.farm.client()
    }

    /// The processes on the head with this program.
    pub fn processes(&self, program: &str) -> Vec<Process> {
        let mut all = self.farm.head_processes();
        all.retain(|process| process.name() == program);
        all
    }

    /// The keepers.
    pub fn keepers(&self) -> Vec<Process> {
        let mut all = self.processes("guix-offload");
        all.retain(|process| process.line.ends_with(" keeper"));
        all
    }

    /// Checks that everything ends by itself: processes, containers, and files of containers.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        self.farm.assert_nothing_left();
        assert!(
            eventually(|| self.containers().is_empty()),
            "{:?}",
            self.containers()
        );
        let (succeeded, volumes) = self.podman(&["volume", "ls", "--quiet"]);
        assert!(succeeded && volumes.is_empty(), "{volumes}");
        let storage = self.farm.site.path("podman/var/lib/containers/storage");
        let mut files = names(&storage.join("volumes"));
        // (Where Podman once looks what its disk can do.)
        files.retain(|name| name != "backingFsBlockDev");
        assert_eq!(files, [""; 0]);
        for place in ["tmp", "worker-tmp"] {
            assert_eq!(names(&self.root().join(place)), [""; 0], "{place}");
        }
    }
}

/// Whether there is such a program.
fn which(name: &str) -> bool {
    system::process::find_program(name).is_some()
}

/// A root directory with the worker's programs, and the libraries that they need.
fn make_root(root: &Path) {
    let bin = root.join("bin");
    fs::create_dir_all(&bin).unwrap();
    copy_program(Path::new(HOOK), &bin.join("guix-offload"));
    copy_program(Path::new(DAEMON), &bin.join("guix-daemon"));
    let mut command = Command::new("ldd");
    command.arg(HOOK).arg(DAEMON);
    let (succeeded, text) = output(command, b"");
    assert!(succeeded, "{text}");
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let library = Path::new(library.trim_end_matches(':'));
        if library == Path::new(HOOK) || library == Path::new(DAEMON) {
            continue;
        }
        let copy = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(library, copy).unwrap();
    }
}
