//! The thread that starts the program, and talks to it.
//!
//! It never waits for the program alone: it polls the socket and what exchanges ask for. A program
//! that doesn't take what it is sent, or doesn't greet, is killed after a minute; one that says what
//! it must not say is killed at once.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use system::poll::{PollFd, PollFlags, poll};
use system::process::Child;
use system::wakeup::Wakeup;

use super::dispatch::Shared;
use super::error::{ErrorKind, NetworkError};
use super::frames::Frames;
use super::message::{Reply, Request, VERSION};

/// Starts the program, with this socket as its descriptor 0.
pub(super) type Launch = Box<dyn Fn(UnixStream) -> io::Result<Child> + Send + Sync>;

/// How long the program may do nothing where it should.
const PATIENCE: Duration = Duration::from_secs(60);
/// A program that lived for so long may be started again at once.
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// The pause before the second start of a program that dies soon; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How many bytes of requests are prepared before the program takes them.
const PREPARED: usize = 64 << 10;

/// Starts the thread, which ends when nobody else has `shared` any more; `wake` is readable then, and
/// when there is a request.
pub(super) fn start(
    launch: Arc<Launch>,
    shared: Weak<Shared>,
    wake: Arc<Wakeup>,
) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("network".to_owned());
    thread.spawn(move || {
        let mut talk = Talk {
            launch,
            program: None,
            quick_deaths: 0,
            not_before: Instant::now(),
        };
        loop {
            wake.clear();
            match shared.upgrade() {
                Some(shared) => talk.step(&shared),
                None => break,
            }
            talk.wait(&wake, &shared);
        }
    })?;
    Ok(())
}

struct Talk {
    launch: Arc<Launch>,
    program: Option<Running>,
    /// How often the program died soon after its start, without a good life in between.
    quick_deaths: u32,
    /// When the program may be started again.
    not_before: Instant,
}

impl Talk {
    /// Everything that can be done without waiting.
    fn step(&mut self, shared: &Shared) {
        if shared.is_idle() && self.program.as_ref().is_some_and(Running::is_outdated) {
            self.program = None;
        }
        let is_wanted = shared.take_early_start() || shared.has_unsent();
        if self.program.is_none() && is_wanted && Instant::now() >= self.not_before {
            match self.launch() {
                Ok(program) => self.program = Some(program),
                Err(error) => {
                    let text = format!("cannot start the network program: {error}");
                    shared.fail_all(&NetworkError::new(ErrorKind::ProgramMissing, text));
                }
            }
        }
        let Some(program) = &mut self.program else {
            return;
        };
        if let Err(error) = program.talk(shared) {
            let (lived, has_greeted) = (program.since.elapsed(), program.has_greeted);
            self.program = None; // killed, if it isn't dead
            match has_greeted {
                true => shared.fail_sent(&error),
                // It can't do its work here; another one couldn't either.
                false => shared.fail_all(&error),
            }
            self.quick_deaths = match lived {
                lived if lived >= GOOD_LIFE => 0,
                _ => self.quick_deaths + 1,
            };
            let pause = match self.quick_deaths {
                0 => Duration::ZERO,
                deaths => FIRST_PAUSE.saturating_mul(1 << deaths.min(10)),
            };
            self.not_before = Instant::now() + pause.min(LONGEST_PAUSE);
        }
    }

    fn launch(&self) -> io::Result<Running> {
        let (ours, theirs) = system::pipe::socket_pair()?;
        system::pipe::set_nonblocking(&ours, true)?;
        Ok(Running::new((self.launch)(theirs)?, ours))
    }

    /// Waits until something can be done.
    fn wait(&self, wake: &Wakeup, shared: &Weak<Shared>) {
        let mut fds = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        let mut until = None;
        if let Some(program) = &self.program {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, !program.outgoing.is_empty());
            fds.push(PollFd::new(program.socket.as_fd(), events));
            until = program.deadline();
        } else if shared.upgrade().is_some_and(|shared| shared.has_unsent()) {
            until = Some(self.not_before);
        }
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        if poll(&mut fds, timeout).is_err() {
            // The kernel is out of memory, or so; don't spin.
            std::thread::sleep(FIRST_PAUSE);
        }
    }
}

/// Device and number of a file.
type FileId = (u64, u64);

/// Which file says how names are resolved.
fn resolver() -> Option<FileId> {
    let file = std::fs::metadata("/etc/resolv.conf").ok()?;
    Some((file.dev(), file.ino()))
}

/// Bytes to send, and the files that go with the first of them.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    files: Vec<OwnedFd>,
}

/// A program that was started.
struct Running {
    child: Child,
    socket: UnixStream,
    since: Instant,
    /// How names are resolved, as it was when the program was started.
    resolver: Option<FileId>,
    /// Whether its first message has come.
    has_greeted: bool,
    incoming: Frames,
    outgoing: VecDeque<Chunk>,
    /// When it took something last, or had nothing to take.
    took: Instant,
}

