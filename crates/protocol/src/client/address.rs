//! The address of a daemon.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use formats::StoreDir;

use super::deadline::{Deadline, Socket, Timed};
use super::{Connection, Error, Options};

/// The default TCP port of daemons.
pub const DEFAULT_PORT: u16 = 44146;

/// The address at which a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket with this file name.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// The host's name or address.
        host: String,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Tcp { host, port } if host.contains(':') => {
                write!(f, "guix://[{host}]:{port}")
            }
            Address::Tcp { host, port } => write!(f, "guix://{host}:{port}"),
        }
    }
}

impl Address {
    /// Parses a file name, a `unix:` or `file:` address, or `guix://HOST[:PORT]`.
    pub fn parse(text: &std::ffi::OsStr) -> Result<Address, Error> {
        let bad = || Error::Address(text.to_string_lossy().into_owned());
        let bytes = text.as_bytes();
        let Some((scheme, rest)) = split_scheme(bytes) else {
            return Ok(Address::Unix(text.into()));
        };
        match scheme {
            "unix" | "file" => {
                let path = match rest.strip_prefix(b"//") {
                    // Whatever precedes the path is a host name; it can only be this host's.
                    Some(rest) => rest
                        .iter()
                        .position(|&b| b == b'/')
                        .map(|start| &rest[start..]),
                    None => Some(rest),
                };
                let path = percent_decode(path.ok_or_else(bad)?).ok_or_else(bad)?;
                Ok(Address::Unix(OsString::from_vec(path).into()))
            }
            "guix" => {
                let rest = rest.strip_prefix(b"//").ok_or_else(bad)?;
                let rest = std::str::from_utf8(rest).map_err(|_| bad())?;
                let authority = rest.split('/').next().unwrap_or_default();
                let (host, port) = match authority.strip_prefix('[') {
                    Some(rest) => {
                        let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
                        match rest.strip_prefix(':') {
                            None if !rest.is_empty() => return Err(bad()),
                            port => (host, port),
                        }
                    }
                    None => match authority.rsplit_once(':') {
                        // An IPv6 address without brackets has no port.
                        Some((host, _)) if host.contains(':') => (authority, None),
                        Some((host, port)) => (host, Some(port)),
                        None => (authority, None),
                    },
                };
                let port = port
                    .map_or(Ok(DEFAULT_PORT), str::parse)
                    .map_err(|_| bad())?;
                if host.is_empty() {
                    return Err(bad());
                }
                Ok(Address::Tcp {
                    host: host.to_owned(),
                    port,
                })
            }
            _ => Err(bad()),
        }
    }

    /// The address in `GUIX_DAEMON_SOCKET`, or else the socket in `state_directory`.
    pub fn from_environment(state_directory: &Path) -> Result<Address, Error> {
        match std::env::var_os("GUIX_DAEMON_SOCKET") {
            Some(text) => Address::parse(&text),
            None => Ok(Address::Unix(state_directory.join("daemon-socket/socket"))),
        }
    }

    /// Connects and performs the handshake.
    pub fn connect(&self, store: &StoreDir, options: &Options) -> Result<Connection, Error> {
        match self {
            Address::Unix(path) => {
                let stream = system::socket::connect(path).map_err(|error| self.failed(error))?;
                Connection::over_unix(stream, store, options)
            }
            Address::Tcp { host, port } => {
                let connected = TcpStream::connect((host.as_str(), *port));
                let stream = connected.map_err(|error| self.failed(error))?;
                let [reader, writer] = self.tcp_halves(stream)?;
                Connection::over(Box::new(reader), Box::new(writer), store, options)
            }
        }
    }

