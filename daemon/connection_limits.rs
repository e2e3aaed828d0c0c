//! How many clients may be connected at a time, so that none of them locks the others out.
//!
//! A session needs descriptors, a thread and memory maps, each of which is limited: by the process,
//! its control group, and the kernel. Sessions get a part of what is available when the daemon
//! starts; the rest is for builds. A thread that can't get a memory map would abort the whole
//! process, so the limit of sessions stays far below that.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

/// Descriptors of an idle session, with some to spare for operations: its socket, its temporary
/// roots, locks.
const DESCRIPTORS_PER_SESSION: u64 = 4;
/// Memory maps of a session's thread: its stack, its signal stack, a guard page for each, the
/// buffer of its connection, and its share of the allocator's arenas.
const MAPS_PER_SESSION: u64 = 8;
/// The minimum and the maximum of simultaneous sessions.
const SESSIONS: (u64, u64) = (8, 4096);

/// How many simultaneous sessions are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In total.
    pub total: usize,
    /// Of all users except root.
    pub unprivileged: usize,
    /// Of one user other than root, or of one address over TCP.
    pub per_client: usize,
}

/// The available amount of each resource that sessions use.
#[derive(Clone, Copy, Debug)]
struct Resources {
    descriptors: u64,
    tasks: u64,
    memory_maps: u64,
}

impl ConnectionLimits {
    /// Computes the limits from those of this process.
    pub fn of_this_process() -> ConnectionLimits {
        ConnectionLimits::from(Resources::of_this_process())
    }
}

impl From<Resources> for ConnectionLimits {
    fn from(resources: Resources) -> ConnectionLimits {
        // Half of the descriptors and maps, and a quarter of the tasks, since builds need
        // processes.
        let total = (resources.descriptors / DESCRIPTORS_PER_SESSION / 2)
            .min(resources.memory_maps / MAPS_PER_SESSION / 2)
            .min(resources.tasks / 4)
            .clamp(SESSIONS.0, SESSIONS.1) as usize;
        ConnectionLimits {
            total,
            unprivileged: total - total / 8,
            per_client: total / 4,
        }
    }
}

impl Resources {
    fn of_this_process() -> Resources {
        let limit = |resource| getrlimit(resource).map_or(u64::MAX, |(soft, _)| soft);
        let mut tasks = kernel_limit("kernel/threads-max").min(kernel_limit("kernel/pid_max"));
        if !nix::unistd::geteuid().is_root() {
            tasks = tasks.min(limit(Resource::RLIMIT_NPROC));
        }
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for file in task_limit_files(&groups) {
            tasks = tasks.min(read_limit(&file));
        }
        Resources {
            descriptors: limit(Resource::RLIMIT_NOFILE),
            tasks,
            memory_maps: kernel_limit("vm/max_map_count"),
        }
    }
}

fn kernel_limit(name: &str) -> u64 {
    read_limit(&Path::new("/proc/sys").join(name))
}

/// Reads a limit from a file; unlimited, if the file doesn't exist or contains `max`.
fn read_limit(file: &Path) -> u64 {
    fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u64::MAX)
}

/// The files with the task limits of the control groups in `/proc/self/cgroup`, and of their
/// ancestors: see `cgroups(7)`.
fn task_limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let root = match controllers {
            "" => Path::new("/sys/fs/cgroup"),
            _ if controllers.split(',').any(|name| name == "pids") => {
                Path::new("/sys/fs/cgroup/pids")
            }
            _ => continue,
        };
        let group = root.join(group.trim_start_matches('/'));
        let groups = group.ancestors().take_while(|at| at.starts_with(root));
        files.extend(groups.map(|at| at.join("pids.max")));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(descriptors: u64, tasks: u64, memory_maps: u64) -> ConnectionLimits {
        ConnectionLimits::from(Resources {
            descriptors,
            tasks,
            memory_maps,
        })
    }

    #[test]
    fn the_scarcest_resource_decides() {
        assert_eq!(limits(524_288, 8192, 65530).total, 2048);
        assert_eq!(limits(1024, 8192, 65530).total, 128);
        assert_eq!(limits(u64::MAX, u64::MAX, 65530).total, 4095);
        assert_eq!(limits(u64::MAX, u64::MAX, u64::MAX).total, 4096);
        assert_eq!(limits(0, 0, 0).total, 8);
    }

    #[test]
    fn one_user_leaves_room_for_others_and_all_users_for_root() {
        for descriptors in [0, 64, 1024, 20_000] {
            let limits = limits(descriptors, 8192, 65530);
            assert!(0 < limits.per_client && limits.per_client < limits.unprivileged);
            assert!(limits.unprivileged < limits.total);
        }
    }

    #[test]
    fn control_groups_of_both_kinds_are_asked_up_to_the_top() {
        let groups = "9:cpu,pids:/a\n8:memory:/b\n0::/system.slice/x.service\n";
        let expected = [
            "/sys/fs/cgroup/pids/a/pids.max",
            "/sys/fs/cgroup/pids/pids.max",
            "/sys/fs/cgroup/system.slice/x.service/pids.max",
            "/sys/fs/cgroup/system.slice/pids.max",
            "/sys/fs/cgroup/pids.max",
        ];
        assert_eq!(task_limit_files(groups), expected.map(PathBuf::from));
        assert!(task_limit_files("").is_empty());
    }
}
