//! The sockets that clients connect to.
//!
//! An endpoint is a Unix socket (a name that starts with `/`) or `HOST[:PORT]`, where an IPv6
//! address is written in brackets if a port follows; sockets from socket activation take precedence
//! over all endpoints. The socket of a dead daemon is replaced, a daemon that is shutting down is
//! waited for, and the socket of a running daemon is never taken.
//! Documented in the manual, "Invoking guix-daemon".

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use listenfd::ListenFd;
use protocol::client::DEFAULT_PORT;
use system::errno;
use system::host_names;
use system::poll::wait_readable;
use system::socket::{self, BindError};

use crate::settings::Settings;
use crate::stream::Stream;

/// How long to wait for the previous daemon to release its socket: it may be shutting down, and if
/// it was killed, one of its children may hold the socket until it executes its program. Not longer,
/// so that systemd counts five failures within ten seconds and stops trying.
const TAKEOVER_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long to wait after a connection was closed before trying again: the socket may still be open.
const TAKEOVER_INTERVAL: Duration = Duration::from_millis(100);

/// All sockets that clients connect to.
#[derive(Debug)]
pub struct Listeners {
    listeners: Vec<Listener>,
    /// The files of the sockets that this process has created.
    files: Vec<SocketFile>,
    /// Where the sockets are, for the log, if this process has opened them.
    places: Vec<String>,
}

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// For local clients, whose identity the kernel knows.
    Unix(UnixListener),
    /// For remote clients.
    Tcp(TcpListener),
}

/// An argument of `--listen`.
#[derive(Debug, PartialEq, Eq)]
enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

impl Endpoint {
    fn parse(name: &OsStr) -> Result<Endpoint> {
        if name.as_encoded_bytes().starts_with(b"/") {
            return Ok(Endpoint::Unix(name.into()));
        }
        let name = name.to_string_lossy();
        let bracketed = name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match (bracketed, name.rsplit_once(':')) {
            (Some((host, "")), _) => (host, None),
            (Some((host, rest)), _) if rest.starts_with(':') => (host, Some(&rest[1..])),
            (Some(_), _) => return Err(lookup_failed(&name, "Name or service not known")),
            // An IPv6 address without brackets has no port.
            (None, Some((host, _))) if host.contains(':') => (&*name, None),
            (None, Some((host, port))) => (host, Some(port)),
            (None, None) => (&*name, None),
        };
        let port = port
            .map_or(Ok(DEFAULT_PORT), str::parse)
            .map_err(|_| lookup_failed(&name, "Servname not supported for ai_socktype"))?;
        Ok(Endpoint::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

fn lookup_failed(endpoint: &str, reason: &str) -> anyhow::Error {
    anyhow!("failed to look up '{endpoint}': {reason}")
}

/// Opens the sockets in `settings`, or uses those from socket activation.
///
/// Has to be called before there are other threads, because it changes the environment.
pub fn open(settings: &Settings) -> Result<Listeners> {
    let activated = activated().context("cannot use the sockets of socket activation")?;
    let mut all = Listeners {
        listeners: activated,
        files: Vec::new(),
        places: Vec::new(),
    };
    if !all.listeners.is_empty() {
        let count = all.listeners.len();
        let plural = if count == 1 { "" } else { "s" };
        tracing::info!("socket-activated with {count} socket{plural}");
    } else if settings.endpoints.is_empty() {
        all.add_unix(&settings.directories.socket())?;
    } else {
        for name in &settings.endpoints {
            match Endpoint::parse(name)? {
                Endpoint::Unix(path) => all.add_unix(&store::directories::canonical(&path)?)?,
                Endpoint::Tcp { host, port } => {
                    all.add_tcp(open_tcp(&name.to_string_lossy(), &host, port)?)?;
                }
            }
        }
    }
    for listener in &all.listeners {
        // If a client hangs up between poll and accept, accept must not block.
        system::pipe::set_nonblocking(listener, true).context("cannot set up a socket")?;
    }
    Ok(all)
}

/// The sockets that a service manager has opened for this process, if any: see `sd_listen_fds(3)`.
fn activated() -> io::Result<Vec<Listener>> {
    // Unlike sd_listen_fds, the crate does not require this variable.
    if std::env::var_os("LISTEN_PID").is_none_or(|pid| pid.is_empty()) {
        return Ok(Vec::new());
    }
    let mut sockets = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..sockets.len() {
        // A socket of the other type is left in its place.
        let listener = match sockets.take_unix_listener(index) {
            Ok(listener) => listener.map(Listener::Unix),
            Err(_) => sockets.take_tcp_listener(index)?.map(Listener::Tcp),
        };
        listeners.extend(listener);
    }
    Ok(listeners)
}

fn open_unix(path: &Path) -> Result<UnixListener> {
    let cannot = |reason: String| anyhow!("cannot bind to socket '{}': {reason}", path.display());
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|error| {
                anyhow!(
                    "creating directory `{}': {}",
                    directory.display(),
                    errno::message(&error)
                )
            })?;
    }
    let name = PathBuf::from(path.file_name().map(OsString::from).unwrap_or_default());
    if name.as_os_str().len() + 2 >= 108 {
        return Err(anyhow!(
            "socket file name './{}' is too long",
            name.display()
        ));
    }
    let deadline = Instant::now() + TAKEOVER_TIMEOUT;
    let bound = loop {
        match socket::bind(path) {
            Err(BindError::InUse { connection, .. }) if closes(&connection, deadline) => {
                thread::sleep(TAKEOVER_INTERVAL);
            }
            bound => break bound,
        }
    };
    bound.map_err(|error| match error {
        BindError::InUse { .. } => cannot(
            "a daemon is serving there; stop it first, or give another name with --listen".into(),
        ),
        BindError::NotASocket(_) => cannot("the file exists and is not a socket".into()),
        BindError::Io { source, .. } => cannot(errno::message(&source)),
    })
}

/// Whether the other process closes this connection before the deadline, as it does by closing the
/// socket or by ending. Nothing is sent: a daemon that serves waits for its client to begin, and
/// logs this one connection.
fn closes(connection: &UnixStream, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut received = connection;
    match wait_readable(connection, Some(left)) {
        // What sends something serves.
        Ok(true) => !matches!(received.read(&mut [0]), Ok(1..)),
        Ok(false) | Err(_) => false,
    }
}

fn open_tcp(endpoint: &str, host: &str, port: u16) -> Result<TcpListener> {
    let addresses = host_names::resolve(host, port).map_err(|error| {
        let text = error.to_string();
        let reason = text.strip_prefix("failed to lookup address information: ");
        lookup_failed(endpoint, reason.unwrap_or(&text))
    })?;
    let address = addresses
        .first()
        .ok_or_else(|| lookup_failed(endpoint, "No address"))?;
    TcpListener::bind(address)
        .map_err(|error| anyhow!("cannot bind TCP socket: {}", errno::message(&error)))
}

impl Listeners {
    /// The sockets.
    pub fn as_slice(&self) -> &[Listener] {
        &self.listeners
    }

