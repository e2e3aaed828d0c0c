//! All transfers that run, and the connections that outlive them.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use curl::easy::Easy2;
use curl::multi::{Easy2Handle, Multi, WaitFd};
use substitutes::network::{ErrorKind, NetworkError};

use super::transfer::{Sink, Transfer};

/// How many connections that nobody uses are kept, if there are descriptors for so many.
const IDLE_CONNECTIONS: usize = 128;
/// How long a body that nobody wants may take to end, so that its connection can be used again.
const DRAIN: Duration = Duration::from_secs(1);

/// Identifies a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(usize);

/// A transfer that has ended.
pub struct Ended {
    pub token: Token,
    pub easy: Easy2<Transfer>,
    pub result: Result<(), curl::Error>,
}

/// A descriptor to wait for, besides those of the transfers.
pub struct Waiting {
    pub fd: RawFd,
    pub for_reading: bool,
    pub for_writing: bool,
}

/// libcurl, and its transfers.
pub struct Engine {
    // Dropped before what they are part of.
    handles: HashMap<usize, Easy2Handle<Transfer>>,
    multi: Multi,
    last: usize,
    /// Transfers whose body nobody wants, and until when they may go on.
    draining: HashMap<usize, Instant>,
}

impl Engine {
    /// No transfers yet. At most `idle` connections are kept.
    pub fn new(idle: u64) -> Result<Engine, curl::MultiError> {
        let mut multi = Multi::new();
        multi.pipelining(false, true)?;
        let idle = usize::try_from(idle).unwrap_or(usize::MAX);
        multi.set_max_connects(idle.min(IDLE_CONNECTIONS))?;
        Ok(Engine {
            handles: HashMap::new(),
            multi,
            last: 0,
            draining: HashMap::new(),
        })
    }

    /// Starts a transfer.
    pub fn start(
        &mut self,
        easy: Result<Easy2<Transfer>, curl::Error>,
    ) -> Result<Token, NetworkError> {
        let refused = |text: String| NetworkError::new(ErrorKind::Refused, text);
        let easy = easy.map_err(|error| refused(error.to_string()))?;
        let mut handle = (self.multi)
            .add2(easy)
            .map_err(|error| refused(error.to_string()))?;
        self.last += 1;
        handle
            .set_token(self.last)
            .map_err(|error| refused(error.to_string()))?;
        self.handles.insert(self.last, handle);
        Ok(Token(self.last))
    }

    /// Ends a transfer, and closes its connection unless others share it.
    pub fn stop(&mut self, token: Token) {
        self.draining.remove(&token.0);
        self.handles.remove(&token.0);
    }

    /// Throws the rest of a transfer away; it is ended if that takes long.
    pub fn drain(&mut self, token: Token) {
        if let Some(handle) = self.handles.get_mut(&token.0) {
            handle.get_mut().sink = Sink::Nowhere;
            self.draining.insert(token.0, Instant::now() + DRAIN);
        }
        self.unpause(token);
    }

    /// Continues a transfer that has paused. It may end thereby, as [`Engine::run`] then says.
    pub fn unpause(&mut self, token: Token) {
        if let Some(handle) = self.handles.get(&token.0) {
            // If this fails, the transfer has ended.
            let _ = handle.unpause_write();
        }
    }

    /// Does what can be done without waiting; returns the transfers that have ended.
    pub fn run(&mut self) -> Result<Vec<Ended>, curl::MultiError> {
        self.multi.perform()?;
        let mut results = Vec::new();
        let handles = &self.handles;
        self.multi.messages(|message| {
            let Ok(token) = message.token() else { return };
            let handle = handles.get(&token);
            if let Some(result) = handle.and_then(|handle| message.result_for2(handle)) {
                results.push((token, result));
            }
        });
        let mut ended = Vec::new();
        for (token, result) in results {
            let Some(handle) = self.handles.remove(&token) else {
                continue;
            };
            let easy = self.multi.remove2(handle)?;
            if self.draining.remove(&token).is_none() {
                ended.push(Ended {
                    token: Token(token),
                    easy,
                    result,
                });
            }
        }
        let now = Instant::now();
        let late = self.draining.iter().filter(|(_, until)| **until <= now);
        for token in late.map(|(token, _)| Token(*token)).collect::<Vec<_>>() {
            self.stop(token);
        }
        Ok(ended)
    }

    /// Waits until something can be done for a transfer, or one of the descriptors is ready.
    pub fn wait(&self, others: &[Waiting], timeout: Duration) -> Result<(), curl::MultiError> {
        let mut fds: Vec<WaitFd> = others
            .iter()
            .map(|other| {
                let mut fd = WaitFd::new();
                fd.set_fd(other.fd);
                fd.poll_on_read(other.for_reading);
                fd.poll_on_write(other.for_writing);
                fd
            })
            .collect();
        let timeout = match self.draining.is_empty() {
            true => timeout,
            false => timeout.min(DRAIN),
        };
        self.multi.wait(&mut fds, timeout)?;
        Ok(())
    }
}
