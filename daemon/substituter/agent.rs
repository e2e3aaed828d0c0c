//! The process that answers queries and fetches items: `guix substitute`.
//!
//! Requests are written to its descriptor 0 and replies are read from its descriptor 4; its output
//! on 1 and 2 is its log. The client's settings are in its environment, as `_NIX_OPTIONS`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use bstr::{BStr, BString, ByteSlice};
use formats::store_path::{StoreDir, StorePath};
use protocol::operations::Substitutable;
use substitutes::Waiter;
use system::poll::{PollFd, PollFlags, is_ready, poll};
use system::process::Child;

use super::conversation::Conversation;
use super::error::Error;
use super::reply::SubstituteReply;

/// The longest line of a reply that the agent may send, in bytes.
const REPLY_LINE_LIMIT: usize = 1 << 20;
/// The maximum number of references of an item.
const REFERENCES_LIMIT: u64 = 1 << 20;

/// The mode of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentMode {
    /// `--query`: says what can be substituted.
    Query,
    /// `--substitute`: fetches items.
    Substitute,
}

impl AgentMode {
    /// The argument of `guix substitute`.
    pub fn argument(self) -> &'static str {
        match self {
            AgentMode::Query => "--query",
            AgentMode::Substitute => "--substitute",
        }
    }
}

/// What is needed to start `guix substitute`.
pub struct AgentProgram {
    /// `guix`.
    pub guix: PathBuf,
    /// Its second argument.
    pub mode: AgentMode,
    /// `_NIX_OPTIONS`.
    pub options: OsString,
    /// The directories that it writes to; some may not exist.
    pub writable: Vec<PathBuf>,
    /// Its descriptor 0.
    pub requests: OwnedFd,
    /// Its descriptors 1 and 2.
    pub log: OwnedFd,
    /// Its descriptor 4.
    pub replies: OwnedFd,
}

/// Starts a program such that it is killed when the daemon dies.
pub type StartAgent = dyn Fn(AgentProgram) -> io::Result<Child> + Send + Sync;

/// A running `guix substitute`.
pub struct Agent {
    program: PathBuf,
    child: Child,
    requests: File,
    log: File,
    replies: File,
    /// Bytes of the replies that were read but not parsed yet.
    pending: BString,
}

impl Agent {
    /// Has `start` start `guix substitute`; `options` is the value of `_NIX_OPTIONS`, and `writable`
    /// the directories that it writes to. It is killed on drop, or when the daemon dies.
    pub fn start(
        start: &StartAgent,
        guix: &Path,
        mode: AgentMode,
        options: &BStr,
        writable: Vec<PathBuf>,
    ) -> Result<Agent, Error> {
        let failed = |source| Error::Start {
            program: guix.to_owned(),
            source,
        };
        let (request_reader, request_writer) = system::pipe::pipe().map_err(failed)?;
        let (log_reader, log_writer) = system::pipe::pipe().map_err(failed)?;
        let (reply_reader, reply_writer) = system::pipe::pipe().map_err(failed)?;
        let program = AgentProgram {
            guix: guix.to_owned(),
            mode,
            options: OsString::from_vec(options.to_vec()),
            writable,
            requests: request_reader,
            log: log_writer,
            replies: reply_writer,
        };
        let child = start(program).map_err(failed)?;
        Ok(Agent {
            program: guix.to_owned(),
            child,
            requests: request_writer.into(),
            log: log_reader.into(),
            replies: reply_reader.into(),
            pending: BString::default(),
        })
    }

