//! Talking to `guix substitute`, the program that knows where ready-made store items can be had.
//!
//! It runs as an *agent*: requests go to its descriptor 0, replies come on its descriptor 4, and
//! what it has to say to people on 1 and 2. One [`Agent`] serves one session (questions) or one
//! build goal (substitutions), with that client's settings in `_NIX_OPTIONS`. Where no `guix` is
//! installed, there are no substitutes. Documented in Guix's `guix/scripts/substitute.scm`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bstr::{BStr, BString, ByteSlice};
use formats::store_path::{StoreDir, StorePath};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use system::process::{Child, Spawn};

use crate::cancel::{CancelGuard, CancellationToken};
use crate::spawner::Spawner;

/// The longest line that is taken from the agent.
const LINE_LIMIT: usize = 1 << 20;
/// The most references that one item may have.
const REFERENCES_LIMIT: u64 = 1 << 20;

/// What an agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `--query`: what is there to be had.
    Query,
    /// `--substitute`: fetch it.
    Substitute,
}

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("cannot start `{} substitute': {source}", program.display())]
    Start {
        /// The `guix` program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended instead of answering.
    #[error("`{} substitute' died unexpectedly", .0.display())]
    Died(PathBuf),
    /// The connection to it failed.
    #[error("talking to the substituter: {0}")]
    Io(#[from] io::Error),
    /// A number was expected.
    #[error("integer expected from stream: {0}")]
    Integer(BString),
    /// It answered what was not asked.
    #[error("got unexpected path `{0}' from substituter")]
    UnexpectedPath(BString),
    /// Not a store path.
    #[error(transparent)]
    Path(#[from] formats::store_path::Error),
    /// A line without end.
    #[error("the substituter's answer is too long")]
    TooLong,
    /// Who asked does not want to know any more.
    #[error("interrupted by the user")]
    Interrupted,
    /// A limit was exceeded.
    #[error("timed out after {0} seconds")]
    TooSlow(u64),
    /// Nothing was heard for as long as the limit says.
    #[error("timed out after {0} seconds of silence")]
    TooSilent(u64),
}

/// What is known of an item that can be substituted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The derivation it was made by, if known.
    pub deriver: Option<StorePath>,
    /// What it refers to.
    pub references: BTreeSet<StorePath>,
    /// Bytes to be downloaded; 0 if not known.
    pub download_size: u64,
    /// Bytes of the nar; 0 if not known.
    pub nar_size: u64,
}

/// The answer to a substitution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The item is at its destination.
    Success {
        /// `ALGORITHM:HASH` of the nar.
        hash: BString,
        /// Bytes of the nar.
        nar_size: u64,
    },
    /// Nobody has it.
    NotFound,
    /// What came was something else.
    HashMismatch {
        /// The algorithm.
        algorithm: BString,
        /// The hash that was promised.
        expected: BString,
        /// The hash of what came.
        actual: BString,
    },
    /// Anything else: the agent's words.
    Other(BString),
}

/// A running `guix substitute`.
pub struct Agent {
    program: PathBuf,
    child: Child,
    requests: File,
    log: File,
    replies: File,
    /// What of the replies was read and not yet used.
    pending: BString,
}

impl Agent {
    /// Whether there is a program that can be asked.
    pub fn available(guix: &Path) -> bool {
        nix::unistd::access(guix, nix::unistd::AccessFlags::X_OK).is_ok()
    }

    /// Starts `guix substitute`; `options` is the value of `_NIX_OPTIONS`. It is killed when the
    /// value is dropped, or with the daemon.
    pub fn start(
        spawner: &Spawner,
        guix: &Path,
        mode: Mode,
        options: &BStr,
    ) -> Result<Agent, Error> {
        let start = |source| Error::Start {
            program: guix.to_owned(),
            source,
        };
        let (request_reader, request_writer) = system::pipe::pipe().map_err(start)?;
        let (log_reader, log_writer) = system::pipe::pipe().map_err(start)?;
        let (reply_reader, reply_writer) = system::pipe::pipe().map_err(start)?;
        let program = Spawn::new(guix)
            .arg("substitute")
            .arg(match mode {
                Mode::Query => "--query",
                Mode::Substitute => "--substitute",
            })
            .env("_NIX_OPTIONS", OsString::from_vec(options.to_vec()))
            .fd(request_reader, 0)
            .fd(log_writer.try_clone().map_err(start)?, 1)
            .fd(log_writer, 2)
            .fd(reply_writer, 4)
            .current_dir("/")
            .setsid();
        let child = spawner.start(program).map_err(start)?;
        Ok(Agent {
            program: guix.to_owned(),
            child,
            requests: request_writer.into(),
            log: log_reader.into(),
            replies: reply_reader.into(),
            pending: BString::default(),
        })
    }

