//! A command that runs on a machine, over the shared connection.
//!
//! sshd allows ten sessions per connection by default (`MaxSessions`). Each of ours holds a session
//! slot, which is a lock file; when all slots of one connection are taken, the next command takes
//! one of another connection. The kernel frees the slot of a hook that is killed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use system::lock::{LockFile, Mode};
use system::pipe;
use system::poll::wait_readable;
use system::process::Child;

use super::destination::Destination;
use super::error::{self, Error};
use super::master;
use super::shell::quote;
use super::timed_stream::{TimedStream, Timeouts};

/// Sessions per connection: fewer than sshd allows, because it may notice late that one has ended.
const SESSION_SLOTS: u32 = 8;
/// How many bytes are kept of standard error: the last ones.
const STDERR_LIMIT: usize = 8 << 10;
/// ssh's own exit status when it fails, as opposed to that of the command.
const SSH_FAILED: i32 = 255;

/// A command that runs on a machine.
pub(super) struct RemoteCommand {
    machine: String,
    doing: String,
    child: Child,
    /// Its standard input, if it is a pipe and still open.
    pub stdin: Option<TimedStream>,
    /// Its standard output, until it is taken.
    pub stdout: Option<File>,
    stderr: Option<mpsc::Receiver<Vec<u8>>>,
    _session_slot: LockFile,
}

/// The output of a command that has ended.
pub(super) struct CommandOutput {
    /// Its exit status.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// The standard output, if the command succeeded.
    pub fn if_successful(self, destination: &Destination, doing: &str) -> Result<Vec<u8>, Error> {
        match self.code {
            0 => Ok(self.stdout),
            code => Err(failure(destination.name(), doing, code, &self.stderr)),
        }
    }
}

/// The error of a command that ended with exit status `code`.
pub(super) fn failure(machine: &str, doing: &str, code: i32, stderr: &str) -> Error {
    let machine = machine.to_owned();
    let doing = doing.to_owned();
    let message = match master::summary(stderr) {
        summary if summary.is_empty() => format!("exit code {code}"),
        summary => summary,
    };
    if error::is_exhaustion(stderr) {
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

impl RemoteCommand {
    /// Starts a shell script there. `doing` says what it is for; it follows "while" in messages.
    pub fn start(
        destination: &Destination,
        doing: &str,
        script: &str,
        with_input: bool,
        deadline: Instant,
    ) -> Result<RemoteCommand, Error> {
        let local = |source| Error::Local {
            doing: doing.to_owned(),
            source,
        };
        let (number, session_slot) = take_session_slot(destination).map_err(local)?;
        master::ensure(destination, number, deadline)?;
        // Any login shell understands this much.
        let command = format!("exec sh -c {}", quote(script));
        let mut spawn = destination.command(number, &command);
        let mut stdin = None;
        if with_input {
            // A socket, because a write to a pipe that nobody reads cannot time out.
            let (ours, theirs) = pipe::socket_pair().map_err(local)?;
            spawn = spawn.fd(theirs, 0);
            stdin = Some(TimedStream::new(ours, Timeouts::until(deadline)));
        } else {
            spawn = spawn.fd(pipe::null().map_err(local)?, 0);
        }
        let (stdout, its_stdout) = pipe::pipe().map_err(local)?;
        let (errors, its_stderr) = pipe::pipe().map_err(local)?;
        let child = spawn
            .fd(its_stdout, 1)
            .fd(its_stderr, 2)
            .spawn()
            .map_err(local)?;
        let (sender, stderr) = mpsc::sync_channel(1);
        std::thread::spawn(move || _ = sender.send(read_tail(File::from(errors))));
        Ok(RemoteCommand {
            machine: destination.name().to_owned(),
            doing: doing.to_owned(),
            child,
            stdin,
            stdout: Some(File::from(stdout)),
            stderr: Some(stderr),
            _session_slot: session_slot,
        })
    }

    /// Reads some of its output, waiting no longer than until `deadline`.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        let Some(stdout) = &mut self.stdout else {
            return Ok(0);
        };
        read_some(stdout, buffer, deadline).map_err(|error| self.lost(&error))
    }

    /// Waits for its end. Returns its exit status and the end of its standard error.
    pub fn wait(mut self, deadline: Instant) -> Result<(i32, String), Error> {
        drop(self.stdin.take());
        drop(self.stdout.take());
        let left = deadline.saturating_duration_since(Instant::now());
        let status = match self.child.wait_timeout(left) {
            Ok(Some(status)) => status,
            Ok(None) => return Err(self.lost(&io::ErrorKind::TimedOut.into())),
            Err(error) => return Err(self.lost(&error)),
        };
        // The master may keep the pipe open for a moment longer.
        let stderr = self.stderr.take();
        let stderr = stderr.and_then(|stderr| stderr.recv_timeout(Duration::from_secs(2)).ok());
        let stderr = String::from_utf8_lossy(&stderr.unwrap_or_default()).into_owned();
        match status.code() {
            Some(code) if code != SSH_FAILED => Ok((code, stderr)),
            _ => Err(Error::Lost {
                machine: self.machine.clone(),
                doing: self.doing.clone(),
                reason: match master::summary(&stderr) {
                    summary if summary.is_empty() => "ssh failed".to_owned(),
                    summary => summary,
                },
            }),
        }
    }

    /// The error of a command whose connection is lost.
    pub fn lost(&self, error: &io::Error) -> Error {
        Error::Lost {
            machine: self.machine.clone(),
            doing: self.doing.clone(),
            reason: match error.kind() {
                io::ErrorKind::TimedOut => error::NO_ANSWER.to_owned(),
                _ => error.to_string(),
            },
        }
    }
}

