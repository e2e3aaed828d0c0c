//! The fork server: a process with one thread that forks those that become builders.
//!
//! The daemon has many threads, so it can't fork and go on; and to execute itself anew for each
//! build takes longer than to set up the sandbox. So it does that once: the process started under
//! the name [`NAME`] waits for orders, and answers each with the process that it forked, a child
//! of the daemon as if the daemon had forked it ([`namespace::fork_sibling`]).
//!
//! An order is five bytes, and for a builder three descriptors: its log, and where it reads its
//! plan and reports. The answer is four bytes: a process id, or an error's number, negative. The
//! fork server never waits for what it forked, so that no builder can hold up others. It ends when
//! the daemon's end of the connection is closed; when it has ended itself, the daemon starts
//! another with the next order.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::exit;
use std::sync::{Mutex, PoisonError};

use nix::sys::prctl::set_name;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use system::namespace::{self, Namespaces};
use system::process::{Child, Spawn, kill_user_from_here};
use system::{ids, pipe, socket};

use super::inside;

/// The name under which the daemon executes itself.
const NAME: &str = "guix-daemon-forkserver";
/// What is wanted of a new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// To become a builder.
    Builder(Isolation),
    /// To kill all processes of that user.
    KillUser(u32),
}

/// What a builder has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Nothing: it shares the daemon's namespaces.
    None,
    /// Mounts, processes, network, System V communication, host name.
    Namespaces,
    /// And users.
    UserNamespace,
}

impl Isolation {
    fn flags(self) -> Namespaces {
        let namespaces = Namespaces::CLONE_NEWNS
            | Namespaces::CLONE_NEWPID
            | Namespaces::CLONE_NEWNET
            | Namespaces::CLONE_NEWIPC
            | Namespaces::CLONE_NEWUTS;
        match self {
            Isolation::None => Namespaces::empty(),
            Isolation::Namespaces => namespaces,
            Isolation::UserNamespace => namespaces | Namespaces::CLONE_NEWUSER,
        }
    }
}

impl Order {
    fn encode(self) -> [u8; 5] {
        let (kind, [a, b, c, d]) = match self {
            Order::Builder(Isolation::None) => (0, [0; 4]),
            Order::Builder(Isolation::Namespaces) => (1, [0; 4]),
            Order::Builder(Isolation::UserNamespace) => (2, [0; 4]),
            Order::KillUser(uid) => (3, uid.to_ne_bytes()),
        };
        [kind, a, b, c, d]
    }

    fn decode([kind, uid @ ..]: [u8; 5]) -> Option<Order> {
        Some(match kind {
            0 => Order::Builder(Isolation::None),
            1 => Order::Builder(Isolation::Namespaces),
            2 => Order::Builder(Isolation::UserNamespace),
            3 => Order::KillUser(u32::from_ne_bytes(uid)),
            _ => return None,
        })
    }

    /// The namespaces of the new process.
    fn namespaces(self) -> Namespaces {
        match self {
            Order::Builder(isolation) => isolation.flags(),
            Order::KillUser(_) => Namespaces::empty(),
        }
    }
}

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

    /// Kills all processes of a user, and waits for that. Refuses user 0.
    pub fn kill_user(&self, uid: u32) -> io::Result<()> {
        let pid = unless_ended(|| self.fork(Order::KillUser(uid), &[]))?;
        match Child::new(pid, false)?.wait()?.code() {
            Some(0) => Ok(()),
            Some(number) => Err(io::Error::from_raw_os_error(number)),
            // A new process of that user may have killed it first.
            None => Ok(()),
        }
    }

    fn fork(&self, order: Order, descriptors: &[&OwnedFd]) -> io::Result<i32> {
        let mut slot = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let connection = match slot.take() {
            Some(mut connection) => match connection.send(order, descriptors) {
                Ok(()) => Some(connection),
                Err(_) => None, // it has ended since
            },
            None => None,
        };
        let mut connection = match connection {
            Some(connection) => connection,
            None => {
                let mut connection = Connection::open(&*self.start)?;
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

    fn send(&mut self, order: Order, descriptors: &[&OwnedFd]) -> io::Result<()> {
        let numbers: Vec<i32> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
        socket::send_with_fds(&self.stream, &order.encode(), &numbers)
    }

    fn receive(&mut self) -> io::Result<i32> {
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer).map_err(|_| {
            let text = format!("the process `{NAME}' has ended");
            io::Error::new(io::ErrorKind::UnexpectedEof, text)
        })?;
        Ok(i32::from_ne_bytes(answer))
    }
}

/// If this process was started to be the fork server, is it and never returns. To be called first
/// of all in `main`, before there are other threads.
pub fn run_if_fork_server() {
    if std::env::args_os().next().is_none_or(|name| name != NAME) {
        return;
    }
    // Else it has the name of `/proc/self/exe'.
    let _ = set_name(c"guix-forkserver");
    match take_orders().and_then(serve) {
        Ok(()) => exit(0),
        // Started by hand, it has no socket.
        Err(error) => {
            eprintln!("{NAME}: {error} (to be started by guix-daemon only)");
            exit(1)
        }
    }
}

/// The connection to the daemon, which was standard input until now.
fn take_orders() -> io::Result<UnixStream> {
    let orders = pipe::inherited(0)?.ok_or(io::ErrorKind::NotConnected)?;
    dup2_stdin(pipe::null()?)?;
    Ok(orders.into())
}

/// Until the daemon closes the connection.
fn serve(orders: UnixStream) -> io::Result<()> {
    // As they are outside of the namespaces of builders.
    let ids = (ids::effective_uid(), ids::effective_gid());
    loop {
        let mut order = [0; 5];
        let (count, descriptors) = socket::receive_with_fds(&orders, &mut order)?;
        if count == 0 {
            return Ok(());
        }
        let order = Order::decode(order).filter(|_| count == order.len());
        let order = order.ok_or_else(|| io::Error::other("an order that means nothing"))?;
        let answer = match namespace::fork_sibling(order.namespaces()) {
            Ok(None) => {
                drop(orders);
                obey(order, descriptors, ids)
            }
            Ok(Some(pid)) => pid,
            Err(error) => -error.raw_os_error().unwrap_or(nix::libc::EIO),
        };
        (&orders).write_all(&answer.to_ne_bytes())?;
    }
}

/// In the new process.
fn obey(order: Order, descriptors: Vec<OwnedFd>, ids_outside: (u32, u32)) -> ! {
    match (order, <[OwnedFd; 3]>::try_from(descriptors)) {
        (Order::KillUser(uid), _) => exit(match kill_user_from_here(uid) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(nix::libc::EIO),
        }),
        (Order::Builder(isolation), Ok([log, plan, status])) => {
            // Until it is executed.
            let _ = set_name(c"guix-builder");
            if dup2_stdout(&log).and(dup2_stderr(&log)).is_err() {
                exit(1);
            }
            drop(log);
            let user_namespace = isolation == Isolation::UserNamespace;
            inside::run(
                user_namespace.then_some(ids_outside),
                plan.into(),
                status.into(),
            )
        }
        (Order::Builder(_), Err(_)) => exit(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_journey() {
        for order in [
            Order::Builder(Isolation::None),
            Order::Builder(Isolation::Namespaces),
            Order::Builder(Isolation::UserNamespace),
            Order::KillUser(30001),
        ] {
            assert_eq!(Order::decode(order.encode()), Some(order));
        }
        assert_eq!(Order::decode([4, 0, 0, 0, 0]), None);
    }
}