    /// The process: substitutions show it in their messages.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Which of `paths` can be substituted.
    pub fn have(
        &mut self,
        paths: &BTreeSet<StorePath>,
        store: &StoreDir,
        talk: &mut Talk<'_>,
    ) -> Result<BTreeSet<StorePath>, Error> {
        self.request("have", paths, talk)?;
        let mut found = BTreeSet::new();
        loop {
            let line = self.line(talk)?;
            if line.is_empty() {
                return Ok(found);
            }
            let path = store.parse(&line)?;
            if !paths.contains(&path) {
                return Err(Error::UnexpectedPath(line));
            }
            found.insert(path);
        }
    }

    /// What is known of those of `paths` that can be substituted.
    pub fn info(
        &mut self,
        paths: &BTreeSet<StorePath>,
        store: &StoreDir,
        talk: &mut Talk<'_>,
    ) -> Result<BTreeMap<StorePath, Info>, Error> {
        self.request("info", paths, talk)?;
        let mut found = BTreeMap::new();
        loop {
            let line = self.line(talk)?;
            if line.is_empty() {
                return Ok(found);
            }
            let path = match store.parse(&line) {
                Ok(path) if paths.contains(&path) && !found.contains_key(&path) => path,
                _ => return Err(Error::UnexpectedPath(line)),
            };
            let deriver = self.line(talk)?;
            let deriver = if deriver.is_empty() {
                None
            } else {
                Some(store.parse(&deriver)?)
            };
            let count = self.number(talk)?;
            if count > REFERENCES_LIMIT {
                return Err(Error::TooLong);
            }
            let mut references = BTreeSet::new();
            for _ in 0..count {
                references.insert(store.parse(self.line(talk)?)?);
            }
            let download_size = self.number(talk)?;
            let nar_size = self.number(talk)?;
            found.insert(
                path,
                Info {
                    deriver,
                    references,
                    download_size,
                    nar_size,
                },
            );
        }
    }

    /// Has `path` put at `destination`, which does not exist.
    pub fn substitute(
        &mut self,
        path: &StorePath,
        destination: &Path,
        talk: &mut Talk<'_>,
    ) -> Result<Reply, Error> {
        let mut request = format!("substitute {path} ").into_bytes();
        request.extend_from_slice(destination.as_os_str().as_encoded_bytes());
        request.push(b'\n');
        self.send(&request, talk)?;
        Ok(parse_reply(&self.line(talk)?))
    }

    fn request(
        &mut self,
        word: &str,
        paths: &BTreeSet<StorePath>,
        talk: &mut Talk<'_>,
    ) -> Result<(), Error> {
        let mut line = String::from(word);
        line.push(' ');
        // The name of an item that exists has no space or newline, which would be a second request.
        for path in paths.iter().filter(|path| path.is_well_formed()) {
            line.push_str(path.as_str());
            line.push(' ');
        }
        line.push('\n');
        self.send(line.as_bytes(), talk)
    }

