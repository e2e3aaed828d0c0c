//! The processes and files on a farm, and what is left behind.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::farm::Farm;
use crate::harness::{eventually, program};
use crate::namespaces::Process;

impl Farm {
    /// The processes on the head (except its builders).
    pub fn head_processes(&self) -> Vec<Process> {
        let mut all = self.head.processes("net");
        all.retain(|process| process.pid != self.head.pid);
        all
    }

    /// The hooks that run.
    pub fn hooks(&self) -> Vec<Process> {
        let mut all = self.head_processes();
        all.retain(|process| process.name() == "guix-offload");
        all
    }

    /// `ssh` processes that serve one hook, and end with it.
    pub fn ssh_sessions(&self) -> Vec<Process> {
        let mut all = self.head_processes();
        all.retain(|process| process.name() == "ssh" && !process.line.contains("[mux]"));
        all
    }

    /// `ssh` processes of the shared connections.
    pub fn ssh_masters(&self) -> Vec<Process> {
        let mut all = self.head_processes();
        all.retain(|process| process.name() == "ssh" && process.line.contains("[mux]"));
        all
    }

    /// The log that is kept of a build on the head.
    pub fn kept_log(&self, drv: &formats::StorePath) -> String {
        let (first, rest) = drv.base_name().split_at(2);
        let file = self.site.log().join("drvs").join(first).join(rest);
        fs::read_to_string(file).unwrap_or_default()
    }

    /// The hook's directory.
    pub fn offload_directory(&self) -> PathBuf {
        self.site.state().join("offload")
    }

    /// The hook's data about a machine.
    pub fn health(&self, index: usize) -> serde_json::Value {
        let directory = format!("build-{}:22", index + 1);
        let file = self.offload_directory().join(directory).join("health.json");
        serde_json::from_slice(&fs::read(file).unwrap_or_default()).unwrap_or_default()
    }

    /// Deletes the hook's data about all machines.
    pub fn forget(&self) {
        for machine in &self.machines {
            let directory = self
                .offload_directory()
                .join(format!("{}:22", machine.name));
            let _ = fs::remove_file(directory.join("health.json"));
        }
    }

    /// The slots in use, as files.
    pub fn taken_slots(&self) -> Vec<PathBuf> {
        let mut taken = Vec::new();
        for machine in names(&self.offload_directory()) {
            let directory = self.offload_directory().join(machine);
            if !directory.is_dir() {
                continue;
            }
            for file in names(&directory) {
                let file = directory.join(file);
                if file
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .parse::<u32>()
                    .is_ok()
                    && is_locked(&file)
                {
                    taken.push(file);
                }
            }
        }
        taken
    }

    /// Ends the shared connections, as the administrator would.
    pub fn end_masters(&self) {
        for master in self.ssh_masters() {
            master.kill();
        }
        eventually(|| self.ssh_masters().is_empty());
    }

    /// Checks that nothing is left of builds that have ended: no process, lock or temporary file.
    /// (The shared connections may stay.)
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let daemon = program();
        let daemon = daemon.file_name().unwrap();
        let stays = |process: &Process| match process.name() {
            name if daemon == name => false,
            "guix-daemon" | "guix-daemon-forkserver" => false,
            "ssh" => !process.line.contains("[mux]"),
            _ => true,
        };
        let left = || -> Vec<Process> { self.head_processes().into_iter().filter(stays).collect() };
        assert!(
            eventually(|| left().is_empty()),
            "processes are left: {:#?}",
            left()
        );
        assert!(
            eventually(|| self.taken_slots().is_empty()),
            "slots: {:?}",
            self.taken_slots()
        );
        self.assert_no_temporary_files();
        for machine in &self.machines {
            machine.assert_nothing_left();
        }
    }

    fn assert_no_temporary_files(&self) {
        let offload = self.offload_directory();
        for directory in names(&offload) {
            let files = names(&offload.join(&directory));
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let temporary = |name: &&String| {
                name.rsplit_once('.').is_some_and(|(stem, end)| {
                    digits(end) && (stem.ends_with("json") || stem.ends_with("hosts"))
                })
            };
            let left: Vec<_> = files.iter().filter(temporary).collect();
            assert!(left.is_empty(), "in {directory}: {left:?}");
        }
        let clean = || locks_and_temporary(&self.site.store()).is_empty();
        assert!(
            eventually(clean),
            "{:?}",
            locks_and_temporary(&self.site.store())
        );
    }
}

/// The sorted names in a directory; none if there is no such directory.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The items in a store.
pub fn store_items(store: &Path) -> Vec<String> {
    let mut names = names(store);
    names.retain(|name| !name.starts_with('.') && !name.ends_with(".lock"));
    names
}

/// Locks that are held, and temporary files of unpacking.
pub fn locks_and_temporary(store: &Path) -> Vec<String> {
    let mut names = names(store);
    names.retain(|name| {
        let file = store.join(name);
        let held = name.ends_with(".lock") && is_locked(&file);
        let temporary = ["guix-", "nix-"]
            .iter()
            .any(|start| name.starts_with(start));
        held || temporary || name.ends_with(".chroot")
    });
    names
}

/// Whether a process holds a lock on a file.
pub fn is_locked(file: &Path) -> bool {
    let Ok(metadata) = fs::metadata(file) else {
        return false;
    };
    if !metadata.is_file() {
        return false;
    }
    let inode = format!(":{} ", metadata.ino());
    fs::read_to_string("/proc/locks")
        .unwrap()
        .lines()
        .any(|line| line.contains(&inode))
}
