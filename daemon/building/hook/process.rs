//! One hook process and its pipes (`doc/spec/hook-protocol.md`, section 2).

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use system::pipe;
use system::process::{Child, Spawn};

use crate::hook_program::VARIABLE;
use crate::spawner::Spawner;

/// A running hook. Dropping it kills its process group and reaps it.
pub(in super::super) struct HookProcess {
    // Dropped first, so that the hook may end by itself before it is killed.
    /// The write end of its standard input; never blocks.
    pub(in super::super) requests: File,
    /// The read end of its standard output and error.
    pub(in super::super) output: OwnedFd,
    /// The read end of its descriptor 4.
    pub(in super::super) log: OwnedFd,
    /// What was read from `output` and not yet handled.
    pub(in super::super) unread: Vec<u8>,
    /// The process.
    pub(in super::super) child: Child,
}

impl HookProcess {
    /// Starts the program; if `verbose`, our own hook says why it chooses machines or not.
    pub(super) fn start(
        spawner: &Spawner,
        program: &Path,
        arguments: Vec<OsString>,
        verbose: bool,
    ) -> io::Result<HookProcess> {
        let (its_requests, requests) = pipe::pipe()?;
        let (output, its_output) = pipe::pipe()?;
        let (log, its_log) = pipe::pipe()?;
        let its_errors = its_output.try_clone()?;
        pipe::set_nonblocking(&requests, true)?;
        pipe::set_nonblocking(&output, true)?;
        pipe::set_nonblocking(&log, true)?;
        let mut spawn = Spawn::new(program).args(arguments).env(VARIABLE, program);
        if verbose {
            spawn = spawn.env("GUIX_OFFLOAD_VERBOSE", "1");
        }
        let program = spawn
            .fd(its_requests, 0)
            .fd(its_output, 1)
            .fd(its_errors, 2)
            .fd(its_log, 4)
            .setsid()
            .current_dir("/");
        let child = spawner.start(program)?;
        Ok(HookProcess {
            requests: File::from(requests),
            output,
            log,
            unread: Vec::new(),
            child,
        })
    }
}