    /// The process id, which messages about a substitution show.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Returns which of `paths` have substitutes.
    pub fn have(
        &mut self,
        paths: &BTreeSet<StorePath>,
        store: &StoreDir,
        conversation: &mut Conversation<'_>,
    ) -> Result<BTreeSet<StorePath>, Error> {
        self.request("have", paths, conversation)?;
        let mut found = BTreeSet::new();
        loop {
            let line = self.line(conversation)?;
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

    /// Returns what is known about the substitutes of `paths`.
    pub fn info(
        &mut self,
        paths: &BTreeSet<StorePath>,
        store: &StoreDir,
        conversation: &mut Conversation<'_>,
    ) -> Result<BTreeMap<StorePath, Substitutable>, Error> {
        self.request("info", paths, conversation)?;
        let mut found = BTreeMap::new();
        loop {
            let line = self.line(conversation)?;
            if line.is_empty() {
                return Ok(found);
            }
            let path = match store.parse(&line) {
                Ok(path) if paths.contains(&path) && !found.contains_key(&path) => path,
                _ => return Err(Error::UnexpectedPath(line)),
            };
            let deriver = self.line(conversation)?;
            let deriver = if deriver.is_empty() {
                None
            } else {
                Some(store.parse(&deriver)?)
            };
            let count = self.number(conversation)?;
            if count > REFERENCES_LIMIT {
                return Err(Error::TooLong);
            }
            let mut references = BTreeSet::new();
            for _ in 0..count {
                references.insert(store.parse(self.line(conversation)?)?);
            }
            let download_size = self.number(conversation)?;
            let nar_size = self.number(conversation)?;
            found.insert(
                path,
                Substitutable {
                    deriver,
                    references,
                    download_size,
                    nar_size,
                },
            );
        }
    }

    /// Fetches `path` to `destination`, which must not exist yet.
    pub fn substitute(
        &mut self,
        path: &StorePath,
        destination: &Path,
        conversation: &mut Conversation<'_>,
    ) -> Result<SubstituteReply, Error> {
        let mut request = format!("substitute {path} ").into_bytes();
        request.extend_from_slice(destination.as_os_str().as_encoded_bytes());
        request.push(b'\n');
        self.send(&request, conversation)?;
        Ok(SubstituteReply::parse(self.line(conversation)?.as_bstr()))
    }

    fn request(
        &mut self,
        word: &str,
        paths: &BTreeSet<StorePath>,
        conversation: &mut Conversation<'_>,
    ) -> Result<(), Error> {
        let mut line = String::from(word);
        line.push(' ');
        // No existing item has a name with a space or a newline, which would begin another request.
        for path in paths.iter().filter(|path| path.is_well_formed()) {
            line.push_str(path.as_str());
            line.push(' ');
        }
        line.push('\n');
        self.send(line.as_bytes(), conversation)
    }

    /// Sends a request, and forwards the agent's log meanwhile.
    fn send(
        &mut self,
        mut request: &[u8],
        conversation: &mut Conversation<'_>,
    ) -> Result<(), Error> {
        system::pipe::set_nonblocking(&self.requests, true)?;
        while !request.is_empty() {
            match self.requests.write(request) {
                Ok(count) => request = &request[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(true, conversation)?;
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    // The reason is in its log.
                    while self.wait(false, conversation)? {}
                    return Err(Error::Died(self.program.clone()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn number(&mut self, conversation: &mut Conversation<'_>) -> Result<u64, Error> {
        let line = self.line(conversation)?;
        let number = line
            .to_str()
            .ok()
            .and_then(|text| text.trim_start().parse().ok());
        number.ok_or(Error::Integer(line))
    }

    /// Reads the next line of the replies.
    fn line(&mut self, conversation: &mut Conversation<'_>) -> Result<BString, Error> {
        loop {
            if let Some(end) = self.pending.find_byte(b'\n') {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut *self.pending, rest);
                line.truncate(end);
                conversation.flush();
                return Ok(line.into());
            }
            if self.pending.len() > REPLY_LINE_LIMIT {
                return Err(Error::TooLong);
            }
            if !self.wait(false, conversation)? {
                return Err(Error::Died(self.program.clone()));
            }
        }
    }

    /// Waits until the agent has written something or is writable, and reads what is available.
    /// Returns `false` once the agent has closed its log or its replies.
    fn wait(&mut self, writing: bool, conversation: &mut Conversation<'_>) -> Result<bool, Error> {
        let timeout = conversation.time_left()?;
        let (log, replies) = {
            let idle = PollFlags::empty();
            let mut fds = [
                PollFd::new(self.log.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.replies.as_fd(), PollFlags::POLLIN),
                PollFd::new(conversation.wake_fd(), PollFlags::POLLIN),
                PollFd::new(
                    self.requests.as_fd(),
                    if writing { PollFlags::POLLOUT } else { idle },
                ),
            ];
            let fds = if writing { &mut fds[..] } else { &mut fds[..3] };
            poll(fds, timeout)?;
            (is_ready(&fds[0]), is_ready(&fds[1]))
        };
        let mut buffer = [0; 4096];
        if log || replies {
            conversation.note_activity();
        }
        if log {
            let count = read(&self.log, &mut buffer)?;
            conversation.forward(&buffer[..count]);
            // After the end of the log, there may still be a reply.
            return Ok(count > 0 || replies && self.read_reply(&mut buffer)?);
        }
        if replies {
            return self.read_reply(&mut buffer);
        }
        Ok(true)
    }

    fn read_reply(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
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

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
