//! The `socket` transport: the worker protocol, over the daemon's socket that sshd forwards.
//!
//! While a connection to the machine stands, an offload costs no SSH handshake and no process:
//! the local end of the socket is connected to, that is all.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use formats::{StorePath, export};
use protocol::client::{self, Connection, ONE_PIECE, Options, Streams};
use protocol::operations::{BuildMode, BuildPaths, ExportPath, ImportPaths, SetOptions, Target};
use system::socket;

use super::link::Link;
use super::log::BuildLog;
use super::stream::{Patience, Stream};
use super::{Error, Limits, Order, Transport, commands, master, probe};

/// How long a connection that stands may take for the handshake, before a new one is tried.
const WARM_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before trying again. (The original daemon's queue is five clients long.)
const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(180),
    Duration::from_millis(500),
];
const DOING: &str = "connecting to its build daemon";
/// How long simple questions may take, and roots: a daemon that collects garbage answers later.
const ANSWER: Duration = Duration::from_secs(120);
/// How long a daemon may be silent while items are sent, which it unpacks and hashes.
const TRANSFER: Duration = Duration::from_secs(900);
/// What a build gets on top of its own limit: it may have to wait for others there.
const BUILD_GRACE: Duration = Duration::from_secs(600);
/// Archives of more bytes are worth a command that compresses them.
const MUCH: u64 = 64 << 10;
/// More than options and the frames of an import and of a build take.
const OPTIONS: usize = 2 << 10;
/// What a request for an item takes, besides its name.
const REQUEST: usize = 32;
/// From this version on, daemons wrap what builders print.
const WRAPPING: u32 = 0x63;

/// A connection to the daemon there.
pub(super) struct Socket {
    link: Link,
    daemon: Connection,
    stream: Stream,
    /// The outputs that were ordered with their build, and come after it.
    ordered: Vec<StorePath>,
}

/// What to do when the handshake fails.
enum Remedy {
    /// Nothing helps.
    None,
    /// Try again: the connection broke just now, or the daemon has too many clients waiting.
    Again,
    /// The connection doesn't answer: make a new one.
    Anew,
}

/// Connects, by the connection that stands or by a new one.
pub(super) fn connect(link: &Link, deadline: Instant) -> Result<Socket, Error> {
    let mut pauses = PAUSES.into_iter();
    let mut may_be_dead = true;
    loop {
        let mut logged = master::log_length(link, 0);
        let stream = match socket::connect(&link.daemon()) {
            Ok(stream) => Ok(stream),
            Err(_) => {
                may_be_dead &= !master::ensure(link, 0, deadline)?;
                logged = master::log_length(link, 0);
                socket::connect(&link.daemon())
            }
        };
        let patience = match may_be_dead {
            true => deadline.min(Instant::now() + WARM_PATIENCE),
            false => deadline,
        };
        let failed = match stream {
            Ok(stream) => match over(link, stream, logged, patience) {
                Ok(socket) => return socket.refuse_this_store(),
                Err(failed) => failed,
            },
            Err(source) => {
                let error = Error::Lost {
                    machine: link.name().to_owned(),
                    doing: DOING.to_owned(),
                    reason: source.to_string(),
                };
                (Remedy::Again, error)
            }
        };
        match failed {
            (Remedy::Again, error) => match pauses.next() {
                Some(pause) if Instant::now() + pause < deadline => std::thread::sleep(pause),
                _ => return Err(error),
            },
            (Remedy::Anew, _) if may_be_dead && Instant::now() < deadline => {
                master::abandon(link, 0);
            }
            (_, error) => return Err(error),
        }
    }
}

fn over(
    link: &Link,
    stream: std::os::unix::net::UnixStream,
    logged: u64,
    deadline: Instant,
) -> Result<Socket, (Remedy, Error)> {
    let stream = Stream::new(stream, Patience::until(deadline));
    let (reader, writer) = (Box::new(stream.clone()), Box::new(stream.clone()));
    match Connection::over(reader, writer, &link.home.store, &Options::default()) {
        Ok(daemon) => Ok(Socket {
            link: link.clone(),
            daemon,
            stream,
            ordered: Vec::new(),
        }),
        Err(error) => Err(explain(link, logged, error)),
    }
}

