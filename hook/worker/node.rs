//! What a worker tells of its node.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::statvfs::statvfs;
use system::sync::Mutex;

use crate::frames::{Status, VERSION, WorkerHello};

/// The node, as far as the head is told of it; clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where the store's free space is asked for.
    store: Arc<Mutex<PathBuf>>,
}

impl Node {
    /// The node, with a store there.
    pub fn new(store: PathBuf) -> Node {
        Node {
            store: Arc::new(Mutex::new(store)),
        }
    }

    /// What changes.
    pub fn status(&self) -> Status {
        let load = fs::read_to_string("/proc/loadavg").ok();
        let store = self.store.lock().clone();
        let free = statvfs(&store).ok();
        #[allow(
            clippy::unnecessary_cast,
            reason = "the types differ between architectures"
        )]
        let free = free.map(|space| space.blocks_available() as u64 * space.fragment_size() as u64);
        Status {
            load: load.and_then(|text| text.split(' ').next()?.parse().ok()),
            free,
        }
    }

    /// The hello, without the key.
    pub fn hello(&self) -> WorkerHello {
        let host = nix::unistd::gethostname().unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        WorkerHello {
            version: VERSION,
            release: env!("GUIX_VERSION").to_owned(),
            host: host.to_string_lossy().into_owned(),
            job: std::env::var("SLURM_JOB_ID").ok(),
            system: env!("GUIX_SYSTEM").to_owned(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            memory: memory(),
            status: self.status(),
            store: self.store.lock().to_string_lossy().into_owned(),
            store_identity: None,
            key: None,
        }
    }
}

/// The memory of the node, or what Slurm has given to the job there, in bytes.
fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let node = kib.unwrap_or(0).saturating_mul(1 << 10);
    let job = std::env::var("SLURM_MEM_PER_NODE").ok();
    match job.and_then(|mib| mib.parse::<u64>().ok()) {
        Some(mib) if mib > 0 => node.min(mib.saturating_mul(1 << 20)),
        _ => node,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_itself() {
        let hello = Node::new("/".into()).hello();
        assert!(hello.memory > 1 << 20 && hello.cores > 0);
        assert!(hello.status.load.is_some() && hello.status.free.is_some());
        assert!(!hello.host.is_empty());
    }
}
