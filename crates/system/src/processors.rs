//! The processors that a thread may run on.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The processors that this thread may run on, as far as it has followed another process.
#[derive(Debug, Default)]
pub struct Followed(Option<CpuSet>);

impl Followed {
    /// Lets this thread, and the processes that it starts, run on the processors on which the main
    /// thread of process `pid` may run. If that fails, nothing changes.
    pub fn follow(&mut self, pid: i32) {
        // The main thread's id is the process id; 0 is this thread.
        let Ok(processors) = sched_getaffinity(Pid::from_raw(pid)) else {
            return;
        };
        if self.0 != Some(processors) && sched_setaffinity(Pid::from_raw(0), &processors).is_ok() {
            self.0 = Some(processors);
        }
    }
}