/// Runs a script there that reads `input` and prints at most `most` bytes.
pub(super) fn run(
    destination: &Destination,
    doing: &str,
    script: &str,
    input: &[u8],
    most: u64,
    deadline: Instant,
) -> Result<CommandOutput, Error> {
    let mut remote_command =
        RemoteCommand::start(destination, doing, script, !input.is_empty(), deadline)?;
    let mut stdin = remote_command.stdin.take();
    let mut stdout = Vec::new();
    // Reads and writes at the same time, or each side may wait for the other to read.
    let read = std::thread::scope(|scope| {
        scope.spawn(move || stdin.as_mut().map(|stdin| stdin.write_all(input)));
        let mut buffer = vec![0; 16 << 10];
        let read = loop {
            match remote_command.read(&mut buffer, deadline) {
                Ok(0) => break Ok(()),
                Ok(count) => stdout.extend_from_slice(&buffer[..count]),
                Err(error) => break Err(error),
            }
            if stdout.len() as u64 > most {
                break Err(remote_command.lost(&io::Error::other("its output is too long")));
            }
        };
        if read.is_err() {
            // Ends the other thread's write, which nobody reads any more.
            let _ = remote_command.child.kill_group();
        }
        read
    });
    read?;
    let (code, stderr) = remote_command.wait(deadline)?;
    Ok(CommandOutput {
        code,
        stdout,
        stderr,
    })
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

/// Takes a free session slot. Returns the number of its connection, and its lock.
fn take_session_slot(destination: &Destination) -> io::Result<(u32, LockFile)> {
    for number in 0..master::MASTERS {
        for slot in 0..SESSION_SLOTS {
            let lock = LockFile::open(destination.master_file(number, &format!(".s{slot}")))?;
            if lock.try_lock(Mode::Exclusive)? {
                return Ok((number, lock));
            }
        }
    }
    Err(io::Error::other("too many commands run there already"))
}

/// Reads to the end, and returns the last bytes.
fn read_tail(mut pipe: File) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(STDERR_LIMIT);
        kept.drain(..surplus);
    }
    kept
}
