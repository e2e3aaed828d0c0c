//! A child process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{kill, killpg};
use nix::unistd::Pid;

use crate::poll;
use crate::signal::Signal;

/// A child process, which only this value waits for.
///
/// Dropping it kills the process (with its group, if it leads one) and reaps it, unless it has
/// been waited for: a build or a helper never outlives the code that looks after it, unless it is
/// left to itself ([`Child::leave`]).
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: OwnedFd,
    leads_group: bool,
    status: Option<ExitStatus>,
}

impl Child {
    /// Takes over a child of this process that has not been waited for. `leads_group` is whether it
    /// is (or makes itself) the leader of a process group.
    pub fn new(pid: i32, leads_group: bool) -> io::Result<Child> {
        // SAFETY: a system call with only numbers; the result is checked.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: pidfd_open has just created this descriptor (always close-on-exec).
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Child {
            pid,
            pidfd,
            leads_group,
            status: None,
        })
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A descriptor that becomes readable once the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for the process to end. Later calls return the same status.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        match self.reap(0)? {
            Some(status) => Ok(status),
            None => Err(io::Error::other("waiting for a process was interrupted")),
        }
    }

    /// The status, if the process has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.reap(libc::WNOHANG)
    }

    /// Waits for at most `timeout`.
    pub fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() && !poll::wait_readable(self.pidfd(), Some(timeout))? {
            return Ok(None);
        }
        self.reap(0)
    }

    /// Waits for the end of the process, but no longer than this, and doesn't reap it: its group can still be sent a
    /// signal. Returns whether it has ended.
    pub fn has_ended(&self, timeout: Duration) -> io::Result<bool> {
        match self.status {
            Some(_) => Ok(true),
            None => poll::wait_readable(self.pidfd(), Some(timeout)),
        }
    }

    /// Sends a signal to the process. If it has ended already, that isn't an error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.status.is_some() {
            return Ok(());
        }
        // Until we reap the child, its number can't be reused.
        ignore_gone(kill(Pid::from_raw(self.pid), signal))
    }

    /// Sends a signal to the child, and to every process of its group if it leads one. Until the child
    /// has been waited for, its group's number can't be reused.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        if self.leads_group && self.status.is_none() {
            ignore_gone(killpg(Pid::from_raw(self.pid), signal))?;
        }
        Ok(())
    }

    /// Lets the process go on without this one.
    pub fn leave(mut self) {
        // Its status is none that anybody waits for.
        self.status = Some(ExitStatus::default());
    }

    /// Kills the child, and every process of its group if it leads one.
    pub fn kill_group(&self) -> io::Result<()> {
        if self.leads_group && self.status.is_none() {
            // Until we reap the leader, the group's number can't be reused.
            ignore_gone(killpg(Pid::from_raw(self.pid), Signal::SIGKILL))?;
        }
        self.signal(Signal::SIGKILL) // it may not have come to setsid yet
    }

    fn reap(&mut self, flags: i32) -> io::Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        loop {
            let mut status = 0;
            // SAFETY: the status is a local variable.
            match unsafe { libc::waitpid(self.pid, &mut status, flags) } {
                0 => return Ok(None),
                pid if pid == self.pid => {
                    self.status = Some(ExitStatus::from_raw(status));
                    return Ok(self.status);
                }
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.kill_group();
            let _ = self.wait();
        }
    }
}

fn ignore_gone(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
