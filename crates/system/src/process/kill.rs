//! Ending processes that are not our children.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ids;

/// Whether a process of that id exists (whoever owns it).
pub fn process_exists(pid: i32) -> bool {
    pid > 0 && matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

/// Kills all processes of a user but this one, as is done before and after that user's builds: this
/// process, which must have one thread only and is of no use for anything else afterwards, becomes
/// the user and kills whatever it may.
///
/// Refuses user 0. Needs the privilege to become that user.
pub fn kill_user_from_here(uid: u32) -> io::Result<()> {
    if uid == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "refusing to kill root's processes",
        ));
    }
    ids::set_uid(uid)?;
    loop {
        match kill(Pid::from_raw(-1), Signal::SIGKILL) {
            Err(Errno::EINTR) => {}
            // No process that we may kill is left.
            Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
