//! What happens between fork and exec.
//!
//! Until it executes the program, the child shares our memory, as in the C library's `posix_spawn`:
//! copying the page tables of a daemon, and then every page that its threads write to, takes longer
//! than everything else. All memory that the child needs is allocated before; the child itself only
//! makes system calls, since another thread may hold the allocator's lock, or any other.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::ptr;

use libc::{c_char, c_int, c_void, pid_t};

use crate::open_files;
use crate::signal::Signal;

/// The steps that can fail in the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Step {
    Session = 1,
    Descriptors = 2,
    Chdir = 3,
    Exec = 4,
    ParentDeath = 5,
    User = 6,
}

impl Step {
    /// A description of the step that fits before a file name.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Step::Session => "make a session for",
            Step::Descriptors => "pass descriptors to",
            Step::Chdir => "change to directory",
            Step::Exec => "execute",
            Step::ParentDeath => "tie to this process",
            Step::User => "change the user of",
        }
    }
}

/// Decodes the child's report to its parent: the step that failed, and the error.
pub(super) fn decode_report(report: &[u8; 8]) -> (Step, c_int) {
    let [a, b, c, d, errno @ ..] = *report;
    let step = match u32::from_ne_bytes([a, b, c, d]) {
        1 => Step::Session,
        2 => Step::Descriptors,
        3 => Step::Chdir,
        5 => Step::ParentDeath,
        6 => Step::User,
        _ => Step::Exec,
    };
    (step, c_int::from_ne_bytes(errno))
}

/// The system calls that take ids of 32 bits.
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const SET_IDS: [libc::c_long; 3] = [
    libc::SYS_setgroups32,
    libc::SYS_setresgid32,
    libc::SYS_setresuid32,
];
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const SET_IDS: [libc::c_long; 3] = [
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
];

/// The user that a child becomes.
#[derive(Debug)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// What the child's process is, besides the program that it runs.
#[derive(Debug, Default)]
pub(super) struct Properties {
    /// Whether it leads a session of its own.
    pub setsid: bool,
    /// The user that it becomes.
    pub identity: Option<Identity>,
    /// The signal that it gets when the thread that has started it ends.
    pub parent_death: Option<Signal>,
}

/// The child's stack, in bytes; it needs a few hundred.
const STACK: usize = 64 << 10;

/// The child's function.
extern "C" fn child(setup: *mut c_void) -> c_int {
    // SAFETY: `Setup::fork` passes itself, and waits for the child.
    unsafe { (*setup.cast::<Setup>()).become_program() }
}

/// Everything the child needs, in the form in which system calls take it.
pub(super) struct Setup {
    program: CString,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    directory: Option<CString>,
    /// (source, target, number of a copy that doesn't conflict with any target)
    fds: Vec<(RawFd, RawFd, RawFd)>,
    /// 0, 1, 2 and the targets, sorted, without duplicates.
    kept: Vec<RawFd>,
    setsid: bool,
    identity: Option<Identity>,
    parent_death: Option<c_int>,
    open_files: Option<libc::rlimit>,
    parent: pid_t,
    report: RawFd,
    // The strings that argv and envp point to.
    _strings: [Vec<CString>; 2],
}

