//! Resources that outlive a user's processes outside of namespaces: System V shared memory, message
//! queues and semaphores (`sysvipc(7)`), POSIX shared memory and message queues.

use std::io;
use std::path::Path;

use crate::kernel_list;
use crate::tree::{Dir, remove_tree};

/// Where POSIX shared memory and message queues are visible as files.
const POSIX: [&str; 2] = ["/dev/shm", "/dev/mqueue"];

/// A kind of System V object.
#[derive(Clone, Copy, Debug)]
enum Kind {
    SharedMemory,
    Queue,
    Semaphores,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::SharedMemory, Kind::Queue, Kind::Semaphores];

    /// The kernel's list of these objects, and the title of the column with their ids.
    fn list(self) -> (&'static str, &'static str) {
        match self {
            Kind::SharedMemory => ("/proc/sysvipc/shm", "shmid"),
            Kind::Queue => ("/proc/sysvipc/msg", "msqid"),
            Kind::Semaphores => ("/proc/sysvipc/sem", "semid"),
        }
    }

    /// Removes an object; not an error if it is gone already, or if we may not remove it.
    fn remove(self, id: i32) {
        // SAFETY: these commands take no pointer.
        unsafe {
            match self {
                Kind::SharedMemory => libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()),
                Kind::Queue => libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()),
                Kind::Semaphores => libc::semctl(id, 0, libc::IPC_RMID),
            };
        }
    }
}

/// Removes all objects of this process's user, which must be one that nobody logs in as.
pub fn remove_own() -> io::Result<()> {
    let uid = crate::ids::effective_uid();
    for kind in Kind::ALL {
        let (list, number) = kind.list();
        // A kernel without System V IPC doesn't have the list.
        let list = kernel_list::read(list).unwrap_or_default();
        for id in owned(&list, number, uid) {
            kind.remove(id);
        }
    }
    for directory in POSIX {
        let Ok(directory) = Dir::open(Path::new(directory)) else {
            continue;
        };
        for name in directory.names()? {
            let is_own = directory.stat_at(&name).is_ok_and(|stat| stat.uid() == uid);
            if is_own {
                let _ = remove_tree(&directory, &name);
            }
        }
    }
    Ok(())
}

/// The ids of the objects in one of the kernel's lists that belong to a user.
fn owned(list: &str, number: &str, uid: u32) -> Vec<i32> {
    let mut lines = list.lines();
    let titles: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let column = |title: &str| titles.iter().position(|other| *other == title);
    let (Some(number), Some(owner)) = (column(number), column("uid")) else {
        return Vec::new();
    };
    let own = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_own = fields.get(owner)?.parse() == Ok(uid);
        is_own.then(|| fields.get(number)?.parse().ok()).flatten()
    });
    own.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_kernels_lists_are_understood() {
        let list = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime
         0          3   600          1  30001 30000 30001 30000          0
        77          4   666          1     0     0     0     0          0\n";
        assert_eq!(owned(list, "semid", 30001), [3]);
        assert_eq!(owned(list, "shmid", 30001), [0; 0]);
        for kind in Kind::ALL {
            let (list, number) = kind.list();
            if let Ok(list) = fs::read_to_string(list) {
                let titles = list.lines().next().unwrap_or_default().to_owned();
                assert!(
                    titles.contains(number) && titles.contains(" uid "),
                    "{titles}"
                );
            }
        }
    }
}
