//! A client's socket, and the client's identity.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{MsgFlags, send};
use system::ids::{self, NOBODY};
use system::socket::{self, PeerCredentials};

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
    /// A process on this machine.
    Local(LocalPeer),
    /// A client over TCP, of which only the address is known.
    Remote(IpAddr),
}

/// A process on this machine that has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPeer {
    /// The process, as it was when it connected.
    pub process: PeerCredentials,
    /// Whether it may use privileged operations.
    pub trusted: bool,
}

impl Peer {
    /// Whose connections, memory and so on are counted together.
    pub fn client(&self) -> ClientKey {
        match self {
            Peer::Local(peer) => ClientKey::User(peer.process.uid),
            Peer::Remote(address) => ClientKey::at(*address),
        }
    }

    /// Whether the client may use privileged operations.
    pub fn trusted(&self) -> bool {
        matches!(self, Peer::Local(peer) if peer.trusted)
    }
}

impl Stream {
    /// The client's identity; `files_shown` is whether builds see directories of this machine.
    pub fn peer(&self, files_shown: bool) -> io::Result<Peer> {
        match self {
            Stream::Unix(stream) => {
                let process = socket::peer(stream)?;
                let trusted = is_trusted(process.uid, || {
                    socket::peer_shares_user_namespace(stream).unwrap_or(!files_shown)
                });
                Ok(Peer::Local(LocalPeer { process, trusted }))
            }
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

/// Whether a user of this machine may use privileged operations: root may, and the daemon's own user,
/// who owns the store.
///
/// Builders of a daemon that isn't root are that user, too, in user namespaces of their own. They have no way
/// to the daemon's socket but one: a user hands them a descriptor, by a socket in a directory that
/// `--chroot-directory` shows. So the own user counts only in the daemon's own namespace.
///
/// If the daemon itself is in a user namespace, [`NOBODY`] is everybody without an id there.
fn is_trusted(uid: u32, in_own_namespace: impl FnOnce() -> bool) -> bool {
    uid == 0 || (uid == ids::real_uid() && uid != NOBODY && in_own_namespace())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemons_own_user_in_its_own_namespace_are_trusted() {
        let own = ids::real_uid();
        assert!(is_trusted(0, || panic!("root is trusted anywhere")));
        assert!(is_trusted(own, || true));
        assert_eq!(is_trusted(own, || false), own == 0);
        assert!(!is_trusted(own + 1000, || panic!(
            "others are trusted nowhere"
        )));
    }

    #[test]
    fn a_process_of_this_namespace_is_known_as_such() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        for files_shown in [false, true] {
            let peer = Stream::Unix(ours.try_clone().unwrap()).peer(files_shown);
            let Ok(Peer::Local(peer)) = peer else {
                panic!("{peer:?}");
            };
            assert_eq!(peer.process.pid, std::process::id() as i32);
            assert!(peer.trusted);
        }
    }
}
