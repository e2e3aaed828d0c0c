//! Unix sockets: long names, credentials, descriptor passing.
//!
//! The kernel limits names to 108 bytes. Longer ones are accessed through an open directory, as
//! `/proc/self/fd/N/NAME`, which doesn't change the state of the process. (Guix changes its working
//! directory instead, which isn't possible with threads.)

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, sockopt};

use crate::pipe;
use crate::tree::Dir;

/// The credentials of the peer of a Unix connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The process that connected.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has the socket open; it may be about to close it.
    #[error("cannot bind to socket `{}': a daemon is already listening there", path.display())]
    InUse {
        /// The socket's name.
        path: PathBuf,
        /// A connection to it, which ends when the other process closes the socket.
        connection: UnixStream,
    },
    /// The file exists and isn't a socket.
    #[error("cannot bind to socket `{}': the file exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// Any other error.
    #[error("cannot bind to socket `{}': {source}", path.display())]
    Io {
        /// The socket's name.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Listens on a Unix socket with this name, which may be long, with mode 0666.
///
/// Replaces a socket that a dead process left behind, but never one that a process has open: then
/// the error has a connection to it.
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let io = |source| BindError::Io {
        path: path.into(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.into()));
        }
        Ok(_) => {
            if let Some(connection) = connect_if_alive(path).map_err(io)? {
                return Err(BindError::InUse {
                    path: path.into(),
                    connection,
                });
            }
            std::fs::remove_file(path).map_err(io)?;
        }
    }
    let listener = with_short_name(path, |name| UnixListener::bind(name)).map_err(io)?;
    // The umask may have removed write permission, which clients need to connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(io)?;
    Ok(listener)
}

/// Connects to a Unix socket with this name, which may be long.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    with_short_name(path, |name| UnixStream::connect(name))
}

/// The same; if whoever listens there doesn't accept within this time (its queue is full), an error.
pub fn connect_within(path: &Path, time: Duration) -> io::Result<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let flags = SockFlag::SOCK_CLOEXEC;
    let stream = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
    // The time for sending is that for connecting, too (`unix(7)`).
    stream.set_write_timeout(Some(time))?;
    with_short_name(path, |name| {
        Ok(connect(stream.as_raw_fd(), &UnixAddr::new(name)?)?)
    })?;
    Ok(stream)
}

/// Whether a process accepts connections on the socket with this name.
pub fn is_alive(path: &Path) -> io::Result<bool> {
    Ok(connect_if_alive(path)?.is_some())
}

fn connect_if_alive(path: &Path) -> io::Result<Option<UnixStream>> {
    match connect(path) {
        Ok(connection) => Ok(Some(connection)),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        },
    }
}

