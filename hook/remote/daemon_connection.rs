//! A connection to a machine's daemon: over its socket, which sshd forwards, or through the keeper of a
//! pool's slot.
//!
//! While a connection to the machine is open, this needs neither an SSH handshake nor a process: it
//! connects to the local end of the socket.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use formats::{Hash, StorePath};
use protocol::client::{self, Connection, ONE_PIECE, Options, Streams};
use protocol::operations::QueryPathHash;
use system::socket;

use crate::pool;

use super::destination::Destination;
use super::error::{Error, on_one_line, shortened};
use super::master;
use super::route::{Route, no_job};
use super::timed_stream::{TimedStream, Timeouts};

/// The timeout for a handshake over an existing connection, after which a new one is tried.
const REUSED_CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The delays before retries. (Guix's daemon has a backlog of five connections.)
const RETRY_DELAYS: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(180),
    Duration::from_millis(500),
];
const DOING: &str = "connecting to its build daemon";
/// How long the daemon may be silent before it replies to a simple query or adds roots, which it
/// delays while it collects garbage.
const ANSWER_IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take until the reply is complete.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(900);
/// The maximum size of a reply, with the messages before it, in bytes.
const ANSWER_LIMIT: u64 = 64 << 20;
/// An upper bound for the size of a request for an item's hash, without its name.
const HASH_REQUEST_SIZE: usize = 32;
/// How many bytes of messages a daemon may send where there is little to say: without a build.
const MESSAGES_LIMIT: u64 = 1 << 20;

/// A connection to the daemon there, after the handshake.
pub(super) struct DaemonConnection {
    /// How it is reached.
    pub route: Route,
    pub daemon: Connection,
    pub stream: TimedStream,
}

/// A receiver of messages that ends the connection to a daemon which sends them endlessly.
pub(super) fn limit_messages(stream: TimedStream) -> impl FnMut(&[u8]) + Send {
    let mut left = MESSAGES_LIMIT;
    move |message| {
        // An empty message takes some bytes, too.
        left = left.saturating_sub(message.len() as u64 + 8);
        if left == 0 {
            stream.close();
        }
    }
}

/// Whether another handshake may succeed.
enum Retry {
    /// No, it would fail again.
    Never,
    /// Yes: the connection was just lost, or too many clients are waiting for the daemon.
    SameConnection,
    /// Yes, over a new connection: this one does not respond.
    NewConnection,
    /// It may after a while, or after a new login: sshd does not connect to the socket.
    NewLogin,
}

/// Connects, over the existing connection or a new one.
pub(super) fn connect(
    destination: &Destination,
    deadline: Instant,
) -> Result<DaemonConnection, Error> {
    let mut delays = RETRY_DELAYS.into_iter();
    let mut may_be_dead = true;
    loop {
        let mut logged = master::log_length(destination, 0);
        let stream = match socket::connect(&destination.daemon()) {
            Ok(stream) => Ok(stream),
            Err(_) => {
                may_be_dead &= !master::ensure(destination, 0, deadline)?;
                logged = master::log_length(destination, 0);
                socket::connect(&destination.daemon())
            }
        };
        let handshake_deadline = match may_be_dead {
            true => deadline.min(Instant::now() + REUSED_CONNECTION_TIMEOUT),
            false => deadline,
        };
        let failed = match stream {
            Ok(stream) => match handshake(destination, stream, logged, handshake_deadline) {
                Ok(socket) => return socket.refuse_this_store(deadline),
                Err(failed) => failed,
            },
            Err(source) => {
                let error = Error::Lost {
                    machine: destination.name().to_owned(),
                    doing: DOING.to_owned(),
                    reason: source.to_string(),
                };
                (Retry::SameConnection, error)
            }
        };
        let delay = match failed.0 {
            Retry::SameConnection | Retry::NewLogin => delays.next(),
            Retry::Never | Retry::NewConnection => None,
        };
        match (delay, failed) {
            (Some(delay), _) if Instant::now() + delay < deadline => std::thread::sleep(delay),
            // The account may have been mended since the connection was made, or will be.
            (_, (Retry::NewLogin, error)) => {
                master::give_up(destination, 0);
                if !may_be_dead || Instant::now() >= deadline {
                    return Err(error);
                }
            }
            (_, (Retry::NewConnection, _)) if may_be_dead && Instant::now() < deadline => {
                master::abandon(destination, 0);
            }
            (_, (_, error)) => return Err(error),
        }
    }
}

