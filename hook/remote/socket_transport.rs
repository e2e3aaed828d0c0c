//! The `socket` transport: the worker protocol over the daemon's socket, forwarded by sshd.
//!
//! While a connection to the machine is open, offloading needs neither an SSH handshake nor a
//! process: it connects to the local end of the socket.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use formats::{StorePath, export};
use protocol::client::{self, Connection, ONE_PIECE, Options, Streams};
use protocol::operations::{BuildMode, BuildPaths, ExportPath, ImportPaths, SetOptions, Target};
use system::socket;

use super::build_limits::BuildLimits;
use super::daemon_log::DaemonLog;
use super::destination::Destination;
use super::error::{Error, on_one_line, shortened};
use super::guix_commands::TRANSFER_IDLE_TIMEOUT;
use super::timed_stream::{TimedStream, Timeouts};
use super::transport::{RemoteBuild, Transport};
use super::{guix_commands, master, probe};

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
/// How many bytes a daemon may send while it imports. (Guix's asks for data with 16 bytes for each
/// 32 KiB.)
const IMPORT_ANSWER_LIMIT: u64 = 1 << 30;
/// How many bytes of messages a daemon may send where there is little to say: without a build.
const MESSAGES_LIMIT: u64 = 1 << 20;
/// Larger archives, in bytes, justify starting a command that compresses them.
const WORTH_COMPRESSING: u64 = 64 << 10;
/// An upper bound for the size of the options and the requests to import and to build.
const FIXED_REQUESTS_SIZE: usize = 2 << 10;
/// An upper bound for the size of a request for an item, without its name.
const EXPORT_REQUEST_SIZE: usize = 32;
/// The first minor version of the protocol in which daemons mark builder output.
const MARKS_BUILDER_OUTPUT: u32 = 0x63;

/// A connection to the daemon there.
pub(super) struct SocketTransport {
    destination: Destination,
    daemon: Connection,
    stream: TimedStream,
    /// The outputs that were requested together with the build (pipelined).
    pipelined: Vec<StorePath>,
}

/// The timeouts for sending items.
fn sending() -> Timeouts {
    Timeouts {
        most: Some(IMPORT_ANSWER_LIMIT),
        ..Timeouts::transfer(TRANSFER_IDLE_TIMEOUT)
    }
}