    /// The same, to a daemon that must have accepted and answered before the deadline; so must all that is asked
    /// over the connection. (Name servers aren't the daemon's: for them, the resolver's own limits hold.)
    pub fn connect_before(
        &self,
        store: &StoreDir,
        options: &Options,
        deadline: &Deadline,
    ) -> Result<Connection, Error> {
        match self {
            Address::Unix(path) => {
                let time = deadline.left().map_err(|error| self.failed(error))?;
                let stream = system::socket::connect_within(path, time);
                let stream = stream.map_err(|error| self.failed(error))?;
                let reader = stream.try_clone().map_err(|error| self.failed(error))?;
                over_timed([reader, stream], store, options, deadline)
            }
            Address::Tcp { host, port } => {
                let stream = tcp_before(host, *port, deadline);
                let halves = self.tcp_halves(stream.map_err(|error| self.failed(error))?)?;
                over_timed(halves, store, options, deadline)
            }
        }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Connect {
            address: self.to_string(),
            source,
        }
    }

    fn tcp_halves(&self, stream: TcpStream) -> Result<[TcpStream; 2], Error> {
        // Small requests must not wait for acknowledgements (Nagle's algorithm).
        let halves = stream
            .set_nodelay(true)
            .and_then(|()| Ok([stream.try_clone()?, stream]));
        halves.map_err(|error| self.failed(error))
    }
}

/// Performs the handshake over the two halves of a stream.
fn over_timed<S: Socket + Send + 'static>(
    halves: [S; 2],
    store: &StoreDir,
    options: &Options,
    deadline: &Deadline,
) -> Result<Connection, Error> {
    let [reader, writer] = halves.map(|stream| {
        Box::new(Timed {
            stream,
            deadline: deadline.clone(),
        })
    });
    Connection::over(reader, writer, store, options)
}

/// Connects to the first of a host's addresses that accepts.
fn tcp_before(host: &str, port: u16, deadline: &Deadline) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, deadline.left()?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Connection {
    /// Performs the handshake over a connected Unix socket.
    pub fn over_unix(
        stream: UnixStream,
        store: &StoreDir,
        options: &Options,
    ) -> Result<Connection, Error> {
        let reader = stream.try_clone().map_err(|source| Error::Io {
            doing: "connecting to the build daemon".to_owned(),
            source,
        })?;
        Connection::over(Box::new(reader), Box::new(stream), store, options)
    }
}

/// `SCHEME` and `REST` of `SCHEME:REST`; `None` for a file name.
fn split_scheme(text: &[u8]) -> Option<(&str, &[u8])> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let scheme = std::str::from_utf8(&text[..colon]).ok()?;
    let proper = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    proper.then_some((scheme, &text[colon + 1..]))
}

/// Decodes `%` escapes; `None` if a `%` isn't followed by two hexadecimal digits, which the library
/// would leave as it is.
fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut escapes = text.split(|&byte| byte == b'%').skip(1);
    let proper =
        escapes.all(|escape| escape.len() >= 2 && escape[..2].iter().all(u8::is_ascii_hexdigit));
    proper.then(|| percent_encoding::percent_decode(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let parse = |text: &str| Address::parse(text.as_ref()).ok();
        let unix = |path: &str| Some(Address::Unix(path.into()));
        let tcp = |host: &str, port| {
            Some(Address::Tcp {
                host: host.to_owned(),
                port,
            })
        };
        assert_eq!(
            parse("/var/guix/daemon-socket/socket"),
            unix("/var/guix/daemon-socket/socket")
        );
        assert_eq!(parse("unix:/a%20b"), unix("/a b"));
        assert_eq!(parse("unix:/%25%2f%2F"), unix("/%//"));
        assert_eq!(parse("file:///a/b"), unix("/a/b"));
        assert_eq!(parse("guix://machine"), tcp("machine", 44146));
        assert_eq!(parse("guix://machine:1234"), tcp("machine", 1234));
        assert_eq!(parse("guix://[::1]:1234"), tcp("::1", 1234));
        assert_eq!(parse("guix://[::1]"), tcp("::1", 44146));
        assert_eq!(parse("guix://::1"), tcp("::1", 44146));
        for bad in [
            "ssh://machine",
            "guix:machine",
            "guix://",
            "guix://a:b",
            "guix://[::1]1234",
            "guix://[::1",
            "unix:/%zz",
            "unix:/%+f",
            "unix:/a%2",
            "unix:/%%41",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