/// Performs the handshake with the daemon. `logged` is the previous length of ssh's log.
fn handshake(
    destination: &Destination,
    stream: UnixStream,
    logged: u64,
    deadline: Instant,
) -> Result<DaemonConnection, (Retry, Error)> {
    DaemonConnection::over(Route::Ssh(Box::new(destination.clone())), stream, deadline)
        .map_err(|error| explain(destination, logged, error))
}

/// Why the handshake failed.
fn explain(destination: &Destination, logged: u64, error: client::Error) -> (Retry, Error) {
    let machine = destination.name().to_owned();
    let reason = match error {
        client::Error::Protocol { .. } | client::Error::Version(_) => error.to_string(),
        client::Error::Daemon { message, .. } => shortened(on_one_line(&message)),
        error => {
            use std::io::ErrorKind::{TimedOut, WouldBlock};
            let retry = match &error {
                client::Error::Io { source, .. }
                    if matches!(source.kind(), TimedOut | WouldBlock) =>
                {
                    Retry::NewConnection
                }
                _ => Retry::SameConnection,
            };
            let stderr = master::log_since(destination, 0, logged);
            if !stderr.contains("open failed") {
                return (retry, Error::of_daemon(&machine, DOING, error));
            }
            let stderr = master::summary(&stderr);
            let socket = destination.machine.daemon_socket.clone();
            let error = Error::Forwarding {
                machine,
                socket,
                stderr,
            };
            // Too many clients are waiting, or it is for good.
            return (Retry::NewLogin, error);
        }
    };
    (Retry::Never, Error::NoDaemon { machine, reason })
}

impl DaemonConnection {
    /// Performs the handshake on this stream.
    fn over(
        route: Route,
        stream: UnixStream,
        deadline: Instant,
    ) -> Result<DaemonConnection, client::Error> {
        let stream = TimedStream::new(stream, Timeouts::until(deadline));
        let (reader, writer) = (Box::new(stream.clone()), Box::new(stream.clone()));
        let store = &route.directories().store;
        let mut daemon = Connection::over(reader, writer, store, &Options::default())?;
        daemon.set_log(limit_messages(stream.clone()));
        Ok(DaemonConnection {
            route,
            daemon,
            stream,
        })
    }

    /// Performs the handshake with the daemon of a pool's worker.
    pub fn over_keeper(
        route: Route,
        stream: UnixStream,
        deadline: Instant,
    ) -> Result<DaemonConnection, Error> {
        let failed = route.clone();
        let connection = DaemonConnection::over(route, stream, deadline).map_err(|error| {
            let machine = failed.name().to_owned();
            match error {
                client::Error::Protocol { .. } | client::Error::Version(_) => Error::NoDaemon {
                    machine,
                    reason: error.to_string(),
                },
                error => failed.explain(Error::of_daemon(&machine, DOING, error)),
            }
        })?;
        connection.refuse_this_store(deadline)
    }

    /// Another connection to the same daemon.
    pub fn another(&self, deadline: Instant) -> Result<DaemonConnection, Error> {
        match &self.route {
            Route::Ssh(destination) => connect(destination, deadline),
            Route::Pool(route) => {
                let stream = pool::again(&route.plan, deadline)
                    .map_err(|failure| no_job(self.route.name(), failure))?;
                DaemonConnection::over_keeper(self.route.clone(), stream, deadline)
            }
        }
    }