    fn add_unix(&mut self, path: &Path) -> Result<()> {
        self.listeners.push(Listener::Unix(open_unix(path)?));
        self.files.extend(SocketFile::at(path));
        self.places.push(path.display().to_string());
        Ok(())
    }

    fn add_tcp(&mut self, listener: TcpListener) -> Result<()> {
        // Not as it was given: a name can have several addresses, and port 0 stands for any.
        let address = listener.local_addr().context("cannot set up a socket")?;
        self.places.push(address.to_string());
        self.listeners.push(Listener::Tcp(listener));
        Ok(())
    }

    /// Logs where clients can connect. What a service manager has opened, it knows.
    pub fn announce(&self) {
        for place in &self.places {
            tracing::info!("listening on '{place}'");
        }
    }

    /// Closes the sockets, and deletes the files of those that this process has created.
    pub fn close(self) {
        // The files first: a new daemon waits until the sockets are closed, and then creates its
        // own files.
        for file in &self.files {
            file.delete();
        }
    }
}

/// The file of a socket that this process has created.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> Option<SocketFile> {
        Some(SocketFile {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }

    /// Deletes the file, unless it was replaced by another daemon.
    fn delete(&self) {
        if identity(&self.path) == Some(self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let status = std::fs::symlink_metadata(path).ok()?;
    Some((status.dev(), status.ino()))
}

impl Listener {
    /// Accepts a waiting connection, if there still is one.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        let accepted = match self {
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
        };
        match accepted {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<Endpoint, String> {
        Endpoint::parse(OsStr::new(name)).map_err(|error| error.to_string())
    }

    #[test]
    fn endpoints_are_file_names_or_addresses() {
        let tcp = |host: &str, port| Endpoint::Tcp {
            host: host.into(),
            port,
        };
        assert_eq!(parse("/a:1"), Ok(Endpoint::Unix("/a:1".into())));
        assert_eq!(parse("localhost"), Ok(tcp("localhost", DEFAULT_PORT)));
        assert_eq!(parse("10.0.0.1:80"), Ok(tcp("10.0.0.1", 80)));
        assert_eq!(parse(":80"), Ok(tcp("", 80)));
        assert_eq!(parse("[::1]:80"), Ok(tcp("::1", 80)));
        assert_eq!(parse("[::1]"), Ok(tcp("::1", DEFAULT_PORT)));
        assert_eq!(parse("::1"), Ok(tcp("::1", DEFAULT_PORT)));
        assert!(parse("[::1]80").is_err());
        for bad in ["host:", "host:http", "host:65536", "[::1]:", "[::1]:x"] {
            assert_eq!(
                parse(bad),
                Err(format!(
                    "failed to look up '{bad}': Servname not supported for ai_socktype"
                ))
            );
        }
    }

    #[test]
    fn only_the_file_that_we_made_is_deleted() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("socket");
        std::fs::write(&path, "").unwrap();
        let file = SocketFile::at(&path).unwrap();
        std::fs::rename(&path, scratch.path().join("old")).unwrap();
        std::fs::write(&path, "").unwrap();
        file.delete();
        assert!(path.exists(), "it is another file");
        SocketFile::at(&path).unwrap().delete();
        assert!(!path.exists());
        file.delete();
    }
}
