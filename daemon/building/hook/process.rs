//! One hook process and its pipes, and asking it (`doc/spec/hook-protocol.md`, sections 2 and 5).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm::history::{Limits, Pipe, Token};
use formats::printable::printable;
use protocol::helper_filter::HelperFilter;
use protocol::trace::Trace;
use store::Level;
use system::poll::{PollFd, PollFlags, is_ready, poll, wait_readable};
use system::process::{Child, Spawn};
use system::{pipe, signal};

use super::super::attempt::Attempt;
use super::super::engine::Engine;
use super::super::hook_rows::{HookRecord, HookRows};
use super::super::log_sink::LogRecord;
use super::question::{Answer, Question};
use crate::cancel::CancelEvent;
use crate::hook_program::VARIABLE;

/// How long a client waits for a hook's answer before it is told so.
const PATIENCE: Duration = Duration::from_secs(5);
/// A longer line before the reply is passed on in pieces.
const OUTPUT_LINE_LIMIT: usize = 64 << 10;
/// How many pieces of rows are read at a time.
const ROWS_PIECES: usize = 16;
/// How many characters of a hook's reason a client is shown.
const REASON_LIMIT: usize = 2000;

/// A running hook. Dropping it kills its process group and reaps it.
pub(in super::super) struct HookProcess {
    // Dropped first, so that the hook can exit by itself before it is killed.
    /// The write end of its standard input; never blocks.
    requests: File,
    /// The read end of its standard output and error.
    output: OwnedFd,
    /// The read end of its descriptor 4.
    log: OwnedFd,
    /// What was read from `output` and not yet handled.
    unread: Vec<u8>,
    /// Why it postpones the derivation it was last asked about, if it says so.
    reason: Option<String>,
    /// The read end of its descriptor for rows of the history.
    rows_pipe: OwnedFd,
    rows: HookRows,
    child: Child,
}

/// The pipes of a hook that has accepted a build.
pub(in super::super) struct HookPipes {
    /// The write end of its standard input; never blocks.
    pub(in super::super) requests: File,
    /// The read end of its standard output and error.
    pub(in super::super) output: OwnedFd,
    /// The read end of its descriptor 4, the build log.
    pub(in super::super) log: OwnedFd,
    /// The read end of its descriptor for rows of the history, and what becomes of them.
    pub(in super::super) rows: (OwnedFd, HookRows),
    /// Output that was read together with the reply.
    pub(in super::super) unread: Vec<u8>,
}

/// Why waiting for the process ended.
enum Wake {
    /// It can be read from, or written to.
    Ready,
    /// It has ended.
    Exited,
    /// The attempt was stopped.
    Cancelled,
    /// The deadline has passed.
    TimedOut,
}

impl HookProcess {
    /// Starts the program; if `verbose`, our own hook reports why it chooses machines or not. It tells rows
    /// of the history, if there is one.
    pub(super) fn start(
        engine: &Arc<Engine>,
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
        let (rows_pipe, its_rows) = pipe::pipe()?;
        pipe::set_nonblocking(&rows_pipe, true)?;
        let rows = HookRows::new(engine);
        let history = engine.settings.history;
        let history = history.map_or_else(|| "no".to_owned(), |limits| limits.to_string());
        let mut spawn = Spawn::new(program)
            .args(arguments)
            .env(VARIABLE, program)
            .env("GUIX_OFFLOAD_REASONS", "1")
            .env(Limits::VARIABLE, history)
            .env(Token::VARIABLE, rows.record().token().to_string())
            .env(Pipe::VARIABLE, Pipe::DESCRIPTOR.to_string());
        if verbose {
            spawn = spawn.env("GUIX_OFFLOAD_VERBOSE", "1");
        }
        let program = spawn
            .fd(its_requests, 0)
            .fd(its_output, 1)
            .fd(its_errors, 2)
            .fd(its_log, 4)
            .fd(its_rows, Pipe::DESCRIPTOR)
            .setsid()
            .current_dir("/");
        let child = engine.spawner.start(program)?;
        Ok(HookProcess {
            requests: File::from(requests),
            output,
            log,
            unread: Vec::new(),
            reason: None,
            rows_pipe,
            rows,
            child,
        })
    }