/// Why the handshake failed.
fn explain(link: &Link, logged: u64, error: client::Error) -> (Remedy, Error) {
    let machine = link.name().to_owned();
    let reason = match error {
        client::Error::Protocol { .. } | client::Error::Version(_) => error.to_string(),
        client::Error::Daemon { message, .. } => message,
        error => {
            use std::io::ErrorKind::{TimedOut, WouldBlock};
            let remedy = match &error {
                client::Error::Io { source, .. }
                    if matches!(source.kind(), TimedOut | WouldBlock) =>
                {
                    Remedy::Anew
                }
                _ => Remedy::Again,
            };
            let said = master::log_since(link, 0, logged);
            if !said.contains("open failed") {
                return (remedy, Error::of_daemon(&machine, DOING, error));
            }
            let said = master::digest(&said);
            let socket = link.machine.daemon_socket.clone();
            let error = Error::Forwarding {
                machine,
                socket,
                said,
            };
            return (Remedy::Again, error);
        }
    };
    (Remedy::None, Error::NoDaemon { machine, reason })
}

impl Socket {
    /// Makes a temporary root there and looks for it here. A machine that was found to be another
    /// one is not asked again while its connection stands.
    fn refuse_this_store(mut self) -> Result<Socket, Error> {
        let mark = self.link.file("distinct");
        if mark.exists() {
            return Ok(self);
        }
        let random = formats::Hash::sha256(rand::random::<[u8; 32]>()).base32();
        let store = self.link.home.store.clone();
        let name = format!("{}-offload-check", &random[..32]);
        let root = store.join(&name).map_err(|error| Error::Local {
            doing: "making a store file name".to_owned(),
            source: io::Error::other(error),
        })?;
        self.ask("taking a temporary root", |daemon| {
            daemon.add_temp_root(&root)
        })?;
        let state = self.link.home.directory.parent();
        let roots = state.map(|state| state.join("temproots"));
        if roots.is_some_and(|roots| has_root(&roots, &root).unwrap_or(false)) {
            return Err(Error::SameStore {
                machine: self.link.name().to_owned(),
                store: store.to_string(),
            });
        }
        // Without the mark it is only asked again.
        let _ = fs::write(mark, "");
        Ok(self)
    }

    /// Asks something that is answered at once.
    fn ask<T>(
        &mut self,
        doing: &str,
        ask: impl FnOnce(&mut Connection) -> Result<T, client::Error>,
    ) -> Result<T, Error> {
        self.wait(doing, Patience::of_silence(ANSWER), ask)
    }

    fn wait<T>(
        &mut self,
        doing: &str,
        patience: Patience,
        ask: impl FnOnce(&mut Connection) -> Result<T, client::Error>,
    ) -> Result<T, Error> {
        self.stream.set_patience(patience);
        ask(&mut self.daemon).map_err(|error| Error::of_daemon(self.link.name(), doing, error))
    }

    fn options(&self, limits: &Limits) -> SetOptions {
        let mut options = SetOptions {
            // An input that can't be substituted after all can be built.
            fallback: true,
            // Two machines that offload to each other would do so for ever.
            use_build_hook: Some(false),
            print_build_trace: Some(limits.print_build_trace),
            build_cores: self.link.machine.cores,
            max_silent_time: Some(limits.max_silent_time.try_into().unwrap_or(u32::MAX)),
            ..SetOptions::default()
        };
        options.set("multiplexed-build-output", "true");
        options.set("build-max-silent-time", limits.max_silent_time.to_string());
        options.set("build-timeout", limits.timeout.to_string());
        if let Some(cores) = self.link.machine.cores {
            options.set("build-cores", cores.to_string());
        }
        options
    }

    /// Whether archives go compressed. The protocol has no way for it, so a command there takes
    /// and makes them; what protects the items is this connection all the same.
    fn compresses(&self) -> bool {
        self.link.machine.transfer_compression.is_some()
    }

    /// Whether it is worth a command there to compress these.
    fn is_much(&mut self, paths: &[StorePath]) -> Result<bool, Error> {
        let mut bytes = 0;
        for path in paths {
            let info = self.ask("asking for the size of the outputs", |daemon| {
                daemon.query_path_info(path)
            })?;
            bytes += info.nar_size;
        }
        Ok(bytes > MUCH)
    }
}

impl Transport for Socket {
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

