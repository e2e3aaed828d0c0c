//! The processors that a thread may run on.

use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Has this thread, and the processes that it starts, run on the processors on which the main
/// thread of process `pid` may run. If that can't be, all stays as it is.
pub fn follow(pid: i32) {
    // The main thread has the number of the process; 0 is this thread.
    if let Ok(processors) = sched_getaffinity(Pid::from_raw(pid)) {
        let _ = sched_setaffinity(Pid::from_raw(0), &processors);
    }
}