impl Running {
    fn new(child: Child, socket: UnixStream) -> Running {
        let mut hello = Chunk::default();
        Request::Hello { version: VERSION }.append_to(&mut hello.bytes);
        Running {
            child,
            socket,
            since: Instant::now(),
            resolver: resolver(),
            has_greeted: false,
            incoming: Frames::default(),
            outgoing: VecDeque::from([hello]),
            took: Instant::now(),
        }
    }

    /// Whether it can't know any more how names are resolved: it may be allowed to read only the file
    /// that was there when it was started.
    fn is_outdated(&self) -> bool {
        self.resolver != resolver()
    }

    /// When it will have done nothing for too long.
    fn deadline(&self) -> Option<Instant> {
        let greeting = (!self.has_greeted).then_some(self.since + PATIENCE);
        let taking = (!self.outgoing.is_empty()).then_some(self.took + PATIENCE);
        greeting.into_iter().chain(taking).min()
    }

    /// Receives and sends what can be received and sent now. An error means that the program is of no
    /// use any more.
    fn talk(&mut self, shared: &Shared) -> Result<(), NetworkError> {
        self.receive(shared)?;
        loop {
            self.prepare(shared);
            if !self.send().map_err(|error| self.lost(&error))? || self.outgoing.is_empty() {
                break;
            }
        }
        match self.deadline() {
            Some(deadline) if Instant::now() >= deadline => {
                Err(died("the network program doesn't respond"))
            }
            _ => Ok(()),
        }
    }

    fn receive(&mut self, shared: &Shared) -> Result<(), NetworkError> {
        let mut buffer = [0; 64 << 10];
        // Not for ever: what is to be sent must not wait for a program that talks without end.
        for _ in 0..16 {
            // Files that came along would be closed by the kernel.
            let count = match (&self.socket).read(&mut buffer) {
                Ok(0) => return Err(self.ended()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.lost(&error)),
            };
            self.incoming.add(&buffer[..count]);
            let nonsense =
                |error: &dyn std::fmt::Display| died(&format!("the network program: {error}"));
            while let Some(message) = self.incoming.take().map_err(|error| nonsense(&error))? {
                match Reply::decode(message).map_err(|error| nonsense(&error))? {
                    Reply::Hello { version: VERSION } if !self.has_greeted => {
                        self.has_greeted = true;
                    }
                    Reply::Event { id, event } if self.has_greeted => shared.receive(id, event)?,
                    Reply::Hello { version } => {
                        return Err(died(&format!(
                            "the network program has version {version} of the protocol, \
                             not {VERSION}"
                        )));
                    }
                    Reply::Event { .. } => {
                        return Err(died("the network program doesn't greet"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes requests from exchanges, as far as the program will soon take them.
    fn prepare(&mut self, shared: &Shared) {
        let mut prepared: usize = self.outgoing.iter().map(|chunk| chunk.bytes.len()).sum();
        if self.outgoing.is_empty() {
            self.took = Instant::now();
        }
        while prepared < PREPARED {
            let Some(next) = shared.next_to_send() else {
                break;
            };
            let needs_own = !next.files.is_empty()
                || (self.outgoing.back()).is_none_or(|chunk| !chunk.files.is_empty());
            if needs_own {
                self.outgoing.push_back(Chunk {
                    files: next.files,
                    ..Chunk::default()
                });
            }
            if let Some(chunk) = self.outgoing.back_mut() {
                let before = chunk.bytes.len();
                next.request.append_to(&mut chunk.bytes);
                prepared += chunk.bytes.len() - before;
            }
        }
    }

    /// Sends what can be sent; returns whether that was everything.
    fn send(&mut self) -> io::Result<bool> {
        while let Some(chunk) = self.outgoing.front_mut() {
            let files: Vec<RawFd> = chunk.files.iter().map(AsRawFd::as_raw_fd).collect();
            match system::socket::send_some(&self.socket, &chunk.bytes[chunk.sent..], &files) {
                Ok(count) => {
                    self.took = Instant::now();
                    chunk.files.clear();
                    chunk.sent += count;
                    if chunk.sent == chunk.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn ended(&mut self) -> NetworkError {
        match self.child.wait_timeout(Duration::from_secs(1)) {
            Ok(Some(status)) => died(&format!("the network program has ended ({status})")),
            _ => died("the network program has hung up"),
        }
    }

    fn lost(&mut self, error: &io::Error) -> NetworkError {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.ended(),
            _ => died(&format!("cannot talk to the network program: {error}")),
        }
    }
}

fn died(text: &str) -> NetworkError {
    NetworkError::new(ErrorKind::ProgramDied, text)
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