/// A receiver of messages that ends the connection to a daemon which sends them endlessly.
fn limit_messages(stream: TimedStream) -> impl FnMut(&[u8]) + Send {
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
) -> Result<SocketTransport, Error> {
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
    stream: std::os::unix::net::UnixStream,
    logged: u64,
    deadline: Instant,
) -> Result<SocketTransport, (Retry, Error)> {
    let stream = TimedStream::new(stream, Timeouts::until(deadline));
    let (reader, writer) = (Box::new(stream.clone()), Box::new(stream.clone()));
    match Connection::over(
        reader,
        writer,
        &destination.directories.store,
        &Options::default(),
    ) {
        Ok(mut daemon) => {
            daemon.set_log(limit_messages(stream.clone()));
            Ok(SocketTransport {
                destination: destination.clone(),
                daemon,
                stream,
                pipelined: Vec::new(),
            })
        }
        Err(error) => Err(explain(destination, logged, error)),
    }
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

impl SocketTransport {
    /// Adds a temporary root there and looks for it here. A machine that was found to have a
    /// different store is not checked again while its connection is open.
    fn refuse_this_store(mut self, deadline: Instant) -> Result<SocketTransport, Error> {
        let mark = self.destination.file("distinct");
        if mark.exists() {
            return Ok(self);
        }
        let random = formats::Hash::sha256(rand::random::<[u8; 32]>()).base32();
        let store = self.destination.directories.store.clone();
        let name = format!("{}-offload-check", &random[..32]);
        let root = store.join(&name).map_err(|error| Error::Local {
            doing: "making a store file name".to_owned(),
            source: io::Error::other(error),
        })?;
        let timeouts = Timeouts::until(deadline);
        self.call("taking a temporary root", timeouts, |daemon| {
            daemon.add_temp_root(&root)
        })?;
        let state = self.destination.directories.state.parent();
        let roots = state.map(|state| state.join("temproots"));
        if roots.is_some_and(|roots| has_root(&roots, &root).unwrap_or(false)) {
            return Err(Error::SameStore {
                machine: self.destination.name().to_owned(),
                store: store.to_string(),
            });
        }
        // Without the mark, the machine is just checked again.
        let _ = fs::write(mark, "");
        Ok(self)
    }

    /// Makes a request that is answered quickly.
    fn ask<T>(
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
    fn call<T>(
        &mut self,
        doing: &str,
        timeouts: Timeouts,
        ask: impl FnOnce(&mut Connection) -> Result<T, client::Error>,
    ) -> Result<T, Error> {
        self.stream.set_timeouts(timeouts);
        ask(&mut self.daemon)
            .map_err(|error| Error::of_daemon(self.destination.name(), doing, error))
    }

    fn options(&self, limits: &BuildLimits) -> SetOptions {
        let mut options = SetOptions {
            // Builds an input if its substitution fails.
            fallback: true,
            // Two machines that offload to each other would do so endlessly.
            use_build_hook: Some(false),
            print_build_trace: Some(limits.print_build_trace),
            build_cores: self.destination.machine.cores,
            max_silent_time: Some(limits.max_silent_time.try_into().unwrap_or(u32::MAX)),
            ..SetOptions::default()
        };
        options.set("multiplexed-build-output", "true");
        options.set("build-max-silent-time", limits.max_silent_time.to_string());
        options.set("build-timeout", limits.timeout.to_string());
        if let Some(cores) = self.destination.machine.cores {
            options.set("build-cores", cores.to_string());
        }
        options
    }

    /// Whether archives are compressed. The protocol doesn't support that, so commands on the
    /// machine read and write them; this connection still protects the items.
    fn compresses(&self) -> bool {
        self.destination.machine.transfer_compression.is_some()
    }

    /// Whether these items justify starting a command that compresses them.
    fn are_worth_compressing(&mut self, paths: &[StorePath]) -> Result<bool, Error> {
        let mut bytes = 0;
        for path in paths {
            let info = self.ask("asking for the size of the outputs", |daemon| {
                daemon.query_path_info(path)
            })?;
            bytes += info.nar_size;
        }
        Ok(bytes > WORTH_COMPRESSING)
    }
}

impl Transport for SocketTransport {
    fn kind(&self) -> &'static str {
        "socket"
    }

    fn protect(&mut self, paths: &[StorePath]) -> Result<(), Error> {
        self.ask("taking temporary roots", |daemon| {
            daemon.add_temp_roots(paths)
        })
    }

    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error> {
        self.protect_and_ask(&[], paths)
    }

    /// In one round trip, unless there are hundreds of paths.
    fn protect_and_ask(
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

    fn import(&mut self, archive: &mut dyn Read) -> Result<(), Error> {
        if self.compresses() {
            return guix_commands::import(&self.destination, archive);
        }
        let timeouts = sending();
        let doing = "sending store items";
        self.call(doing, timeouts, |daemon| daemon.import_paths(archive))
            .map(drop)
    }

    /// Pipelines the import of the inline archive, the build and the export of the outputs, so that
    /// all three take one round trip.
    fn build(&mut self, build: RemoteBuild<'_>, log: &mut dyn Write) -> Result<(), Error> {
        let RemoteBuild {
            inline_archive,
            derivation,
            limits,
            outputs,
        } = build;
        let is_marked = self.daemon.version().minor() >= MARKS_BUILDER_OUTPUT;
        let mut log = DaemonLog::new(log, derivation.as_str(), is_marked);
        let doing = format!("building '{derivation}'");
        let options = self.options(limits);
        let named = |error| Error::of_daemon(self.destination.name(), &doing, error);
        self.daemon.put_before(&options).map_err(named)?;
        let mut room = (ONE_PIECE - FIXED_REQUESTS_SIZE).saturating_sub(derivation.as_str().len());
        if let Some(inline) = &inline_archive {
            room = room.saturating_sub(inline.archive.len());
            self.daemon.post_import(&inline.archive);
        }
        let targets = vec![Target::from(derivation.clone())];
        let mode = BuildMode::Normal;
        self.daemon.post(&BuildPaths { targets, mode });
        let needed = |output: &StorePath| output.as_str().len() + EXPORT_REQUEST_SIZE;
        if !self.compresses() && outputs.iter().map(needed).sum::<usize>() <= room {
            self.pipelined = outputs.to_vec();
        }
        for path in self.pipelined.iter().cloned() {
            self.daemon.post(&ExportPath { path, sign: true });
        }
        if let Some(inline) = inline_archive {
            let doing = "sending store items";
            self.call(doing, sending(), |daemon| {
                daemon.reply_to::<ImportPaths>(Streams {
                    sent_ahead: true,
                    ..Streams::new(&mut |_| {})
                })
            })?;
            drop(inline.lock);
        }
        // The remote daemon limits how long a build may be silent; ssh's keepalive messages detect
        // a dead connection.
        self.stream.set_timeouts(Timeouts {
            deadline: limits.deadline(),
            ..Timeouts::default()
        });
        let stream = self.stream.clone();
        let built = self
            .daemon
            .reply_to::<BuildPaths>(Streams::new(&mut |text| {
                log.write(text);
                if log.write_error.is_some() {
                    stream.close(); // nobody wants this build any more
                }
            }));
        if let Some(source) = log.write_error {
            return Err(Error::Local {
                doing: "writing the build log".to_owned(),
                source,
            });
        }
        match built {
            Ok(_) => Ok(()),
            Err(client::Error::Daemon { message, status }) => {
                let (name, said) = (self.destination.name(), (status, message));
                let (remark, says_full) = (log.remark, log.disk_full);
                let is_full = || probe::is_full(&self.destination);
                let failed = Error::of_build(name, derivation, said, remark, says_full, is_full);
                Err(failed)
            }
            Err(error) => Err(Error::of_daemon(self.destination.name(), &doing, error)),
        }
    }

    fn export(&mut self, paths: &[StorePath], sink: &mut dyn Write) -> Result<(), Error> {
        let doing = "retrieving store items";
        let timeouts = Timeouts::transfer(TRANSFER_IDLE_TIMEOUT);
        if self.compresses() && self.are_worth_compressing(paths)? {
            return guix_commands::export(&self.destination, paths, sink);
        }
        if std::mem::take(&mut self.pipelined) != paths {
            return self.call(doing, timeouts, |daemon| {
                daemon.export_paths(paths, true, sink)
            });
        }
        let write_error = |source| Error::Local {
            doing: doing.to_owned(),
            source,
        };
        let mut log = limit_messages(self.stream.clone());
        for _ in paths {
            sink.write_all(&export::ITEM.to_le_bytes())
                .map_err(write_error)?;
            self.call(doing, timeouts, |daemon| {
                daemon.reply_to::<ExportPath>(Streams {
                    sink: Some(&mut *sink),
                    ..Streams::new(&mut log)
                })
            })?;
        }
        sink.write_all(&export::END.to_le_bytes())
            .map_err(write_error)
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        // Temporary roots last as long as the connection.
        self.stream.close();
        Ok(())
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
