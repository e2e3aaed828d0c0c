//! Asking a hook whether it takes a derivation (`doc/spec/hook-protocol.md`, sections 4 and 5).

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use system::poll::{PollFd, PollFlags, is_ready, poll, wait_readable};
use system::signal;

use super::super::attempt::Attempt;
use super::super::log_sink::LogRecord;
use super::process::HookProcess;
use crate::cancel::CancelEvent;

/// A longer line before the reply is passed on in pieces.
const OUTPUT_LINE_LIMIT: usize = 64 << 10;

/// What a hook needs to know to decide.
pub(in super::super) struct Question<'a> {
    /// A local build could be started at once.
    pub(in super::super) am_willing: bool,
    /// The derivation's system.
    pub(in super::super) platform: &'a str,
    /// The derivation's file name.
    pub(in super::super) derivation: &'a str,
    /// The features that the build machine must have.
    pub(in super::super) features: Vec<&'a str>,
}

impl Question<'_> {
    fn line(&self) -> String {
        let Question {
            am_willing,
            platform,
            derivation,
            features,
        } = self;
        format!(
            "{} {platform} {derivation} {}\n",
            u8::from(*am_willing),
            features.join(",")
        )
    }
}

/// What a process answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It builds the derivation.
    Accept,
    /// It does not.
    Decline,
    /// It will never build anything (a reply of Nix's hooks).
    DeclinePermanently,
    /// Ask again later.
    Postpone,
    /// It died, did not reply in time, or replied something else: the predicate of "hook X …".
    Failed(String),
    /// The attempt was stopped meanwhile.
    Cancelled,
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
    /// Asks, and waits for the answer; other output is passed on meanwhile.
    pub(super) fn ask(
        &mut self,
        attempt: &Attempt,
        question: &Question,
        timeout: Duration,
    ) -> Answer {
        self.send_and_receive(attempt, question, timeout)
            .unwrap_or_else(|error| Answer::Failed(format!("cannot be talked to: {error}")))
    }

    fn send_and_receive(
        &mut self,
        attempt: &Attempt,
        question: &Question,
        timeout: Duration,
    ) -> io::Result<Answer> {
        let deadline = Instant::now() + timeout;
        let cancelled = CancelEvent::new(attempt.cancel())?;
        match self.send(&cancelled, question.line().as_bytes(), deadline)? {
            Some(answer) => Ok(answer),
            None => self.receive(attempt, &cancelled, deadline, timeout),
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

    fn receive(
        &mut self,
        attempt: &Attempt,
        cancelled: &CancelEvent,
        deadline: Instant,
        timeout: Duration,
    ) -> io::Result<Answer> {
        let mut dead = false;
        loop {
            while let Some(line) = self.next_line() {
                if let Some(word) = line.strip_prefix(b"# ") {
                    return Ok(read_reply(word));
                }
                attempt.log(LogRecord::HelperOutput {
                    pid: None,
                    data: [&line[..], b"\n"].concat().into(),
                });
            }
            if dead {
                return self.died(attempt);
            }
            match self.wait(cancelled, self.output.as_fd(), PollFlags::POLLIN, deadline)? {
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

    fn died(&mut self, attempt: &Attempt) -> io::Result<Answer> {
        if !self.unread.is_empty() {
            attempt.log(LogRecord::HelperOutput {
                pid: None,
                data: std::mem::take(&mut self.unread).into(),
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

fn read_reply(word: &[u8]) -> Answer {
    match word {
        b"accept" => Answer::Accept,
        b"decline" => Answer::Decline,
        b"decline-permanently" => Answer::DeclinePermanently,
        b"postpone" => Answer::Postpone,
        other => {
            let shown: String = String::from_utf8_lossy(other).chars().take(100).collect();
            Answer::Failed(format!("gave a bad reply `{}'", shown.escape_debug()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_three_spaces_whatever_the_features() {
        let mut question = Question {
            am_willing: true,
            platform: "x86_64-linux",
            derivation: "/gnu/store/x.drv",
            features: vec![],
        };
        assert_eq!(question.line(), "1 x86_64-linux /gnu/store/x.drv \n");
        question.am_willing = false;
        question.features = vec!["kvm", "big"];
        assert_eq!(question.line(), "0 x86_64-linux /gnu/store/x.drv kvm,big\n");
    }

    #[test]
    fn replies_are_compared_exactly() {
        assert_eq!(read_reply(b"accept"), Answer::Accept);
        assert_eq!(
            read_reply(b"accept "),
            Answer::Failed("gave a bad reply `accept '".to_owned())
        );
        assert_eq!(
            read_reply(b""),
            Answer::Failed("gave a bad reply `'".to_owned())
        );
        assert_eq!(read_reply(b"postpone"), Answer::Postpone);
    }
}
