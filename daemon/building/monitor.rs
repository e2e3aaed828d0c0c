//! Watching a builder or a hook: output, limits, and exit (`doc/spec/build-environment.md`, section
//! 12; `doc/spec/hook-protocol.md`, section 6).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use protocol::builder_filter::BuilderFilter;
use protocol::hook_filter::HookFilter;
use store::Level;
use system::poll::{PollFd, PollFlags, is_ready, poll};
use system::process::Child;

use super::attempt::Attempt;
use super::log_file::LogFile;
use super::log_sink::LogRecord;
use crate::cancel::CancelEvent;
use crate::request_error::RequestError;
use crate::settings::SessionSettings;
use crate::substituter::Timeouts;

/// How much is read and logged at a time, in bytes.
const OUTPUT_CHUNK_SIZE: usize = 4096;

/// How long to continue reading the pipes of a hook that has exited, if a process it left behind
/// keeps them open.
const LINGER: Duration = Duration::from_secs(2);

/// The limits of a build; zero means none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Seconds without output.
    pub(super) silence: u64,
    /// Seconds in total.
    pub(super) total: u64,
    /// Bytes of log.
    pub(super) log_size: u64,
}

impl Limits {
    /// The limits of a session.
    pub(super) fn of(session: &SessionSettings) -> Limits {
        let Timeouts { silence, total } = Timeouts::of(session);
        Limits {
            silence,
            total,
            log_size: session.max_log_size,
        }
    }
}

/// What becomes of a piece of a hook's rows.
type TakeRows<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// The kind of data in a pipe.
pub(super) enum Carries<'a> {
    /// The build's output: sent to clients, kept in the log file as it is, and limited in size.
    Log(BuilderFilter),
    /// A hook's own output: sent to clients only.
    HelperOutput(HookFilter),
    /// Rows of the history, which are no output.
    Rows(TakeRows<'a>),
}

/// One pipe of a watched process.
pub(super) struct Source<'a> {
    file: Option<File>,
    carries: Carries<'a>,
}

impl Source<'_> {
    /// A source that reads from a pipe.
    pub(super) fn new(fd: OwnedFd, carries: Carries<'_>) -> Source<'_> {
        Source {
            file: Some(File::from(fd)),
            carries,
        }
    }

    /// What a hook has said of the build of a derivation.
    pub(super) fn verdict(&self, derivation: &str) -> Option<&str> {
        match &self.carries {
            Carries::HelperOutput(filter) => filter.verdict(derivation),
            Carries::Log(_) | Carries::Rows(_) => None,
        }
    }
}

/// Why watching ended.
pub(super) enum Ended {
    /// The process exited.
    Exited(ExitStatus),
    /// It was killed, because it exceeded a limit (the message has been sent).
    TimedOut,
    /// It was killed, because no request shares the attempt any more.
    Cancelled,
}

/// The result of a wait.
struct Woken {
    /// Whether the attempt was cancelled.
    cancelled: bool,
    /// The child has exited.
    exited: bool,
    /// Whether each source is readable.
    ready: Vec<bool>,
}

/// Watches one process.
pub(super) struct Monitor<'a> {
    /// Receives the output, and cancels the process.
    pub(super) attempt: &'a Attempt,
    /// The subject of messages about limits.
    pub(super) name: String,
    /// Its limits.
    pub(super) limits: Limits,
    /// When counting towards [`Limits::total`] started.
    pub(super) started: Instant,
    /// The process's log.
    pub(super) log: LogFile,
}