    /// Adds a temporary root there and looks for it here. A machine that was found to have a
    /// different store is not checked again while its connection is open.
    fn refuse_this_store(mut self, deadline: Instant) -> Result<DaemonConnection, Error> {
        if self.route.distinct_mark().is_some_and(|mark| mark.exists()) {
            return Ok(self);
        }
        let random = formats::Hash::sha256(rand::random::<[u8; 32]>()).base32();
        let store = self.route.directories().store.clone();
        let name = format!("{}-offload-check", &random[..32]);
        let root = store.join(&name).map_err(|error| Error::Local {
            doing: "making a store file name".to_owned(),
            source: io::Error::other(error),
        })?;
        let timeouts = Timeouts::until(deadline);
        self.call("taking a temporary root", timeouts, |daemon| {
            daemon.add_temp_root(&root)
        })?;
        let state = self.route.directories().state.parent();
        let roots = state.map(|state| state.join("temproots"));
        if roots.is_some_and(|roots| has_root(&roots, &root).unwrap_or(false)) {
            return Err(Error::SameStore {
                machine: self.route.name().to_owned(),
                store: store.to_string(),
            });
        }
        self.route.mark_distinct();
        Ok(self)
    }

    /// Makes a request that is answered quickly.
    pub fn ask<T>(
        &mut self,
        doing: &str,
        ask: impl FnOnce(&mut Connection) -> Result<T, client::Error>,
    ) -> Result<T, Error> {
        let timeouts = Timeouts {
            deadline: Some(Instant::now() + ANSWER_TIMEOUT),
            most: Some(ANSWER_LIMIT),
            ..Timeouts::idle(ANSWER_IDLE_TIMEOUT)
        };
        self.call(doing, timeouts, ask)
    }

    /// Makes a request with these timeouts.
    pub fn call<T>(
        &mut self,
        doing: &str,
        timeouts: Timeouts,
        ask: impl FnOnce(&mut Connection) -> Result<T, client::Error>,
    ) -> Result<T, Error> {
        self.stream.set_timeouts(timeouts);
        ask(&mut self.daemon).map_err(|error| {
            self.route
                .explain(Error::of_daemon(self.route.name(), doing, error))
        })
    }

    /// Returns those of `paths`, in order, that aren't valid there, after taking temporary roots for
    /// `kept`: in one round trip, unless there are hundreds of paths.
    pub fn protect_and_ask(
        &mut self,
        kept: &[StorePath],
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, Error> {
        let asked: BTreeSet<StorePath> = paths.iter().cloned().collect();
        let valid = self.ask("asking what is missing", |daemon| {
            daemon.put_temp_roots_before(kept)?;
            daemon.query_valid_paths(asked)
        })?;
        Ok(paths
            .iter()
            .filter(|path| !valid.contains(*path))
            .cloned()
            .collect())
    }

    /// The hashes of valid items, in a round trip for each hundred or so.
    pub fn hashes(&mut self, paths: &[StorePath]) -> Result<Vec<Hash>, Error> {
        let mut hashes = Vec::with_capacity(paths.len());
        let mut rest = paths;
        while !rest.is_empty() {
            let mut room = ONE_PIECE;
            let fits = |path: &&StorePath| {
                let size = path.as_str().len() + HASH_REQUEST_SIZE;
                let fits = size <= room;
                room = room.saturating_sub(size);
                fits
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (batch, others) = rest.split_at(count);
            rest = others;
            for path in batch {
                self.daemon.post(&QueryPathHash { path: path.clone() });
            }
            for _ in batch {
                hashes.push(self.ask("asking for the hash of an item", |daemon| {
                    daemon.reply_to::<QueryPathHash>(Streams::new(&mut |_| {}))
                })?);
            }
        }
        Ok(hashes)
    }
}

/// Whether a file of temporary roots in `directory` contains this root, near its end.
fn has_root(directory: &Path, root: &StorePath) -> io::Result<bool> {
    const TAIL_SIZE: u64 = 4 << 10;
    for entry in fs::read_dir(directory)? {
        let Ok(mut file) = fs::File::open(entry?.path()) else {
            continue;
        };
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(TAIL_SIZE)))?;
        let mut tail = Vec::new();
        file.take(TAIL_SIZE).read_to_end(&mut tail)?;
        if bstr::ByteSlice::contains_str(&tail[..], root.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}
