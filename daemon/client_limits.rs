//! What clients may take of the daemon, so that none of them stops the others.
//!
//! The limits follow from what the daemon finds when it starts: the descriptors and the memory it
//! may have, the tasks of its control group, the kernel's limits. A thread that finds no memory
//! maps left would abort the whole process, so all threads stay far below that limit.
//! The manual has the numbers, in "Performance".

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit};

use crate::shared_limit::{ShareLimits, SharedLimit};

/// What a session has open, with room for what its operations open: its socket, its temporary
/// roots, locks.
const DESCRIPTORS_PER_SESSION: u64 = 4;
/// What a build has open, besides the lock of each output.
const DESCRIPTORS_PER_BUILD: u64 = 12;
/// What the daemon itself has open, at most: its sockets, the database, the network program.
const DESCRIPTORS_OF_DAEMON: u64 = 32;
/// What all builds have at least.
const LEAST_FOR_BUILDS: u64 = 4 * DESCRIPTORS_PER_BUILD;
/// The fewest descriptors with which the daemon serves anybody.
const LEAST_DESCRIPTORS: u64 = 128;
/// What a thread maps: its stack, its stack for signals, a guard page for each, its share of the
/// allocator's arenas, and the buffer of a session's connection.
const MAPS_PER_THREAD: u64 = 8;
/// The fewest sessions at a time, and the most.
const SESSIONS: (u64, u64) = (8, 4096);
/// The least memory for requests, in bytes, and the most.
const REQUEST_MEMORY: (u64, u64) = (64 << 20, 2 << 30);
/// For each so many bytes of memory for requests there may be one temporary root. (A root takes a
/// sixth of that.)
const MEMORY_PER_TEMP_ROOT: u64 = 2 << 10;

/// What all clients share.
pub struct ClientLimits {
    /// Connections at a time.
    pub connections: Arc<SharedLimit>,
    /// Bytes of requests that are being received and answered.
    pub request_memory: Arc<SharedLimit>,
    /// Temporary roots.
    pub temp_roots: Arc<SharedLimit>,
    /// Descriptors of builds: see [`ClientLimits::descriptors_of_build`].
    pub build_descriptors: Arc<SharedLimit>,
}

/// An error if this process may have too few descriptors to serve anybody: requests would fail at
/// random, instead of waiting.
pub fn check_descriptors() -> anyhow::Result<()> {
    let limit = system::open_files::hard_limit().context("cannot read the limit of open files")?;
    if limit < LEAST_DESCRIPTORS {
        bail!(
            "the limit of open files is {limit}, and this daemon needs {LEAST_DESCRIPTORS} at \
             least; raise it by `ulimit -n', or `LimitNOFILE' of the service"
        );
    }
    Ok(())
}

/// What there is of each resource that clients use.
#[derive(Clone, Copy, Debug)]
struct Resources {
    descriptors: u64,
    tasks: u64,
    memory_maps: u64,
    /// In bytes.
    memory: u64,
}

impl ClientLimits {
    /// The limits that follow from what this process may have.
    pub fn of_this_process() -> ClientLimits {
        let resources = Resources::of_this_process();
        tracing::debug!("limits of clients follow from {resources:?}");
        ClientLimits {
            connections: SharedLimit::new(resources.connections()),
            request_memory: SharedLimit::new(resources.request_memory()),
            temp_roots: SharedLimit::new(resources.temp_roots()),
            build_descriptors: SharedLimit::new(resources.build_descriptors()),
        }
    }

    /// The descriptors that a build of so many outputs may need.
    pub fn descriptors_of_build(outputs: usize) -> u64 {
        DESCRIPTORS_PER_BUILD.saturating_add(outputs as u64)
    }
}

impl Resources {
    /// Half of the descriptors, or what builds leave if these are few; half of the memory maps, and a
    /// quarter of the tasks: builds have processes.
    fn connections(&self) -> ShareLimits {
        let kept = DESCRIPTORS_OF_DAEMON + LEAST_FOR_BUILDS;
        let descriptors = (self.descriptors / 2).min(self.descriptors.saturating_sub(kept));
        let total = (descriptors / DESCRIPTORS_PER_SESSION)
            .min(self.memory_maps / MAPS_PER_THREAD / 2)
            .min(self.tasks / 4);
        ShareLimits::new(total.clamp(SESSIONS.0, SESSIONS.1), 4)
    }

    fn request_memory(&self) -> ShareLimits {
        let total = (self.memory / 8).clamp(REQUEST_MEMORY.0, REQUEST_MEMORY.1);
        ShareLimits::new(total, 2)
    }

    fn temp_roots(&self) -> ShareLimits {
        ShareLimits::new(self.request_memory().total / MEMORY_PER_TEMP_ROOT, 2)
    }

