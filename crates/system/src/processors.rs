//! The processors that a thread may run on.

use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Lets this thread, and the processes that it starts, run on the processors on which the main
/// thread of process `pid` may run. If that fails, nothing changes.
pub fn follow(pid: i32) {
    // The main thread's id is the process id; 0 is this thread.
    if let Ok(processors) = sched_getaffinity(Pid::from_raw(pid)) {
        let _ = sched_setaffinity(Pid::from_raw(0), &processors);
    }
}