    /// In one round trip, unless there are hundreds.
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
            return commands::import(&self.link, archive);
        }
        let patience = Patience::of_silence(TRANSFER);
        let doing = "sending store items";
        self.wait(doing, patience, |daemon| daemon.import_paths(archive))
            .map(drop)
    }

    /// Together with the parcel before it and the outputs after it: in one round trip.
    fn build(&mut self, order: Order<'_>, log: &mut dyn Write) -> Result<(), Error> {
        let Order {
            parcel,
            derivation,
            limits,
            outputs,
        } = order;
        let wraps = self.daemon.version().minor() >= WRAPPING;
        let mut log = BuildLog::new(log, wraps);
        let doing = format!("building '{derivation}'");
        let options = self.options(limits);
        let named = |error| Error::of_daemon(self.link.name(), &doing, error);
        self.daemon.put_before(&options).map_err(named)?;
        let mut room = (ONE_PIECE - OPTIONS).saturating_sub(derivation.as_str().len());
        if let Some(parcel) = &parcel {
            room = room.saturating_sub(parcel.archive.len());
            self.daemon.post_import(&parcel.archive);
        }
        let targets = vec![Target::from(derivation.clone())];
        let mode = BuildMode::Normal;
        self.daemon.post(&BuildPaths { targets, mode });
        let needed = |output: &StorePath| output.as_str().len() + REQUEST;
        if !self.compresses() && outputs.iter().map(needed).sum::<usize>() <= room {
            self.ordered = outputs.to_vec();
        }
        for path in self.ordered.iter().cloned() {
            self.daemon.post(&ExportPath { path, sign: true });
        }
        if let Some(parcel) = parcel {
            let doing = "sending store items";
            self.wait(doing, Patience::of_silence(TRANSFER), |daemon| {
                daemon.reply_to::<ImportPaths>(Streams {
                    sent_ahead: true,
                    ..Streams::new(&mut |_| {})
                })
            })?;
            drop(parcel.lock);
        }
        // How long a build is silent is its own affair, and that of the daemon there: a
        // connection that is dead is found out by ssh, which asks every few seconds.
        self.stream.set_patience(Patience {
            deadline: (limits.timeout > 0)
                .then(|| Duration::from_secs(limits.timeout).saturating_add(BUILD_GRACE))
                .and_then(|limit| Instant::now().checked_add(limit)),
            silence: None,
        });
        let stream = self.stream.clone();
        let built = self
            .daemon
            .reply_to::<BuildPaths>(Streams::new(&mut |text| {
                log.write(text);
                if log.failed.is_some() {
                    stream.close(); // nobody wants this build any more
                }
            }));
        if let Some(source) = log.failed {
            return Err(Error::Local {
                doing: "writing the build log".to_owned(),
                source,
            });
        }
        match built {
            Ok(_) => Ok(()),
            Err(client::Error::Daemon { message, status }) => {
                let message = match log.remark {
                    Some(remark) => format!("{message} ({remark})"),
                    None => message,
                };
                let full = log.disk_full || probe::is_full(&self.link);
                let name = self.link.name();
                Err(Error::of_build(name, derivation, status, message, full))
            }
            Err(error) => Err(Error::of_daemon(self.link.name(), &doing, error)),
        }
    }

    fn export(&mut self, paths: &[StorePath], sink: &mut dyn Write) -> Result<(), Error> {
        let doing = "retrieving store items";
        let patience = Patience::of_silence(TRANSFER);
        if self.compresses() && self.is_much(paths)? {
            return commands::export(&self.link, paths, sink);
        }
        if std::mem::take(&mut self.ordered) != paths {
            return self.wait(doing, patience, |daemon| {
                daemon.export_paths(paths, true, sink)
            });
        }
        let unwritten = |source| Error::Local {
            doing: doing.to_owned(),
            source,
        };
        for _ in paths {
            sink.write_all(&export::ITEM.to_le_bytes())
                .map_err(unwritten)?;
            self.wait(doing, patience, |daemon| {
                daemon.reply_to::<ExportPath>(Streams {
                    sink: Some(&mut *sink),
                    ..Streams::new(&mut |_| {})
                })
            })?;
        }
        sink.write_all(&export::END.to_le_bytes())
            .map_err(unwritten)
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        // Temporary roots end with the connection.
        self.stream.close();
        Ok(())
    }
}

/// Whether one of the files of temporary roots has this one; it would be among its last.
fn has_root(directory: &Path, root: &StorePath) -> io::Result<bool> {
    const TAIL: u64 = 4 << 10;
    for entry in fs::read_dir(directory)? {
        let Ok(mut file) = fs::File::open(entry?.path()) else {
            continue;
        };
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail)?;
        if bstr::ByteSlice::contains_str(&tail[..], root.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}