impl Monitor<'_> {
    /// Forwards the output of the process until it has ended, then closes the log.
    ///
    /// `lingering` pipes may be held open by processes that outlive the child: they are read until
    /// [`LINGER`] after its exit. Others are read until end of file.
    pub(super) fn watch(
        mut self,
        child: &mut Child,
        sources: &mut [Source<'_>],
        lingering: bool,
    ) -> Result<Ended, RequestError> {
        let ended = self.watch_until_end(child, sources, lingering);
        let closed = self.log.close();
        let ended = ended?;
        closed?;
        Ok(ended)
    }

    fn watch_until_end(
        &mut self,
        child: &mut Child,
        sources: &mut [Source<'_>],
        lingering: bool,
    ) -> Result<Ended, RequestError> {
        let cancelled = CancelEvent::new(self.attempt.cancel())
            .map_err(|e| RequestError::new(format!("creating an event descriptor: {e}")))?;
        let pid = child.pid().unsigned_abs();
        let started = self.started;
        let mut last_output = Instant::now();
        let mut log_bytes = 0u64;
        let mut exited_since: Option<Instant> = None;
        let mut buffer = [0u8; OUTPUT_CHUNK_SIZE];
        loop {
            let all_read = sources.iter().all(|source| source.file.is_none());
            if exited_since
                .is_some_and(|since| all_read || (lingering && since.elapsed() >= LINGER))
            {
                break;
            }
            let mut wait = self.until_limit(started, last_output);
            if let (Some(since), true) = (exited_since, lingering) {
                wait = wait.min(LINGER.saturating_sub(since.elapsed()));
            }
            wait = wait.min(self.log.until_flush());
            let woken = self.wait(&cancelled, child, sources, exited_since.is_some(), wait)?;
            if woken.cancelled {
                kill(child)?;
                return Ok(Ended::Cancelled);
            }
            if woken.exited && exited_since.is_none() {
                exited_since = Some(Instant::now());
                // It isn't reaped yet, so its process group id can't have been reused.
                child
                    .kill_group()
                    .map_err(|e| RequestError::new(format!("killing {}: {e}", self.name)))?;
            }
            for (source, _) in sources
                .iter_mut()
                .zip(woken.ready)
                .filter(|(_, ready)| *ready)
            {
                let data = match read(source, &mut buffer, &self.name)? {
                    0 => continue,
                    count => &buffer[..count],
                };
                match &mut source.carries {
                    // No output: it concerns neither the limits nor the client.
                    Carries::Rows(take) => {
                        take(data);
                        continue;
                    }
                    Carries::HelperOutput(filter) => {
                        self.helper_output(pid, filter.filter(data));
                    }
                    Carries::Log(filter) => {
                        log_bytes += data.len() as u64;
                        if self.limits.log_size != 0 && log_bytes > self.limits.log_size {
                            let text = format!(
                                "{} killed after writing more than {} bytes of log output",
                                self.name, self.limits.log_size
                            );
                            return self.limit_exceeded(child, text);
                        }
                        self.attempt.log(LogRecord::BuildOutput {
                            pid,
                            data: filter.filter(data).into(),
                        });
                        self.log.write(data)?;
                    }
                }
                last_output = Instant::now();
                // The limits also apply while nobody reads: a builder must not exceed them because
                // its client has stopped.
                self.attempt.wait_for_room(|| {
                    self.end_of_pause(started, last_output, exited_since, lingering)
                });
            }
            self.log.flush_if_due()?;
            if exited_since.is_some() && lingering {
                continue;
            }
            let Limits { silence, total, .. } = self.limits;
            if silence != 0 && last_output.elapsed().as_secs() >= silence {
                let text = format!("{} timed out after {silence} seconds of silence", self.name);
                return self.limit_exceeded(child, text);
            }
            if total != 0 && started.elapsed().as_secs() >= total {
                let text = format!("{} timed out after {total} seconds", self.name);
                return self.limit_exceeded(child, text);
            }
        }
        for source in sources {
            if let Carries::HelperOutput(filter) = &mut source.carries {
                self.helper_output(pid, filter.finish());
            }
        }
        let status = child
            .wait()
            .map_err(|e| RequestError::new(format!("waiting for {}: {e}", self.name)))?;
        Ok(Ended::Exited(status))
    }

    fn helper_output(&self, pid: u32, data: Vec<u8>) {
        if !data.is_empty() {
            self.attempt.log(LogRecord::HelperOutput {
                pid: Some(pid),
                data: data.into(),
            });
        }
    }

    fn limit_exceeded(&self, child: &mut Child, text: String) -> Result<Ended, RequestError> {
        self.attempt.message(Level::Error, text);
        kill(child)?;
        Ok(Ended::TimedOut)
    }

    /// When to stop holding back output although nobody reads it.
    fn end_of_pause(
        &self,
        started: Instant,
        last_output: Instant,
        exited_since: Option<Instant>,
        lingering: bool,
    ) -> Option<Instant> {
        let limit = Instant::now().checked_add(self.until_limit(started, last_output));
        let linger = exited_since
            .filter(|_| lingering)
            .map(|since| since + LINGER);
        limit.into_iter().chain(linger).min()
    }

    fn until_limit(&self, started: Instant, last_output: Instant) -> Duration {
        let left = |limit: u64, since: Instant| match limit {
            0 => Duration::MAX,
            _ => Duration::from_secs(limit).saturating_sub(since.elapsed()),
        };
        left(self.limits.silence, last_output).min(left(self.limits.total, started))
    }

    /// Waits for an event or the timeout. With `has_exited`, the child isn't polled any more.
    fn wait(
        &self,
        cancelled: &CancelEvent,
        child: &Child,
        sources: &[Source<'_>],
        has_exited: bool,
        timeout: Duration,
    ) -> Result<Woken, RequestError> {
        let mut fds = vec![PollFd::new(cancelled.as_fd(), PollFlags::POLLIN)];
        if !has_exited {
            fds.push(PollFd::new(child.pidfd(), PollFlags::POLLIN));
        }
        let first = fds.len();
        fds.extend(
            sources
                .iter()
                .filter_map(|s| s.file.as_ref())
                .map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)),
        );
        let timeout = (timeout != Duration::MAX).then_some(timeout);
        poll(&mut fds, timeout).map_err(|error| {
            RequestError::new(format!("waiting for output of {}: {error}", self.name))
        })?;
        let mut polled = fds[first..].iter().map(is_ready);
        let ready = sources
            .iter()
            .map(|source| source.file.is_some() && polled.next().unwrap_or(false))
            .collect();
        Ok(Woken {
            cancelled: is_ready(&fds[0]),
            exited: !has_exited && is_ready(&fds[1]),
            ready,
        })
    }
}

/// Reads a piece and returns its length, which is 0 if nothing is available. At end of file, the
/// source is closed.
fn read(source: &mut Source<'_>, buffer: &mut [u8], name: &str) -> Result<usize, RequestError> {
    let Some(file) = &mut source.file else {
        return Ok(0);
    };
    match file.read(buffer) {
        Ok(0) => {
            source.file = None;
            Ok(0)
        }
        Ok(count) => Ok(count),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
            ) =>
        {
            Ok(0)
        }
        Err(e) => Err(RequestError::new(format!("reading from {name}: {e}"))),
    }
}

/// Kills the process with its group, and reaps it.
fn kill(child: &mut Child) -> Result<(), RequestError> {
    let pid = child.pid();
    child
        .kill_group()
        .and_then(|()| child.wait().map(drop))
        .map_err(|e| RequestError::new(format!("killing process {pid}: {e}")))
}
