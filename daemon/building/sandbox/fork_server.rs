//! The daemon's side of the fork server: a single-threaded process that forks the processes that
//! become builders.
//!
//! The daemon is multithreaded, so it can't safely fork without executing a program, and executing
//! itself anew for each build would take longer than setting up the sandbox. So it does that once:
//! the process started with the name [`NAME`] waits for [requests](super::fork_request), and
//! replies to each with the id of the process that it has forked, which is a child of the daemon.
//! If the fork server has died, which should not happen, the next request starts another.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use system::process::{Child, Spawn};
use system::sync::Mutex;
use system::{pipe, socket};

use super::fork_request::{ForkRequest, Ipc, Isolation, NAME};

/// How many times a process is forked to kill those of a user.
const KILL_ATTEMPTS: usize = 16;
/// The timeout of the first attempt. The timeout doubles with each attempt (exponential backoff),
/// up to [`MAX_KILL_TIMEOUT`].
const FIRST_KILL_TIMEOUT: Duration = Duration::from_millis(100);
/// The maximum timeout of an attempt.
const MAX_KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a program from a thread that lives as long as the daemon.
type Start = dyn Fn(Spawn) -> io::Result<Child> + Send + Sync;

/// The daemon's side. The process is started for the first request.
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
    /// `start` starts a program from a thread that lives as long as the daemon, since builders are
    /// killed when that thread ends.
    pub fn new(start: impl Fn(Spawn) -> io::Result<Child> + Send + Sync + 'static) -> ForkServer {
        ForkServer {
            start: Box::new(start),
            connection: Mutex::default(),
        }
    }

    /// Forks a process that reads a plan and becomes the builder; it then leads its own process
    /// group.
    pub(super) fn builder(
        &self,
        isolation: Isolation,
        log: &OwnedFd,
        plan: &OwnedFd,
        status: &OwnedFd,
    ) -> io::Result<Child> {
        let pid = self.fork(ForkRequest::Builder(isolation), &[log, plan, status])?;
        Child::new(pid, true)
    }

    /// Forks a process that reads a plan and becomes the helper; it then leads its own process group.
    pub(super) fn helper(
        &self,
        isolation: Isolation,
        descriptors: &[&OwnedFd],
    ) -> io::Result<Child> {
        let pid = self.fork(ForkRequest::Helper(isolation), descriptors)?;
        Child::new(pid, true)
    }

    /// Kills all processes of a user, removes what would outlive them, and waits for that. Refuses
    /// user 0.
    ///
    /// A process of that user is forked to kill the others. If they kill or stop it first, another
    /// is forked.
    pub fn kill_user(&self, uid: u32, ipc: Ipc) -> io::Result<()> {
        let mut timeout = FIRST_KILL_TIMEOUT;
        for _ in 0..KILL_ATTEMPTS {
            let pid = retry_if_ended(|| self.fork(ForkRequest::KillUser(uid, ipc), &[]))?;
            let ended = Child::new(pid, false)?.wait_timeout(timeout)?;
            timeout = MAX_KILL_TIMEOUT.min(timeout * 2);
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

    fn fork(&self, request: ForkRequest, descriptors: &[&OwnedFd]) -> io::Result<i32> {
        let mut slot = self.connection.lock();
        // The process may have died since the last request.
        let running = slot
            .take()
            .filter(|it| it.send(request, descriptors).is_ok());
        let mut connection = match running {
            Some(connection) => connection,
            None => {
                let connection = Connection::open(&*self.start)?;
                connection.send(request, descriptors)?;
                connection
            }
        };
        // After an error, the state of the connection is unknown, so it is dropped.
        let reply = connection.receive()?;
        *slot = Some(connection);
        match reply {
            pid if pid > 0 => Ok(pid),
            number => Err(io::Error::from_raw_os_error(-number)),
        }
    }
}

/// Retries once, with a new fork server, if the fork server has ended meanwhile.
pub(super) fn retry_if_ended<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => attempt(),
        result => result,
    }
}

/// The error on which [`retry_if_ended`] retries.
fn ended() -> io::Error {
    let text = format!("the process `{NAME}' has ended");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

/// A running fork server.
struct Connection {
    stream: UnixStream,
    _process: Child,
}

impl Connection {
    fn open(start: &Start) -> io::Result<Connection> {
        let (stream, child_stream) = pipe::socket_pair()?;
        let process = start(
            Spawn::new(Path::new("/proc/self/exe"))
                .arg0(NAME)
                .fd(child_stream, 0)
                .fd(pipe::null()?, 1)
                .setsid(),
        )?;
        Ok(Connection {
            stream,
            _process: process,
        })
    }

    fn send(&self, request: ForkRequest, descriptors: &[&OwnedFd]) -> io::Result<()> {
        let numbers: Vec<i32> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
        let sent = socket::send_with_fds(&self.stream, &request.encode(), &numbers);
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => ended(),
            _ => error,
        })
    }

    fn receive(&mut self) -> io::Result<i32> {
        let mut reply = [0; 4];
        self.stream.read_exact(&mut reply).map_err(|_| ended())?;
        Ok(i32::from_ne_bytes(reply))
    }
}
