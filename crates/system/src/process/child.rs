//! A process that we started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use crate::poll;
use crate::signal::Signal;

/// A process that we started, and that nobody else waits for.
///
/// Dropping it kills it (with its group, if it leads one) and reaps it, unless it has been
/// waited for or [`Child::detach`]ed: a build or a helper never outlives who cares for it.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: OwnedFd,
    leads_group: bool,
    status: Option<ExitStatus>,
    detached: bool,
}

impl Child {
    /// Takes charge of a child process of this process that has not been waited for.
    /// `leads_group`: it is (or makes itself) the leader of a process group.
    pub fn new(pid: i32, leads_group: bool) -> io::Result<Child> {
        // SAFETY: a plain system call; the result is checked.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: pidfd_open has just made this descriptor (close-on-exec always).
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Child {
            pid,
            pidfd,
            leads_group,
            status: None,
            detached: false,
        })
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A descriptor that polls as readable once the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for the process to end. Further calls return the same status.
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

    /// Sends a signal to the process. One that has ended already is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.status.is_some() {
            return Ok(());
        }
        // SAFETY: until we reap it, the pid is the child's; plain numbers.
        ignore_gone(unsafe { libc::kill(self.pid, signal as i32) })
    }

    /// Sends a signal to every process of the child's group; as [`Child::signal`] if it
    /// doesn't lead one.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        if !self.leads_group || self.status.is_some() {
            return self.signal(signal);
        }
        // SAFETY: until we reap the leader, the group's number can't be another's.
        ignore_gone(unsafe { libc::kill(-self.pid, signal as i32) })?;
        self.signal(signal) // it may not have come to setsid yet
    }

    /// Kills every process of the child's group, and the child.
    pub fn kill_group(&self) -> io::Result<()> {
        self.signal_group(Signal::SIGKILL)
    }

    /// Lets the process go on when this value is dropped. It must be reaped by whoever reaps
    /// this process's children then.
    pub fn detach(mut self) {
        self.detached = true;
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
        if !self.detached && self.status.is_none() {
            let _ = self.kill_group();
            let _ = self.wait();
        }
    }
}

fn ignore_gone(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) {
        Ok(())
    } else {
        Err(error)
    }
}
