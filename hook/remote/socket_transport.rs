//! The transports `socket` and `command`: the worker protocol over the daemon's socket, forwarded by
//! sshd, or through the keeper of a pool's slot (`daemon_connection.rs`).

use std::io::{Read, Write};
use std::time::Instant;

use formats::{StorePath, export};
use protocol::client::{self, ONE_PIECE, Streams};
use protocol::operations::{BuildMode, BuildPaths, ExportPath, ImportPaths, SetOptions, Target};
use store::PathInfo;

use super::build_limits::BuildLimits;
use super::daemon_connection::{self, DaemonConnection, limit_messages};
use super::daemon_log::DaemonLog;
use super::destination::Destination;
use super::error::Error;
use super::guix_commands::TRANSFER_IDLE_TIMEOUT;
use super::route::Route;
use super::timed_stream::Timeouts;
use super::transport::{Fetched, RemoteBuild, Report, Transport};
use super::{fetching, guix_commands};

/// How many bytes a daemon may send while it imports. (Guix's asks for data with 16 bytes for each
/// 32 KiB.)
const IMPORT_ANSWER_LIMIT: u64 = 1 << 30;
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
    connection: DaemonConnection,
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

/// Connects, over the existing connection or a new one.
pub(super) fn connect(
    destination: &Destination,
    deadline: Instant,
) -> Result<SocketTransport, Error> {
    let connection = daemon_connection::connect(destination, deadline)?;
    Ok(SocketTransport::new(connection))
}

impl SocketTransport {
    /// The transport over a connection.
    pub fn new(connection: DaemonConnection) -> SocketTransport {
        SocketTransport {
            connection,
            pipelined: Vec::new(),
        }
    }

    fn options(&self, limits: &BuildLimits) -> SetOptions {
        let mut options = SetOptions {
            // Builds an input if its substitution fails.
            fallback: true,
            // Two machines that offload to each other would do so endlessly.
            use_build_hook: Some(false),
            print_build_trace: Some(limits.print_build_trace),
            build_cores: self.connection.route.machine().cores,
            max_silent_time: Some(limits.max_silent_time.try_into().unwrap_or(u32::MAX)),
            ..SetOptions::default()
        };
        options.set("multiplexed-build-output", "true");
        options.set("build-max-silent-time", limits.max_silent_time.to_string());
        options.set("build-timeout", limits.timeout.to_string());
        if let Some(cores) = self.connection.route.machine().cores {
            options.set("build-cores", cores.to_string());
        }
        options
    }

    /// Whether these items justify starting a command that compresses them.
    fn are_worth_compressing(&mut self, paths: &[StorePath]) -> Result<bool, Error> {
        let mut bytes = 0;
        for path in paths {
            let info = self
                .connection
                .ask("asking for the size of the outputs", |daemon| {
                    daemon.query_path_info(path)
                })?;
            bytes += info.nar_size;
        }
        Ok(bytes > WORTH_COMPRESSING)
    }
}

