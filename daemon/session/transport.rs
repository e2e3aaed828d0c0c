//! The client's socket, as the types that [`protocol::server`] reads from, writes to and watches.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use protocol::server::{Activity, Watch};
use system::poll::{PollFd, PollFlags, is_ready, poll};

use crate::stream::Stream;

/// Reads from the client.
pub struct Reader(pub Arc<Stream>);

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

/// Writes to the client.
pub struct Writer(pub Arc<Stream>);

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&*self.0).write(data)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &*self.0 {
            Stream::Unix(stream) => (&mut &*stream).write_vectored(parts),
            Stream::Tcp(stream) => (&mut &*stream).write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks for data from the client without reading it.
pub struct Peeker(pub Arc<Stream>);

impl Watch for Peeker {
    fn activity(&self) -> io::Result<Activity> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, Some(Duration::ZERO))?;
        if !is_ready(&fds[0]) {
            return Ok(Activity::Quiet);
        }
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.0.as_fd().as_raw_fd(), &mut [0], flags) {
            Ok(0) | Err(Errno::ECONNRESET) => Ok(Activity::Closed),
            Ok(_) => Ok(Activity::Data),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Activity::Quiet),
            Err(error) => Err(error.into()),
        }
    }
}