    /// What it has told of its build.
    pub(in super::super) fn record(&self) -> &Arc<HookRecord> {
        self.rows.record()
    }

    /// Takes it apart, for the build that it has accepted.
    pub(in super::super) fn into_parts(self) -> (Child, HookPipes) {
        let HookProcess {
            requests,
            output,
            log,
            unread,
            reason: _,
            rows_pipe,
            rows,
            child,
        } = self;
        let pipes = HookPipes {
            requests,
            output,
            log,
            rows: (rows_pipe, rows),
            unread,
        };
        (child, pipes)
    }

    /// Why it has postponed the derivation, if it said so.
    pub(super) fn reason(&mut self) -> Option<String> {
        self.reason.take()
    }

    /// Asks, and waits for the answer; other output is passed on meanwhile. `am_willing` if a local build could
    /// be started now.
    pub(super) fn ask(
        &mut self,
        attempt: &Attempt,
        question: &Question,
        am_willing: bool,
        timeout: Duration,
    ) -> Answer {
        let answer = self.send_and_receive(attempt, question, am_willing, timeout);
        self.read_rows();
        answer.unwrap_or_else(|error| {
            Answer::Failed(format!("cannot be written to or read from: {error}"))
        })
    }

    fn send_and_receive(
        &mut self,
        attempt: &Attempt,
        question: &Question,
        am_willing: bool,
        timeout: Duration,
    ) -> io::Result<Answer> {
        let deadline = Instant::now() + timeout;
        let cancelled = CancelEvent::new(attempt.cancel())?;
        let line = question.line(am_willing);
        match self.send(&cancelled, line.as_bytes(), deadline)? {
            Some(answer) => Ok(answer),
            None => {
                let news = format!(
                    "waiting for the build hook to choose a machine for `{}'...",
                    question.derivation
                );
                self.receive(attempt, &cancelled, deadline, timeout, news)
            }
        }
    }