    /// Sends a request, while listening to what the agent says meanwhile.
    fn send(&mut self, mut request: &[u8], talk: &mut Talk<'_>) -> Result<(), Error> {
        system::pipe::set_nonblocking(&self.requests, true)?;
        while !request.is_empty() {
            match self.requests.write(request) {
                Ok(count) => request = &request[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(true, talk)?;
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    // Its last words say why.
                    while self.wait(false, talk)? {}
                    return Err(Error::Died(self.program.clone()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn number(&mut self, talk: &mut Talk<'_>) -> Result<u64, Error> {
        let line = self.line(talk)?;
        let number = line
            .to_str()
            .ok()
            .and_then(|text| text.trim_start().parse().ok());
        number.ok_or(Error::Integer(line))
    }

    /// The next line of the replies.
    fn line(&mut self, talk: &mut Talk<'_>) -> Result<BString, Error> {
        loop {
            if let Some(end) = self.pending.find_byte(b'\n') {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut *self.pending, rest);
                line.truncate(end);
                talk.flush();
                return Ok(line.into());
            }
            if self.pending.len() > LINE_LIMIT {
                return Err(Error::TooLong);
            }
            if !self.wait(false, talk)? {
                return Err(Error::Died(self.program.clone()));
            }
        }
    }

    /// Waits until something happens, and takes it in; whether the agent still talks.
    fn wait(&mut self, writing: bool, talk: &mut Talk<'_>) -> Result<bool, Error> {
        if (talk.stopped)() {
            return Err(Error::Interrupted);
        }
        let patience = talk.patience()?;
        let (log, replies) = {
            let idle = PollFlags::empty();
            let mut fds = [
                PollFd::new(self.log.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.replies.as_fd(), PollFlags::POLLIN),
                PollFd::new(talk.wake.fd(), PollFlags::POLLIN),
                PollFd::new(
                    self.requests.as_fd(),
                    if writing { PollFlags::POLLOUT } else { idle },
                ),
            ];
            let fds = if writing { &mut fds[..] } else { &mut fds[..3] };
            match poll(fds, patience) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let ready = |fd: &PollFd| fd.any().unwrap_or(false);
            (ready(&fds[0]), ready(&fds[1]))
        };
        let mut buffer = [0; 4096];
        if log || replies {
            talk.last_heard = Instant::now();
        }
        if log {
            let count = read(&self.log, &mut buffer)?;
            talk.hear(&buffer[..count]);
            // End of the log with nothing more in the replies is the end.
            return Ok(count > 0 || replies && self.take(&mut buffer)?);
        }
        if replies {
            return self.take(&mut buffer);
        }
        Ok(true)
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        let count = read(&self.replies, buffer)?;
        self.pending.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }
}

fn read(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn parse_reply(line: &BString) -> Reply {
    let words: Vec<BString> = line
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
        .map(BString::from)
        .collect();
    let other = || Reply::Other(line.clone());
    match words.as_slice() {
        [status, hash, size] if status == "success" => {
            match size.to_str().ok().and_then(|text| text.parse().ok()) {
                Some(nar_size) => Reply::Success {
                    hash: hash.clone(),
                    nar_size,
                },
                None => other(),
            }
        }
        [status] if status == "not-found" => Reply::NotFound,
        [status, algorithm, expected, actual] if status == "hash-mismatch" => Reply::HashMismatch {
            algorithm: algorithm.clone(),
            expected: expected.clone(),
            actual: actual.clone(),
        },
        _ => other(),
    }
}

/// How the agent's words reach the client, how the client ends the conversation, and how long it
/// may take.
pub struct Talk<'a> {
    hear: &'a mut dyn FnMut(&[u8]),
    by_line: bool,
    partial: Vec<u8>,
    stopped: Box<dyn Fn() -> bool + 'a>,
    wake: Wake<'a>,
    /// Seconds without a word, and altogether; 0 is for ever.
    limits: (u64, u64),
    started: Instant,
    last_heard: Instant,
}

/// A descriptor that becomes readable when the conversation is to end.
enum Wake<'a> {
    Own(
        Arc<EventFd>,
        #[allow(dead_code, reason = "held until the end")] CancelGuard,
    ),
    Given(BorrowedFd<'a>),
}

impl Wake<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Wake::Own(event, _) => event.as_fd(),
            Wake::Given(fd) => *fd,
        }
    }
}

impl<'a> Talk<'a> {
    /// A conversation that ends when `cancel` is thrown.
    pub fn new(
        hear: &'a mut dyn FnMut(&[u8]),
        cancel: &'a CancellationToken,
    ) -> Result<Talk<'a>, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags).map_err(io::Error::from)?);
        let waker = wake.clone();
        let guard = cancel.on_cancel(move || {
            let _ = waker.write(1);
        });
        Ok(Self::with(
            hear,
            Box::new(|| cancel.is_cancelled()),
            Wake::Own(wake, guard),
        ))
    }

    /// A conversation that ends when `wake` becomes readable, for a reason that `stopped` knows.
    pub fn until(
        hear: &'a mut dyn FnMut(&[u8]),
        stopped: impl Fn() -> bool + 'a,
        wake: BorrowedFd<'a>,
    ) -> Talk<'a> {
        Self::with(hear, Box::new(stopped), Wake::Given(wake))
    }

    fn with(
        hear: &'a mut dyn FnMut(&[u8]),
        stopped: Box<dyn Fn() -> bool + 'a>,
        wake: Wake<'a>,
    ) -> Talk<'a> {
        let now = Instant::now();
        Talk {
            hear,
            by_line: false,
            partial: Vec::new(),
            stopped,
            wake,
            limits: (0, 0),
            started: now,
            last_heard: now,
        }
    }

    /// Sets limits in seconds: without a word, and altogether; 0 is for ever.
    pub fn within(mut self, silence: u64, total: u64) -> Talk<'a> {
        self.limits = (silence, total);
        self
    }

    /// How long to wait for the next word.
    fn patience(&self) -> Result<PollTimeout, Error> {
        let (silence, total) = self.limits;
        let mut least = None;
        for (limit, since, error) in [
            (silence, self.last_heard, Error::TooSilent(silence)),
            (total, self.started, Error::TooSlow(total)),
        ] {
            let left = Duration::from_secs(limit).saturating_sub(since.elapsed());
            if limit != 0 && left.is_zero() {
                return Err(error);
            }
            if limit != 0 {
                least = Some(least.map_or(left, |least: Duration| least.min(left)));
            }
        }
        Ok(least.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        }))
    }

    /// Hands on whole lines, each with `substitute: ` before it (questions).
    pub fn by_line(mut self) -> Talk<'a> {
        self.by_line = true;
        self
    }

    fn hear(&mut self, words: &[u8]) {
        if !self.by_line {
            if !words.is_empty() {
                (self.hear)(words);
            }
            return;
        }
        self.partial.extend_from_slice(words);
        while let Some(end) = self.partial.find_byteset(b"\n\r") {
            let rest = self.partial.split_off(end + 1);
            let line = std::mem::replace(&mut self.partial, rest);
            (self.hear)(&[b"substitute: ", line.as_slice()].concat());
        }
        if self.partial.len() > LINE_LIMIT {
            self.flush();
        }
    }

    /// Hands on a line without an end.
    fn flush(&mut self) {
        if !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            (self.hear)(&[b"substitute: ", line.as_slice(), b"\n"].concat());
        }
    }
}

#[cfg(test)]
#[path = "substitute_tests.rs"]
mod tests;