impl Setup {
    pub(super) fn new(
        program: CString,
        args: Vec<CString>,
        env: Vec<CString>,
        directory: Option<CString>,
        fds: Vec<(RawFd, RawFd)>,
        properties: Properties,
        report: RawFd,
    ) -> io::Result<Setup> {
        let mut kept: Vec<RawFd> = vec![0, 1, 2];
        kept.extend(fds.iter().map(|(_, target)| *target));
        kept.sort_unstable();
        kept.dedup();
        if kept[0] < 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "negative descriptor number",
            ));
        }
        Ok(Setup {
            program,
            argv: pointers(&args),
            envp: pointers(&env),
            directory,
            fds: fds
                .into_iter()
                .map(|(source, target)| (source, target, -1))
                .collect(),
            kept,
            setsid: properties.setsid,
            identity: properties.identity,
            parent_death: properties.parent_death.map(|signal| signal as c_int),
            open_files: open_files::original_limit(),
            // Our process id, to compare with the child's getppid().
            parent: std::process::id() as pid_t,
            report,
            _strings: [args, env],
        })
    }

    /// Forks; returns the child's process id in the parent. The child executes the program.
    pub(super) fn fork(mut self) -> io::Result<pid_t> {
        // All signals stay blocked in the child until their actions are the defaults, so that none
        // of our handlers runs there.
        let mut all = std::mem::MaybeUninit::uninit();
        let mut before = std::mem::MaybeUninit::uninit();
        // SAFETY: both sets are initialised by the calls before they are read.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        }
        let mut stack: Vec<u128> = vec![0; STACK / size_of::<u128>()];
        // SAFETY: the child runs on its own stack, and only `become_program`, which makes system
        // calls on memory of this structure. It has a copy of our descriptors and signal actions,
        // and this thread waits (`CLONE_VFORK`) until it has executed the program or ended, so that
        // the structure and the stack live as long as it uses them.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.len());
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            libc::clone(child, top.cast(), flags, (&raw mut self).cast())
        };
        let error = io::Error::last_os_error();
        // SAFETY: `before` was initialised above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
        if pid < 0 { Err(error) } else { Ok(pid) }
    }

    /// # Safety
    /// Only call this in a new process, from its only thread. Allocates nothing, takes no locks,
    /// and changes no memory but this structure, `errno` and its stack.
    unsafe fn become_program(&mut self) -> ! {
        // SAFETY: each is a system call on memory that this structure owns.
        unsafe {
            reset_signals();
            // Before what is tied to the parent: a change of user unties it.
            if !self.change_user() {
                self.fail(Step::User);
            }
            if let Some(signal) = self.parent_death {
                if libc::prctl(libc::PR_SET_PDEATHSIG, signal) < 0 {
                    self.fail(Step::ParentDeath);
                }
                if libc::getppid() != self.parent {
                    libc::_exit(127); // the parent is gone already, nobody reads a report
                }
            }
            if self.setsid && libc::setsid() < 0 {
                self.fail(Step::Session);
            }
            if !self.place_descriptors() {
                self.fail(Step::Descriptors);
            }
            if let Some(directory) = &self.directory {
                if libc::chdir(directory.as_ptr()) < 0 {
                    self.fail(Step::Chdir);
                }
            }
            if let Some(limit) = &self.open_files {
                // Lowering the limit can't fail.
                libc::setrlimit(libc::RLIMIT_NOFILE, limit);
            }
            libc::execve(
                self.program.as_ptr(),
                self.argv.as_ptr(),
                self.envp.as_ptr(),
            );
            self.fail(Step::Exec)
        }
    }

    /// The C library's functions would change the user of all threads of the parent, whose memory
    /// this is; the system calls change that of the child alone.
    ///
    /// # Safety
    /// As [`Setup::become_program`].
    unsafe fn change_user(&self) -> bool {
        let Some(Identity { uid, gid, groups }) = &self.identity else {
            return true;
        };
        let [set_groups, set_gid, set_uid] = SET_IDS;
        // SAFETY: the groups are in memory that this structure owns; all else is numbers.
        unsafe {
            libc::syscall(set_groups, groups.len(), groups.as_ptr()) == 0
                && libc::syscall(set_gid, *gid, *gid, *gid) == 0
                && libc::syscall(set_uid, *uid, *uid, *uid) == 0
        }
    }

    /// First copies every source (and the report) to numbers above all targets, so that no dup2 can
    /// overwrite a source that is still needed, and no source equals its target (which would leave
    /// the descriptor close-on-exec).
    ///
    /// # Safety
    /// As [`Setup::become_program`].
    unsafe fn place_descriptors(&mut self) -> bool {
        let above = self.kept[self.kept.len() - 1] + 1;
        // SAFETY: fcntl, dup2 and close_range only take numbers.
        unsafe {
            let report = libc::fcntl(self.report, libc::F_DUPFD_CLOEXEC, above);
            if report < 0 {
                return false;
            }
            self.report = report;
            for (source, _, copy) in &mut self.fds {
                *copy = libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, above);
                if *copy < 0 {
                    return false;
                }
            }
            for (_, target, copy) in &self.fds {
                if libc::dup2(*copy, *target) < 0 {
                    return false;
                }
            }
            let mut next = 3;
            for &keep in self.kept.iter().filter(|fd| **fd > 2) {
                if keep > next && !close_on_exec(next, keep - 1) {
                    return false;
                }
                next = keep + 1;
            }
            close_on_exec(next, c_int::MAX)
        }
    }

    /// # Safety
    /// As [`Setup::become_program`].
    unsafe fn fail(&self, step: Step) -> ! {
        // SAFETY: errno belongs to this thread; the buffer is on the stack.
        unsafe {
            let errno = *libc::__errno_location();
            let mut report = [0u8; 8];
            report[..4].copy_from_slice(&(step as u32).to_ne_bytes());
            report[4..].copy_from_slice(&errno.to_ne_bytes());
            libc::write(self.report, report.as_ptr().cast(), report.len());
            libc::_exit(127)
        }
    }
}

/// # Safety
/// Async-signal-safe; changes only the calling process.
unsafe fn reset_signals() {
    // SAFETY: SIG_DFL runs no code; numbers that can't be changed yield an error, ignored.
    unsafe {
        // The C library's sigaction refuses to change the two signals that it uses internally. A
        // kernel action that is all zeros (at most 64 bytes, on any architecture) is SIG_DFL.
        let default = [0u64; 8];
        let none_before: *mut u8 = ptr::null_mut();
        for number in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                none_before,
                8usize,
            );
        }
        let mut none = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// Marks all descriptors from `first` to `last` close-on-exec.
///
/// # Safety
/// Async-signal-safe; changes only the calling process.
unsafe fn close_on_exec(first: c_int, last: c_int) -> bool {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only numbers; where the system call is missing, fcntl does the same one by one.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, CLOSE_RANGE_CLOEXEC) == 0 {
            return true;
        }
        let limit = libc::sysconf(libc::_SC_OPEN_MAX).clamp(256, 1 << 20) as c_int;
        for fd in first..=last.min(limit) {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    true
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain(std::iter::once(ptr::null()))
        .collect()
}
