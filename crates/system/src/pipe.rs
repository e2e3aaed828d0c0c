//! Pipes, socket pairs and small descriptor helpers. Everything is close-on-exec.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Makes a pipe; returns its read end and its write end, both close-on-exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// Makes a pair of connected stream sockets, both close-on-exec.
pub fn socket_pair() -> io::Result<(UnixStream, UnixStream)> {
    UnixStream::pair()
}

/// Opens `/dev/null` for reading and writing.
pub fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Switches the non-blocking mode of a descriptor's open file description on or off.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> io::Result<()> {
    let fd = fd.as_fd();
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Takes a descriptor that this process has inherited (for example, a hook's descriptor 4).
///
/// Returns `None` if the number is not open. The result is close-on-exec. The number itself is
/// duplicated, not consumed, so that this can't violate another owner's ownership.
pub fn inherited(number: RawFd) -> io::Result<Option<OwnedFd>> {
    // SAFETY: F_DUPFD_CLOEXEC only duplicates; an invalid number yields EBADF.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EBADF) {
            Ok(None)
        } else {
            Err(error)
        };
    }
    // SAFETY: fcntl has just created this descriptor, so nothing else owns it.
    Ok(Some(unsafe {
        <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(copy)
    }))
}

/// Gives an open descriptor another number, which is `least` or higher.
pub fn renumber(fd: OwnedFd, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl only takes numbers; the result is checked.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl has just created this descriptor, so nothing else owns it.
    Ok(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(copy) })
}

/// Has the program that this process executes next find this descriptor as `number`, which must not
/// be open.
pub fn pass_on(fd: OwnedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: both calls only take numbers, and nothing owns what isn't open.
    let placed = unsafe {
        match libc::fcntl(number, libc::F_GETFD) {
            -1 => libc::dup2(fd.as_raw_fd(), number),
            _ => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
        }
    };
    if placed < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The name under `/proc/self/fd` with which other system calls can access an open descriptor.
pub fn proc_path(fd: impl AsFd) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_pipe_carries_bytes_and_is_close_on_exec() {
        let (reader, writer) = pipe().unwrap();
        for fd in [&reader, &writer] {
            assert_eq!(fcntl(fd, FcntlArg::F_GETFD).unwrap(), libc::FD_CLOEXEC);
        }
        File::from(writer).write_all(b"abc").unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }

    #[test]
    fn nonblocking_reads_would_block() {
        let (reader, _writer) = pipe().unwrap();
        set_nonblocking(&reader, true).unwrap();
        let error = File::from(reader).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_descriptor_is_passed_on_only_as_a_free_number() {
        let (reader, _writer) = pipe().unwrap();
        let reader = renumber(reader, 900).unwrap();
        assert!(reader.as_raw_fd() >= 900);
        let taken = pass_on(reader, 2).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn an_unopened_number_is_not_inherited() {
        assert!(inherited(1_000_000).unwrap().is_none());
        assert!(inherited(2).unwrap().is_some());
    }
}