    /// A quarter of the descriptors, and as many builds as have a quarter of the tasks and of the
    /// memory maps for their threads.
    fn build_descriptors(&self) -> ShareLimits {
        let builds = (self.memory_maps / MAPS_PER_THREAD).min(self.tasks) / 4;
        let total = builds.saturating_mul(DESCRIPTORS_PER_BUILD);
        ShareLimits::new(total.min(self.descriptors / 4).max(LEAST_FOR_BUILDS), 2)
    }

    fn of_this_process() -> Resources {
        let limit = |resource| getrlimit(resource).map_or(u64::MAX, |(soft, _)| soft);
        let mut tasks = kernel_limit("kernel/threads-max").min(kernel_limit("kernel/pid_max"));
        if !nix::unistd::geteuid().is_root() {
            tasks = tasks.min(limit(Resource::RLIMIT_NPROC));
        }
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for file in group_files(&groups, "pids", "pids.max", "pids.max") {
            tasks = tasks.min(read_limit(&file));
        }
        let mut memory = physical_memory().min(limit(Resource::RLIMIT_DATA));
        for file in group_files(&groups, "memory", "memory.limit_in_bytes", "memory.max") {
            memory = memory.min(read_limit(&file));
        }
        Resources {
            descriptors: limit(Resource::RLIMIT_NOFILE),
            tasks,
            memory_maps: kernel_limit("vm/max_map_count"),
            memory,
        }
    }
}

/// The memory of this machine, in bytes.
fn physical_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

fn kernel_limit(name: &str) -> u64 {
    read_limit(&Path::new("/proc/sys").join(name))
}

/// The number in a file; without limit, if there is no such file or it says `max`.
fn read_limit(file: &Path) -> u64 {
    fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u64::MAX)
}

/// The files with a limit of `controller` for the control groups that `/proc/self/cgroup` names,
/// and those above them, by its names in version 1 and in version 2: see `cgroups(7)`.
fn group_files(groups: &str, controller: &str, name_1: &str, name_2: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, name) = match controllers {
            "" => (top.to_owned(), name_2),
            _ if controllers.split(',').any(|name| name == controller) => {
                (top.join(controller), name_1)
            }
            _ => continue,
        };
        let group = root.join(group.trim_start_matches('/'));
        let groups = group.ancestors().take_while(|at| at.starts_with(&root));
        files.extend(groups.map(|at| at.join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(descriptors: u64, tasks: u64, memory_maps: u64, memory: u64) -> Resources {
        Resources {
            descriptors,
            tasks,
            memory_maps,
            memory,
        }
    }

    #[test]
    fn the_scarcest_resource_decides() {
        let connections = |descriptors, tasks, memory_maps| {
            resources(descriptors, tasks, memory_maps, 0)
                .connections()
                .total
        };
        assert_eq!(connections(524_288, 8192, 65530), 2048);
        assert_eq!(connections(1024, 8192, 65530), 128);
        assert_eq!(connections(128, 8192, 65530), 12);
        assert_eq!(connections(u64::MAX, u64::MAX, 65530), 4095);
        assert_eq!(connections(u64::MAX, u64::MAX, u64::MAX), 4096);
        assert_eq!(connections(0, 0, 0), 8);
        let builds = |descriptors, tasks, memory_maps| {
            resources(descriptors, tasks, memory_maps, 0)
                .build_descriptors()
                .total
        };
        assert_eq!(builds(524_288, 8192, 65530), 2047 * 12);
        assert_eq!(builds(1024, 8192, 65530), 256);
        assert_eq!(builds(u64::MAX, u64::MAX, u64::MAX), u64::MAX / 4);
        assert_eq!(builds(0, 0, 0), 48);
        let memory = |memory| resources(0, 0, 0, memory).request_memory().total;
        assert_eq!(memory(1 << 30), 128 << 20);
        assert_eq!(memory(u64::MAX), 2 << 30);
    }

    #[test]
    fn one_user_leaves_room_for_others_and_all_users_for_root() {
        for least in [0, 64, 1024, 20_000, u64::MAX] {
            let resources = resources(least, least, least, least);
            for limits in [
                resources.connections(),
                resources.request_memory(),
                resources.temp_roots(),
                resources.build_descriptors(),
            ] {
                assert!(0 < limits.per_client && limits.per_client < limits.unprivileged);
                assert!(limits.unprivileged < limits.total);
            }
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
        let files = group_files(groups, "pids", "pids.max", "pids.max");
        assert_eq!(files, expected.map(PathBuf::from));
        let files = group_files(groups, "memory", "one", "two");
        assert_eq!(files[0], Path::new("/sys/fs/cgroup/memory/b/one"));
        assert_eq!(files[4], Path::new("/sys/fs/cgroup/two"));
        assert!(group_files("", "pids", "a", "b").is_empty());
    }
}
