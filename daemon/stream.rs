//! A client's socket, and the client's identity.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{MsgFlags, send};
use system::ids::{self, NOBODY};
use system::socket;

use crate::shared_limit::ClientKey;

/// A client's socket.
#[derive(Debug)]
pub enum Stream {
    /// A Unix socket, for clients on this machine.
    Unix(UnixStream),
    /// A TCP socket, for remote clients.
    Tcp(TcpStream),
}

/// The client's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process on this machine, as it was when it connected.
    Local(socket::PeerCredentials),
    /// A client over TCP, of which only the address is known.
    Remote(IpAddr),
}

impl Peer {
    /// Whose connections, memory and so on are counted together.
    pub fn client(&self) -> ClientKey {
        match self {
            Peer::Local(peer) => ClientKey::User(peer.uid),
            Peer::Remote(address) => ClientKey::at(*address),
        }
    }

    /// Whether the client may use privileged operations: it is root, or the daemon's own user, who
    /// owns the store. In a user namespace, [`NOBODY`] stands for all users without an id there.
    pub fn trusted(&self) -> bool {
        let is_own = |uid| uid == ids::real_uid() && uid != NOBODY;
        matches!(self, Peer::Local(peer) if peer.uid == 0 || is_own(peer.uid))
    }
}

impl Stream {
    /// The client's identity.
    pub fn peer(&self) -> io::Result<Peer> {
        match self {
            Stream::Unix(stream) => Ok(Peer::Local(socket::peer(stream)?)),
            Stream::Tcp(stream) => Ok(Peer::Remote(stream.peer_addr()?.ip())),
        }
    }

    /// Sends small messages immediately (`TCP_NODELAY`). If that fails, they are only delayed.
    pub fn set_nodelay(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = stream.set_nodelay(true);
        }
    }

    /// Sends as much of `data` as possible without blocking. Errors are ignored.
    pub fn send_without_waiting(&self, data: &[u8]) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(self.as_fd().as_raw_fd(), data, flags);
    }

    /// Shuts down sending to the client, which may still send.
    pub fn end_sending(&self) {
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// Shuts down the connection and wakes all its readers and writers, on both sides.
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
