//! Ending processes that are not our children.

use std::io;

/// Whether a process of that id exists (whoever owns it).
pub fn process_exists(pid: i32) -> bool {
    // SAFETY: signal 0 is never delivered.
    pid > 0
        && (unsafe { libc::kill(pid, 0) } == 0
            || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM))
}

/// Kills all processes of a user, as is done before and after that user's builds: a child
/// becomes the user and kills whatever it may.
///
/// Refuses user 0. Needs the privilege to become that user.
pub fn kill_user(uid: u32) -> io::Result<()> {
    if uid == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "refusing to kill root's processes",
        ));
    }
    // SAFETY: the child makes async-signal-safe calls only and never returns.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: plain system calls; we never go on when the user could not be changed.
        unsafe {
            if libc::setresuid(uid, uid, uid) != 0 {
                libc::_exit(errno_as_code());
            }
            loop {
                // kill(-1) spares the caller on Linux, so success may leave only ourselves.
                if libc::kill(-1, libc::SIGKILL) == 0 {
                    libc::_exit(0);
                }
                match *libc::__errno_location() {
                    libc::EINTR => {}
                    libc::ESRCH | libc::EPERM => libc::_exit(0), // nobody (whom we may) is left
                    _ => libc::_exit(errno_as_code()),
                }
            }
        }
    }
    let status = super::Child::new(pid, false)?.wait()?;
    match status.code() {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        // A new process of that user may have killed it first.
        None => Ok(()),
    }
}

/// # Safety
/// Reads this thread's errno.
unsafe fn errno_as_code() -> i32 {
    // SAFETY: errno belongs to this thread.
    (unsafe { *libc::__errno_location() }).clamp(1, 255)
}
