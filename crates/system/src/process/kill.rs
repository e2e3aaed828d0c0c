//! Ending processes: this one, and those that are not our children.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{ids, limits};

/// Ends this process at once, without the exit handlers and destructors of the program and its
/// libraries: they belong to the process that it was forked from.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: it does not return, so nothing sees what it leaves undone.
    unsafe { nix::libc::_exit(status) }
}

/// Whether a process with this id exists (regardless of its owner).
pub fn process_exists(pid: i32) -> bool {
    pid > 0 && matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

/// Kills all processes of a user except this one, as is done before and after that user's builds.
/// This process must have a single thread and can't be used for anything else afterwards: it
/// becomes the user and kills every process that it may.
///
/// Does nothing unless its parent is `parent`, and dies with it: that process has locked the user, and
/// once it has ended, the user's processes may be those of another's build.
///
/// Refuses user 0. Requires the privilege to become the user.
pub fn kill_user_from_here(uid: u32, parent: u32) -> io::Result<()> {
    if uid == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "refusing to kill root's processes",
        ));
    }
    ids::set_uid(uid)?;
    limits::die_with_parent()?;
    if std::os::unix::process::parent_id() != parent {
        return Err(io::Error::from_raw_os_error(Errno::ECHILD as i32));
    }
    loop {
        match kill(Pid::from_raw(-1), Signal::SIGKILL) {
            Err(Errno::EINTR) => {}
            // There is no process left that we may kill.
            Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
