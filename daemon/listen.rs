//! The sockets that clients connect to, and who they are.
//!
//! An endpoint is a Unix socket (a name that starts with `/`) or `HOST[:PORT]`; sockets handed
//! over by socket activation take precedence over all of them. The file left by a dead daemon
//! is replaced, that of one that is ending waited for, a living daemon's never taken. Documented
//! in the manual, "Invoking guix-daemon".

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use system::errno;
use system::socket::{self, Activated, BindError};

use crate::settings::Settings;

/// How long to wait for the daemon before us to give up its socket, and how often to look: it may
/// have been told to end just now. Of one that was killed, a child may be left that is about to
/// execute its program, and has the socket until then.
const SUCCESSION: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// The TCP port if an endpoint names none.
const DEFAULT_PORT: u16 = 44146;

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// Local clients, whose identity the kernel vouches for.
    Unix(UnixListener),
    /// Clients from anywhere.
    Tcp(TcpListener),
}

/// A client's connection.
#[derive(Debug)]
pub enum Stream {
    /// Of a local client.
    Unix(UnixStream),
    /// Of a client from anywhere.
    Tcp(TcpStream),
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process on this machine, as it was when it connected.
    Local(socket::Peer),
    /// Somebody out there.
    Remote(IpAddr),
}

impl Peer {
    /// Whether this client may do what only the administrator may.
    pub fn trusted(&self) -> bool {
        matches!(self, Peer::Local(peer) if peer.uid == 0)
    }
}

/// Opens what `settings` say to listen to.
pub fn open(settings: &Settings) -> Result<Vec<Listener>> {
    let activated = socket::activated().context("cannot use the sockets of socket activation")?;
    let listeners = match activated {
        Some(sockets) if !sockets.is_empty() => {
            let plural = if sockets.len() == 1 { "" } else { "s" };
            tracing::info!("socket-activated with {} socket{plural}", sockets.len());
            sockets.into_iter().map(Listener::from).collect()
        }
        _ if settings.endpoints.is_empty() => vec![open_unix(&settings.directories.socket())?],
        _ => settings
            .endpoints
            .iter()
            .map(|name| open_endpoint(name))
            .collect::<Result<_>>()?,
    };
    for listener in &listeners {
        // A client that gives up between poll and accept must not make accept wait.
        system::pipe::set_nonblocking(listener, true).context("cannot set up a socket")?;
    }
    Ok(listeners)
}

fn open_endpoint(name: &OsStr) -> Result<Listener> {
    if name.as_encoded_bytes().starts_with(b"/") {
        let path = store::directories::canonical(Path::new(name))?;
        open_unix(&path)
    } else {
        open_tcp(&name.to_string_lossy())
    }
}

fn open_unix(path: &Path) -> Result<Listener> {
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
    let deadline = Instant::now() + SUCCESSION;
    let bound = loop {
        match socket::bind(path) {
            Err(BindError::InUse(_)) if Instant::now() < deadline => thread::sleep(PAUSE),
            bound => break bound,
        }
    };
    let listener = bound.map_err(|error| match error {
        BindError::InUse(_) => cannot(
            "a daemon is serving there; stop it first, or give another name with --listen".into(),
        ),
        BindError::NotASocket(_) => cannot("the file exists and is not a socket".into()),
        BindError::Io { source, .. } => cannot(errno::message(&source)),
    })?;
    tracing::debug!("listening on '{}'", path.display());
    Ok(Listener::Unix(listener))
}

fn open_tcp(endpoint: &str) -> Result<Listener> {
    let failed = |reason: &str| anyhow!("failed to look up '{endpoint}': {reason}");
    let (host, port) = match endpoint.rsplit_once(':') {
        Some((host, port)) => (
            host,
            port.parse()
                .map_err(|_| failed("Servname not supported for ai_socktype"))?,
        ),
        None => (endpoint, DEFAULT_PORT),
    };
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| {
            let text = error.to_string();
            failed(
                text.strip_prefix("failed to lookup address information: ")
                    .unwrap_or(&text),
            )
        })?
        .collect();
    let address = addresses.first().ok_or_else(|| failed("No address"))?;
    tracing::debug!("listening on '{host}', port '{port}'");
    let listener = TcpListener::bind(address)
        .map_err(|error| anyhow!("cannot bind TCP socket: {}", errno::message(&error)))?;
    Ok(Listener::Tcp(listener))
}

impl From<Activated> for Listener {
    fn from(activated: Activated) -> Listener {
        match activated {
            Activated::Unix(listener) => Listener::Unix(listener),
            Activated::Tcp(listener) => Listener::Tcp(listener),
        }
    }
}

impl Listener {
    /// Takes a waiting connection, if one is still there.
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

impl Stream {
    /// Who is there.
    pub fn peer(&self) -> io::Result<Peer> {
        match self {
            Stream::Unix(stream) => Ok(Peer::Local(socket::peer(stream)?)),
            Stream::Tcp(stream) => Ok(Peer::Remote(stream.peer_addr()?.ip())),
        }
    }

    /// Has small messages sent at once. Failing to do so only costs time.
    pub fn set_prompt(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = stream.set_nodelay(true);
        }
    }

    /// Wakes whoever reads from or writes to the connection, and tells the client.
    pub fn shut_down(&self) {
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buffer),
            Stream::Tcp(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(data),
            Stream::Tcp(stream) => (&*stream).write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
