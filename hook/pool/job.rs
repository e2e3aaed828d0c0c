//! The command that is the job, and the layers of its end: a signal to all of its processes, a second
//! one that they can't ignore, and the scheduler's own command, since a job may outlive the command
//! that has asked for it.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use system::pipe;
use system::poll::wait_readable;
use system::process::Child;
use system::signal::Signal;
use system::sync::{Condvar, Mutex};

use super::failure::last_lines;
use super::plan::Plan;
use super::record::Record;
use super::scheduler_command;
use crate::stderr_line;

/// How long the command may take to end by itself after its output has.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take after a signal that asks for it.
const TERM_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the cancelling command may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(30);
/// How many bytes the pipes to and from the command hold: whoever writes much and whoever reads it wake each
/// other less.
const PIPE_SIZE: i32 = 1 << 20;
/// How many bytes of its errors are kept.
const ERRORS_LIMIT: usize = 16 << 10;

/// A running command.
pub struct Job {
    child: Child,
    errors: Arc<Errors>,
    cancel: Vec<String>,
    run_as: Option<String>,
}

/// The end of what the command has printed on its standard error.
#[derive(Default)]
struct Errors {
    text: Mutex<(Vec<u8>, bool)>,
    ended: Condvar,
}

impl Job {
    /// Starts it; returns also its standard input and output. To be called by a thread that lives as
    /// long as the job may: when that ends, the command gets a signal.
    pub fn start(plan: &Plan) -> io::Result<(Job, File, File)> {
        let (its_input, input) = pipe::pipe()?;
        let (output, its_output) = pipe::pipe()?;
        for pipe in [&input, &output] {
            // Otherwise, it holds as much as others.
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        }
        let (errors, its_errors) = pipe::pipe()?;
        let child = scheduler_command::spawn(&plan.command, plan.run_as.as_deref())?
            .parent_death_signal(Signal::SIGTERM)
            .fd(its_input, 0)
            .fd(its_output, 1)
            .fd(its_errors, 2)
            .spawn()?;
        let kept = Arc::new(Errors::default());
        let keeping = kept.clone();
        std::thread::Builder::new()
            .name("errors".into())
            .spawn(move || keeping.keep(File::from(errors)))?;
        let job = Job {
            child,
            errors: kept,
            cancel: plan.cancel.clone(),
            run_as: plan.run_as.clone(),
        };
        Ok((job, File::from(input), File::from(output)))
    }

    /// Waits a moment for a command whose output has ended to end, too; returns what it has printed as
    /// errors.
    pub fn last_words(&self) -> String {
        let _ = wait_readable(self.child.pidfd(), Some(END_TIMEOUT));
        self.errors.wait(Duration::from_millis(500))
    }

    /// Gives the command some time to end by itself; returns whether it has.
    pub fn wait(&self, timeout: Duration) -> bool {
        wait_readable(self.child.pidfd(), Some(timeout)).unwrap_or(false)
    }

    /// Ends it, whatever state it is in. Returns whether the cancelling command has succeeded, if there is
    /// one.
    pub fn end(mut self) -> bool {
        // Until we wait for it, the numbers of the process and its group are theirs.
        let _ = self.child.signal_group(Signal::SIGTERM);
        self.wait(TERM_TIMEOUT);
        let _ = self.child.kill_group();
        let _ = self.child.wait();
        cancel(&self.cancel, self.run_as.as_deref())
    }
}

/// Ends the job of a keeper that was killed, or could not end it.
pub fn cancel_orphan(record: &Record) {
    // If this fails, too, the end of the next job does the same: it has the same name.
    cancel(&record.cancel, record.run_as.as_deref());
}

/// Whether the command has succeeded.
fn cancel(words: &[String], run_as: Option<&str>) -> bool {
    if words.is_empty() {
        return true;
    }
    let reason = match scheduler_command::run(words, run_as, CANCEL_TIMEOUT) {
        Ok((true, _)) => return true,
        Ok((false, text)) => format!("it fails: {}", last_lines(&text)),
        Err(error) => error.to_string(),
    };
    stderr_line!("cannot end a job by `{}': {reason}", words.join(" "));
    false
}

impl Errors {
    fn keep(&self, mut pipe: File) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            let (text, _) = &mut *self.text.lock();
            text.extend_from_slice(&buffer[..count]);
            let surplus = text.len().saturating_sub(ERRORS_LIMIT);
            text.drain(..surplus);
        }
        self.text.lock().1 = true;
        self.ended.notify_all();
    }

    /// Waits for the end, but not for long: a process that was left behind may have the pipe.
    fn wait(&self, timeout: Duration) -> String {
        let mut text = self.text.lock();
        if !text.1 {
            text = self.ended.wait_timeout(text, timeout);
        }
        String::from_utf8_lossy(&text.0).into_owned()
    }
}