/// Calls `use_name` with a name for the path that fits into a socket address.
fn with_short_name<T>(path: &Path, use_name: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    const LIMIT: usize = 107;
    if path.as_os_str().len() <= LIMIT {
        return use_name(path);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = Dir::open(std::fs::canonicalize(parent)?)?;
    let short = pipe::proc_path(&directory).join(name);
    if short.as_os_str().len() > LIMIT {
        let message = format!(
            "the socket's name `{}' is too long",
            Path::new(name).display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    use_name(&short)
}

/// The credentials of the peer.
pub fn peer(stream: &UnixStream) -> io::Result<PeerCredentials> {
    let credentials = nix::sys::socket::getsockopt(stream, sockopt::PeerCredentials)?;
    Ok(PeerCredentials {
        pid: credentials.pid(),
        uid: credentials.uid(),
        gid: credentials.gid(),
    })
}

/// Whether the process at the other end is in this process's user namespace. `None` if the kernel can't
/// say which process that is (before Linux 6.5): the number that it had may be another's by now.
///
/// False for a process that has ended, and for one whose namespaces this process may not look at.
pub fn peer_shares_user_namespace(stream: &UnixStream) -> Option<bool> {
    let process = match nix::sys::socket::getsockopt(stream, sockopt::PeerPidfd) {
        Ok(process) => process,
        Err(nix::errno::Errno::ENOPROTOOPT) => return None,
        // Its process has ended.
        Err(_) => return Some(false),
    };
    Some(shares_user_namespace(&process).unwrap_or(false))
}

/// Whether the process of a pidfd runs, in this process's user namespace.
fn shares_user_namespace(process: &OwnedFd) -> io::Result<bool> {
    let info = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let info = std::fs::read_to_string(info)?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    // 0 or -1 if this `/proc` doesn't have it.
    let Some(number) = number.and_then(|number| number.trim().parse::<u32>().ok()) else {
        return Ok(false);
    };
    let namespace = |process: &str| {
        let metadata = std::fs::metadata(format!("/proc/{process}/ns/user"))?;
        io::Result::Ok((metadata.dev(), metadata.ino()))
    };
    let same = namespace(&number.to_string())? == namespace("self")?;
    // If it still runs, the number was its own all the time.
    let ended = crate::poll::wait_readable(process, Some(Duration::ZERO))?;
    Ok(same && !ended)
}

/// Sends bytes (at least one) together with open files.
pub fn send_with_fds(stream: &UnixStream, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let sent = send(stream, bytes, fds, MsgFlags::empty())?;
    io::Write::write_all(&mut &*stream, &bytes[sent..])
}

/// Sends as many of `bytes` (at least one) as can be sent without waiting, together with open files,
/// which have gone if this succeeds. Fails with [`io::ErrorKind::WouldBlock`] if none can be sent.
pub fn send_some(stream: &UnixStream, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    send(stream, bytes, fds, MsgFlags::MSG_DONTWAIT)
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[RawFd], flags: MsgFlags) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let messages = if fds.is_empty() {
        &rights[..0]
    } else {
        &rights[..]
    };
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    let bytes = [IoSlice::new(bytes)];
    let sent = nix::sys::socket::sendmsg::<()>(stream.as_raw_fd(), &bytes, messages, flags, None)?;
    Ok(sent)
}

/// Receives bytes and the open files sent with them (four at most), all close-on-exec. Returns no
/// bytes if the peer has closed the connection.
pub fn receive_with_fds(
    stream: &UnixStream,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = loop {
        match nix::sys::socket::recvmsg::<()>(
            stream.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                // SAFETY: the kernel has just created this descriptor for us.
                fds.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::time::Instant;

    fn long_path(base: &Path) -> PathBuf {
        let directory = base.join("x".repeat(100)).join("y".repeat(100));
        std::fs::create_dir_all(&directory).unwrap();
        directory.join("socket")
    }

    #[test]
    fn sockets_with_long_names_are_bound_and_reached() {
        let scratch = tempfile::tempdir().unwrap();
        for path in [scratch.path().join("short"), long_path(scratch.path())] {
            let listener = bind(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
            let mut client = connect(&path).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"hello").unwrap();
            let mut text = [0; 5];
            server.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"hello");
            let peer = peer(&server).unwrap();
            assert_eq!(peer.pid, std::process::id() as i32);
            assert_eq!(
                (peer.uid, peer.gid),
                (crate::ids::effective_uid(), crate::ids::effective_gid())
            );
        }
    }

    #[test]
    fn living_sockets_are_kept_and_dead_ones_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("socket");
        let listener = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(BindError::InUse { .. })));
        assert!(is_alive(&path).unwrap());
        drop(listener);
        // Other tests start processes, which have a copy of the listener between fork and exec.
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_alive(&path).unwrap() {
            assert!(
                Instant::now() < deadline,
                "the closed socket is still alive"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn open_files_travel_with_bytes() {
        let (ours, theirs) = pipe::socket_pair().unwrap();
        let (reader, writer) = pipe::pipe().unwrap();
        send_with_fds(&ours, b"\0", &[reader.as_raw_fd()]).unwrap();
        drop(reader);
        let mut byte = [1; 4];
        let (count, mut fds) = receive_with_fds(&theirs, &mut byte).unwrap();
        assert_eq!((count, byte[0], fds.len()), (1, 0, 1));
        std::fs::File::from(writer).write_all(b"through").unwrap();
        let mut text = String::new();
        std::fs::File::from(fds.remove(0))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "through");
        drop(ours);
        assert_eq!(receive_with_fds(&theirs, &mut byte).unwrap().0, 0);
    }
}