    /// Writes the question. An answer means that this was not possible.
    fn send(
        &mut self,
        cancelled: &CancelEvent,
        mut line: &[u8],
        deadline: Instant,
    ) -> io::Result<Option<Answer>> {
        while !line.is_empty() {
            match self.requests.write(line) {
                Ok(count) => line = &line[count..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(None), // reading will tell why
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match self.wait(
                        cancelled,
                        self.requests.as_fd(),
                        PollFlags::POLLOUT,
                        deadline,
                    )? {
                        Wake::Ready | Wake::Exited => {}
                        Wake::Cancelled => return Ok(Some(Answer::Cancelled)),
                        Wake::TimedOut => {
                            return Ok(Some(Answer::Failed(
                                "does not read its questions".to_owned(),
                            )));
                        }
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Reads the answer. Sends the client the `news` that it waits, if that takes long.
    fn receive(
        &mut self,
        attempt: &Attempt,
        cancelled: &CancelEvent,
        deadline: Instant,
        timeout: Duration,
        news: String,
    ) -> io::Result<Answer> {
        let mut dead = false;
        let mut news = Some(news);
        let news_are_due = Instant::now() + PATIENCE;
        loop {
            while let Some(line) = self.next_line() {
                if let Some(word) = line.strip_prefix(b"# ") {
                    return Ok(Answer::parse(word));
                }
                if let Some(reason) = reason_of_postponement(&line) {
                    self.reason = Some(reason);
                    continue;
                }
                attempt.log(LogRecord::HelperOutput {
                    pid: None,
                    data: HelperFilter::whole(&[&line[..], b"\n"].concat()).into(),
                });
            }
            if dead {
                return self.died(attempt);
            }
            let until = match news {
                Some(_) => deadline.min(news_are_due),
                None => deadline,
            };
            match self.wait(cancelled, self.output.as_fd(), PollFlags::POLLIN, until)? {
                Wake::TimedOut if until < deadline => {
                    let text = news.take().unwrap_or_default();
                    attempt.message(Level::Error, text);
                }
                Wake::Ready => dead = !self.read_more()?,
                // The pipe still has what it wrote before it died.
                Wake::Exited => {
                    while self.unread.len() < OUTPUT_LINE_LIMIT
                        && self.read_some().is_ok_and(|count| count > 0)
                    {}
                    dead = true;
                }
                Wake::Cancelled => return Ok(Answer::Cancelled),
                Wake::TimedOut => {
                    return Ok(Answer::Failed(format!(
                        "did not reply within {} seconds",
                        timeout.as_secs()
                    )));
                }
            }
        }
    }

    /// The next line, without its end: whole, or a piece of one that is too long.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = match self.unread.iter().position(|byte| *byte == b'\n') {
            Some(end) => end,
            None if self.unread.len() >= OUTPUT_LINE_LIMIT => {
                return Some(std::mem::take(&mut self.unread));
            }
            None => return None,
        };
        let mut line: Vec<u8> = self.unread.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    /// Reads what is there; false at the end.
    fn read_more(&mut self) -> io::Result<bool> {
        loop {
            match self.read_some() {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    }

    fn read_some(&mut self) -> io::Result<usize> {
        let mut buffer = [0u8; 4096];
        let count = nix::unistd::read(&self.output, &mut buffer)?;
        self.unread.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    /// Reads the rows that it has told so far.
    fn read_rows(&mut self) {
        let mut buffer = [0u8; 4096];
        // A hook that tells more than a pipe has room for is read later.
        for _ in 0..ROWS_PIECES {
            match nix::unistd::read(&self.rows_pipe, &mut buffer) {
                Ok(count @ 1..) => self.rows.take(&buffer[..count], None),
                _ => break,
            }
        }
    }

    fn died(&mut self, attempt: &Attempt) -> io::Result<Answer> {
        if !self.unread.is_empty() {
            attempt.log(LogRecord::HelperOutput {
                pid: None,
                data: HelperFilter::whole(&std::mem::take(&mut self.unread)).into(),
            });
        }
        // It has closed its output, so that it can't reply any more, ended or not.
        wait_readable(self.child.pidfd(), Some(Duration::from_millis(500)))?;
        self.child.kill_group()?;
        let status = self.child.wait()?;
        Ok(Answer::Failed(format!(
            "did not reply: it {}",
            signal::describe_exit(status)
        )))
    }

    fn wait(
        &self,
        cancelled: &CancelEvent,
        fd: BorrowedFd,
        flags: PollFlags,
        deadline: Instant,
    ) -> io::Result<Wake> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Wake::TimedOut);
            }
            let mut fds = [
                PollFd::new(cancelled.as_fd(), PollFlags::POLLIN),
                PollFd::new(fd, flags),
                PollFd::new(self.child.pidfd(), PollFlags::POLLIN),
            ];
            poll(&mut fds, Some(left))?;
            let [cancelled, ready, exited] = fds.map(|fd| is_ready(&fd));
            match (cancelled, ready, exited) {
                (true, ..) => return Ok(Wake::Cancelled),
                (_, true, _) => return Ok(Wake::Ready),
                (_, _, true) => return Ok(Wake::Exited),
                _ => {}
            }
        }
    }
}

/// What our own hook says why it is about to postpone a derivation, if the line says that.
fn reason_of_postponement(line: &[u8]) -> Option<String> {
    match Trace::parse(std::str::from_utf8(line).ok()?)? {
        Trace::BuildPostponed { reason, .. } => {
            let shown: String = reason.chars().take(REASON_LIMIT).collect();
            Some(printable(&shown).into_owned())
        }
        _ => None,
    }
}
