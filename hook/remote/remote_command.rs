//! A command that runs on a machine, over the shared connection.
//!
//! The first thing that it does is to print a line: what comes before is not its output but that of
//! the account's start-up files, or of a login shell that runs no commands.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bstr::ByteSlice;
use system::pipe;
use system::poll::read_before;
use system::process::Child;

use super::destination::Destination;
use super::error::{self, Error};
use super::master;
use super::session_slots::{self, SessionSlot};
use super::shell::quote;
use super::timed_stream::{TimedStream, Timeouts};

/// The first line of a command's output.
const READY: &str = "guix-offload-ready";
/// The most bytes that shells' start-up files may print before that line.
const GREETING_LIMIT: usize = 64 << 10;
/// What ssh prints when sshd allows no more sessions on a connection.
const SESSION_REFUSED: &str = "Session open refused by peer";
/// How long to wait before each retry of a session that is refused although we have no other on its
/// connection: sshd notices late that one has ended.
const REFUSAL_DELAYS: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(180),
    Duration::from_millis(500),
    Duration::from_millis(1500),
];
/// How many bytes of standard error are kept, from its end.
const STDERR_LIMIT: usize = 8 << 10;
/// ssh's own exit status on failure, as opposed to that of the command.
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
    /// Output that has been read already.
    pending: Vec<u8>,
    stderr: Option<mpsc::Receiver<Vec<u8>>>,
    _session_slot: SessionSlot,
}

/// Why a command did not start.
enum NotStarted {
    /// Sshd allows no more sessions on the connection.
    Refused,
    /// The connection is of no use: it has ended, or the account there runs no commands.
    Connection(Error),
    /// Something else.
    Other(Error),
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
    /// Starts a shell script there, and waits until it runs. `doing` says what it is for; it follows
    /// "while" in messages.
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
        let mut delays = REFUSAL_DELAYS.into_iter();
        let mut may_be_old = true;
        loop {
            let slot = session_slots::take(destination).map_err(local)?;
            let number = slot.connection;
            let is_new = master::ensure(destination, number, deadline)?;
            let mut command =
                RemoteCommand::spawn(destination, doing, script, with_input, slot, deadline)?;
            match command.wait_until_ready(deadline) {
                Ok(()) => return Ok(command),
                Err(_) if Instant::now() >= deadline => return Err(command.never_ready()),
                Err(NotStarted::Refused) => {
                    let slot = &command._session_slot;
                    if !session_slots::refused(destination, slot).map_err(local)? {
                        match delays.next() {
                            Some(delay) => std::thread::sleep(delay),
                            None => return Err(command.sessions_refused()),
                        }
                    }
                }
                // The next one logs in anew: the account may have been mended since.
                Err(NotStarted::Connection(error)) => {
                    master::give_up(destination, number);
                    if is_new || !may_be_old {
                        return Err(error);
                    }
                    may_be_old = false;
                }
                Err(NotStarted::Other(error)) => return Err(error),
            }
        }
    }

    fn spawn(
        destination: &Destination,
        doing: &str,
        script: &str,
        with_input: bool,
        session_slot: SessionSlot,
        deadline: Instant,
    ) -> Result<RemoteCommand, Error> {
        let local = |source| Error::Local {
            doing: doing.to_owned(),
            source,
        };
        // Every login shell understands this.
        let command = format!("exec sh -c {}", quote(&format!("echo {READY}; {script}")));
        let mut spawn = destination.command(session_slot.connection, &command);
        let mut stdin = None;
        if with_input {
            // A socket, because writing to a pipe that nobody reads can't time out.
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
            pending: Vec::new(),
            stderr: Some(stderr),
            _session_slot: session_slot,
        })
    }

    /// Reads up to the first line that is the script's.
    fn wait_until_ready(&mut self, deadline: Instant) -> Result<(), NotStarted> {
        let ready = format!("{READY}\n");
        let mut output: Vec<u8> = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            // A greeting need not end with a newline.
            if let Some(start) = output.find(&ready) {
                self.pending = output.split_off(start + ready.len());
                return Ok(());
            }
            if output.len() > GREETING_LIMIT {
                let error = io::Error::other("the account's start-up files print too much");
                return Err(NotStarted::Other(self.lost(&error)));
            }
            match self.read(&mut buffer, deadline) {
                Ok(0) => break,
                Ok(count) => output.extend_from_slice(&buffer[..count]),
                Err(error) => return Err(NotStarted::Other(error)),
            }
        }
        Err(match self.end(deadline) {
            Ok((_, stderr)) => NotStarted::Connection(Error::NoShell {
                machine: self.machine.clone(),
                said: master::summary(&(String::from_utf8_lossy(&output) + &*stderr)),
            }),
            Err((stderr, _)) if stderr.contains(SESSION_REFUSED) => NotStarted::Refused,
            Err((_, error)) => NotStarted::Connection(error),
        })
    }

    /// The error of a command that did not begin in time.
    fn never_ready(&self) -> Error {
        self.lost(&io::ErrorKind::TimedOut.into())
    }

    fn sessions_refused(&self) -> Error {
        Error::NoSession {
            machine: self.machine.clone(),
        }
    }

    /// Reads some of its output, waiting no longer than until `deadline`.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        if !self.pending.is_empty() {
            let count = self.pending.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.pending[..count]);
            self.pending.drain(..count);
            return Ok(count);
        }
        let Some(stdout) = &mut self.stdout else {
            return Ok(0);
        };
        read_before(stdout, buffer, deadline).map_err(|error| self.lost(&error))
    }

    /// Waits for it to end. Returns its exit status and the end of its standard error.
    pub fn wait(mut self, deadline: Instant) -> Result<(i32, String), Error> {
        self.end(deadline).map_err(|(_, error)| error)
    }

    /// The same; with an error comes what ssh printed.
    fn end(&mut self, deadline: Instant) -> Result<(i32, String), (String, Error)> {
        drop(self.stdin.take());
        drop(self.stdout.take());
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.child.wait_timeout(left);
        let lost = |error| (String::new(), self.lost(&error));
        let status = match waited {
            Ok(Some(status)) => status,
            Ok(None) => return Err(lost(io::ErrorKind::TimedOut.into())),
            Err(error) => return Err(lost(error)),
        };
        // The master may keep the pipe open a moment longer.
        let stderr = self.stderr.take();
        let stderr = stderr.and_then(|stderr| stderr.recv_timeout(Duration::from_secs(2)).ok());
        let stderr = String::from_utf8_lossy(&stderr.unwrap_or_default()).into_owned();
        match status.code() {
            Some(code) if code != SSH_FAILED => Ok((code, stderr)),
            _ => {
                let error = Error::Lost {
                    machine: self.machine.clone(),
                    doing: self.doing.clone(),
                    reason: match master::summary(&stderr) {
                        summary if summary.is_empty() => "ssh failed".to_owned(),
                        summary => summary,
                    },
                };
                Err((stderr, error))
            }
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

/// Runs a script on the machine that reads `input` and prints at most `most` bytes.
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
    // Reads and writes concurrently; otherwise each side could wait for the other to read.
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
