//! A command that runs on a machine, over the shared connection.
//!
//! sshd allows ten sessions per connection (`MaxSessions`) by default. Each of ours has a seat, a
//! lock file; when those of one connection are taken, the next one takes a seat of another. A
//! hook that is killed leaves its seat.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use system::lock::{LockFile, Mode};
use system::pipe;
use system::poll::wait_readable;
use system::process::Child;

use super::link::Link;
use super::stream::{Patience, Stream};
use super::{Error, master};

/// Sessions per connection: fewer than sshd allows, for it may notice late that one has ended.
const SEATS: u32 = 8;
/// What is kept of standard error.
const MOST_SAID: usize = 8 << 10;
/// What ssh exits with when it is to blame itself.
const SSH_FAILED: i32 = 255;

/// A command that runs there.
pub(super) struct Session {
    machine: String,
    doing: String,
    child: Child,
    /// Its standard input, if it is a pipe and still open.
    pub input: Option<Stream>,
    /// Its standard output, until it is taken.
    pub output: Option<File>,
    said: Option<mpsc::Receiver<Vec<u8>>>,
    _seat: LockFile,
}

/// What a command has to say.
pub(super) struct Reply {
    /// Its exit status.
    pub code: i32,
    /// Its standard output.
    pub output: Vec<u8>,
    /// The end of its standard error.
    pub said: String,
}

impl Reply {
    /// The output, if the command succeeded.
    pub fn success(self, link: &Link, doing: &str) -> Result<Vec<u8>, Error> {
        match self.code {
            0 => Ok(self.output),
            code => Err(refusal(link.name(), doing, code, &self.said)),
        }
    }
}

/// A command there failed.
pub(super) fn refusal(machine: &str, doing: &str, code: i32, said: &str) -> Error {
    let machine = machine.to_owned();
    let doing = doing.to_owned();
    let message = match master::digest(said) {
        said if said.is_empty() => format!("exit code {code}"),
        said => said,
    };
    if super::error::is_exhaustion(said) {
        return Error::Exhausted {
            machine,
            doing,
            message,
        };
    }
    Error::Refused {
        machine,
        doing,
        message,
    }
}

impl Session {
    /// Starts a shell script there. What it is for (`doing`) follows "while" in messages.
    pub fn start(
        link: &Link,
        doing: &str,
        script: &str,
        with_input: bool,
        deadline: Instant,
    ) -> Result<Session, Error> {
        let local = |source| Error::Local {
            doing: doing.to_owned(),
            source,
        };
        let (number, seat) = take_seat(link).map_err(local)?;
        master::ensure(link, number, deadline)?;
        // The login shell may be any: it only has to understand this.
        let command = format!("exec sh -c {}", quote(script));
        let mut spawn = link.slave(number, &command);
        let mut input = None;
        if with_input {
            // A socket, for writing to a pipe can't be given up when nobody reads.
            let (ours, theirs) = pipe::socket_pair().map_err(local)?;
            spawn = spawn.fd(theirs, 0);
            input = Some(Stream::new(ours, Patience::until(deadline)));
        } else {
            spawn = spawn.fd(pipe::null().map_err(local)?, 0);
        }
        let (output, stdout) = pipe::pipe().map_err(local)?;
        let (errors, stderr) = pipe::pipe().map_err(local)?;
        let child = spawn.fd(stdout, 1).fd(stderr, 2).spawn().map_err(local)?;
        let (sender, said) = mpsc::sync_channel(1);
        std::thread::spawn(move || _ = sender.send(last_words(File::from(errors))));
        Ok(Session {
            machine: link.name().to_owned(),
            doing: doing.to_owned(),
            child,
            input,
            output: Some(File::from(output)),
            said: Some(said),
            _seat: seat,
        })
    }

    /// Reads some of its output, waiting no longer than until `deadline`.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        let Some(output) = &mut self.output else {
            return Ok(0);
        };
        read_some(output, buffer, deadline).map_err(|error| self.lost(&error))
    }

    /// Waits for its end, and tells its exit status and the end of its standard error.
    pub fn wait(mut self, deadline: Instant) -> Result<(i32, String), Error> {
        drop(self.input.take());
        drop(self.output.take());
        let left = deadline.saturating_duration_since(Instant::now());
        let status = match self.child.wait_timeout(left) {
            Ok(Some(status)) => status,
            Ok(None) => return Err(self.lost(&io::ErrorKind::TimedOut.into())),
            Err(error) => return Err(self.lost(&error)),
        };
        // Its master may hold the pipe for a moment longer.
        let said = self.said.take();
        let said = said.and_then(|said| said.recv_timeout(Duration::from_secs(2)).ok());
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
        match status.code() {
            Some(code) if code != SSH_FAILED => Ok((code, said)),
            _ => Err(Error::Lost {
                machine: self.machine.clone(),
                doing: self.doing.clone(),
                reason: match master::digest(&said) {
                    said if said.is_empty() => "ssh failed".to_owned(),
                    said => said,
                },
            }),
        }
    }

    /// The connection is of no use any more.
    pub fn lost(&self, error: &io::Error) -> Error {
        Error::Lost {
            machine: self.machine.clone(),
            doing: self.doing.clone(),
            reason: match error.kind() {
                io::ErrorKind::TimedOut => super::error::NO_ANSWER.to_owned(),
                _ => error.to_string(),
            },
        }
    }
}

/// Runs a script there that reads `input` and prints at most `most` bytes.
pub(super) fn run(
    link: &Link,
    doing: &str,
    script: &str,
    input: &[u8],
    most: u64,
    deadline: Instant,
) -> Result<Reply, Error> {
    let mut session = Session::start(link, doing, script, !input.is_empty(), deadline)?;
    let mut pipe = session.input.take();
    let mut output = Vec::new();
    // Both at once, or each side may wait for the other to read.
    let read = std::thread::scope(|scope| {
        scope.spawn(move || pipe.as_mut().map(|pipe| pipe.write_all(input)));
        let mut buffer = vec![0; 16 << 10];
        let read = loop {
            match session.read(&mut buffer, deadline) {
                Ok(0) => break Ok(()),
                Ok(count) => output.extend_from_slice(&buffer[..count]),
                Err(error) => break Err(error),
            }
            if output.len() as u64 > most {
                break Err(session.lost(&io::Error::other("it answers too much")));
            }
        };
        if read.is_err() {
            // Nobody reads what the other thread writes any more.
            let _ = session.child.kill_group();
        }
        read
    });
    read?;
    let (code, said) = session.wait(deadline)?;
    Ok(Reply { code, output, said })
}

/// Reads what there is; `TimedOut` if there is nothing by `deadline`.
pub(super) fn read_some(
    file: &mut File,
    buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<usize> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !wait_readable(&*file, Some(left))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A word that every shell takes as it is.
pub(super) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn take_seat(link: &Link) -> io::Result<(u32, LockFile)> {
    for number in 0..master::MASTERS {
        for seat in 0..SEATS {
            let lock = LockFile::open(link.master_file(number, &format!(".s{seat}")))?;
            if lock.try_lock(Mode::Exclusive)? {
                return Ok((number, lock));
            }
        }
    }
    Err(io::Error::other("too many commands run there already"))
}

/// Reads to the end, and keeps the end.
fn last_words(mut pipe: File) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(MOST_SAID);
        kept.drain(..surplus);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for word in ["plain", "it's", "$HOME `x` \"y\" \\", ""] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