impl Transport for SocketTransport {
    fn kind(&self) -> &'static str {
        match self.connection.route {
            Route::Ssh(_) => "socket",
            Route::Pool(_) => "command",
        }
    }

    fn key(&self) -> Option<&str> {
        self.connection.route.key()
    }

    fn place(&self) -> Option<String> {
        self.connection.route.place()
    }

    fn protect(&mut self, paths: &[StorePath]) -> Result<(), Error> {
        self.connection.ask("taking temporary roots", |daemon| {
            daemon.add_temp_roots(paths)
        })
    }

    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error> {
        self.protect_and_ask(&[], paths)
    }

    fn protect_and_ask(
        &mut self,
        kept: &[StorePath],
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, Error> {
        self.connection.protect_and_ask(kept, paths)
    }

    fn fetch(
        &mut self,
        items: &[PathInfo],
        limits: &BuildLimits,
        report: &mut Report<'_>,
    ) -> Result<Fetched, Error> {
        fetching::fetch(&mut self.connection, items, limits, report)
    }

    fn import(&mut self, archive: &mut dyn Read) -> Result<(), Error> {
        // The protocol doesn't support compression, so commands on the machine read and write
        // compressed archives; this connection still protects the items.
        if let Some(destination) = self.connection.route.compressing() {
            return guix_commands::import(destination, archive);
        }
        let timeouts = sending();
        let doing = "sending store items";
        // SSH holds back two MiB, which would count as sent while they aren't.
        let is_pool = matches!(self.connection.route, Route::Pool(_));
        self.connection
            .call(doing, timeouts, |daemon| {
                if is_pool {
                    daemon.permit_read_ahead()?;
                }
                daemon.import_paths(archive)
            })
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
        let is_marked = self.connection.daemon.version().minor() >= MARKS_BUILDER_OUTPUT;
        let mut log = DaemonLog::new(log, derivation.as_str(), is_marked);
        let doing = format!("building '{derivation}'");
        let options = self.options(limits);
        let route = self.connection.route.clone();
        let named = |error| route.explain(Error::of_daemon(route.name(), &doing, error));
        self.connection.daemon.put_before(&options).map_err(named)?;
        let mut room = (ONE_PIECE - FIXED_REQUESTS_SIZE).saturating_sub(derivation.as_str().len());
        if let Some(inline) = &inline_archive {
            room = room.saturating_sub(inline.archive.len());
            self.connection.daemon.post_import(&inline.archive);
        }
        let targets = vec![Target::from(derivation.clone())];
        let mode = BuildMode::Normal;
        self.connection.daemon.post(&BuildPaths { targets, mode });
        let needed = |output: &StorePath| output.as_str().len() + EXPORT_REQUEST_SIZE;
        if route.compressing().is_none() && outputs.iter().map(needed).sum::<usize>() <= room {
            self.pipelined = outputs.to_vec();
        }
        for path in self.pipelined.iter().cloned() {
            self.connection
                .daemon
                .post(&ExportPath { path, sign: true });
        }
        if let Some(inline) = inline_archive {
            let doing = "sending store items";
            self.connection.call(doing, sending(), |daemon| {
                daemon.reply_to::<ImportPaths>(Streams {
                    sent_ahead: true,
                    ..Streams::new(&mut |_| {})
                })
            })?;
            drop(inline.lock);
        }
        // The remote daemon limits how long a build may be silent; ssh's keepalive messages detect
        // a dead connection.
        self.connection.stream.set_timeouts(Timeouts {
            deadline: limits.deadline(),
            ..Timeouts::default()
        });
        let stream = self.connection.stream.clone();
        let built = self
            .connection
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
                let (name, said) = (route.name(), (status, message));
                let (remark, says_full) = (log.remark, log.disk_full);
                let is_full = || route.is_full();
                let failed = Error::of_build(name, derivation, said, remark, says_full, is_full);
                Err(failed)
            }
            Err(error) => Err(named(error)),
        }
    }

    fn export(&mut self, paths: &[StorePath], sink: &mut dyn Write) -> Result<(), Error> {
        let doing = "retrieving store items";
        let timeouts = Timeouts::transfer(TRANSFER_IDLE_TIMEOUT);
        if let Some(destination) = self.connection.route.compressing().cloned() {
            if self.are_worth_compressing(paths)? {
                return guix_commands::export(&destination, paths, sink);
            }
        }
        if std::mem::take(&mut self.pipelined) != paths {
            return self.connection.call(doing, timeouts, |daemon| {
                daemon.export_paths(paths, true, sink)
            });
        }
        let write_error = |source| Error::Local {
            doing: doing.to_owned(),
            source,
        };
        let mut log = limit_messages(self.connection.stream.clone());
        for _ in paths {
            sink.write_all(&export::ITEM.to_le_bytes())
                .map_err(write_error)?;
            self.connection.call(doing, timeouts, |daemon| {
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
        self.connection.stream.close();
        Ok(())
    }
}
