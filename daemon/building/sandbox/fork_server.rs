//! The daemon's side of the fork server: a process with one thread that forks those that become
//! builders.
//!
//! The daemon has many threads, so it can't fork and go on; and to execute itself anew for each
//! build takes longer than to set up the sandbox. So it does that once: the process started under
//! the name [`NAME`] waits for [orders](super::orders), and answers each with the process that it
//! forked, a child of the daemon as if the daemon had forked it. When it has ended, which it should
//! not, the daemon starts another with the next order.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use system::process::{Child, Spawn};
use system::sync::Mutex;
use system::{pipe, socket};

use super::orders::{Isolation, NAME, Order};

/// How many processes try to kill those of a user, one after the other.
const KILLERS: usize = 16;
/// How long the first may take; each of the others twice as long, but not longer than the last.
const PATIENCE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Starts a program from a thread that lives as long as the daemon.
type Start = dyn Fn(Spawn) -> io::Result<Child> + Send + Sync;

/// The daemon's side. The process is started with the first order.
pub struct ForkServer {
    start: Box<Start>,
    connection: Mutex<Option<Connection>>,
}

impl fmt::Debug for ForkServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkServer").finish_non_exhaustive()
    }
}

impl ForkServer {
    /// `start` starts a program from a thread that lives as long as the daemon, since builders
    /// die with that thread.
    pub fn new(start: impl Fn(Spawn) -> io::Result<Child> + Send + Sync + 'static) -> ForkServer {
        ForkServer {
            start: Box::new(start),
            connection: Mutex::default(),
        }
    }

    /// Forks a process that reads a plan and becomes the builder; it leads its own process group
    /// then.
    pub(super) fn builder(
        &self,
        isolation: Isolation,
        log: &OwnedFd,
        plan: &OwnedFd,
        status: &OwnedFd,
    ) -> io::Result<Child> {
        let pid = self.fork(Order::Builder(isolation), &[log, plan, status])?;
        Child::new(pid, true)
    }

    /// Kills all processes of a user, removes what would outlive them, and waits for that. Refuses user
    /// 0.
    ///
    /// What becomes the user to kill them can be killed or stopped by them first; then it is
    /// another's turn.
    pub fn kill_user(&self, uid: u32) -> io::Result<()> {
        let [mut patience, longest] = PATIENCE;
        for _ in 0..KILLERS {
            let pid = unless_ended(|| self.fork(Order::KillUser(uid), &[]))?;
            let ended = Child::new(pid, false)?.wait_timeout(patience)?;
            patience = longest.min(patience * 2);
            match ended.and_then(|status| status.code()) {
                Some(0) => return Ok(()),
                Some(number) => return Err(io::Error::from_raw_os_error(number)),
                None => {}
            }
        }
        Err(io::Error::other(format!(
            "processes of user {uid} kill or stop whatever is to kill them"
        )))
    }

    fn fork(&self, order: Order, descriptors: &[&OwnedFd]) -> io::Result<i32> {
        let mut slot = self.connection.lock();
        // It may have ended since the last order.
        let running = slot.take().filter(|it| it.send(order, descriptors).is_ok());
        let mut connection = match running {
            Some(connection) => connection,
            None => {
                let connection = Connection::open(&*self.start)?;
                connection.send(order, descriptors)?;
                connection
            }
        };
        // After an error, what it did with this order is not known.
        let answer = connection.receive()?;
        *slot = Some(connection);
        match answer {
            pid if pid > 0 => Ok(pid),
            number => Err(io::Error::from_raw_os_error(-number)),
        }
    }
}

/// Makes an attempt, and another one if the fork server ended meanwhile.
pub(super) fn unless_ended<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => attempt(),
        result => result,
    }
}

/// The error that [`unless_ended`] knows.
fn ended() -> io::Error {
    let text = format!("the process `{NAME}' has ended");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

/// A fork server that runs.
struct Connection {
    stream: UnixStream,
    _process: Child,
}

impl Connection {
    fn open(start: &Start) -> io::Result<Connection> {
        let (stream, its_stream) = pipe::socket_pair()?;
        let process = start(
            Spawn::new(Path::new("/proc/self/exe"))
                .arg0(NAME)
                .fd(its_stream, 0)
                .fd(pipe::null()?, 1)
                .setsid(),
        )?;
        Ok(Connection {
            stream,
            _process: process,
        })
    }

    fn send(&self, order: Order, descriptors: &[&OwnedFd]) -> io::Result<()> {
        let numbers: Vec<i32> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
        let sent = socket::send_with_fds(&self.stream, &order.encode(), &numbers);
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => ended(),
            _ => error,
        })
    }

    fn receive(&mut self) -> io::Result<i32> {
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer).map_err(|_| ended())?;
        Ok(i32::from_ne_bytes(answer))
    }
}
