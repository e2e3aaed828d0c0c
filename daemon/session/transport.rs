//! The client's connection in the forms that [`protocol::server`] wants.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use protocol::server::{Activity, Watch};
use system::poll::{PollFd, PollFlags, is_ready, poll};

use crate::stream::Stream;

/// What the client sends.
pub struct Reader(pub Arc<Stream>);

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

/// What is sent to the client.
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

/// A look at the client that takes nothing from it.
pub struct Watched(pub Arc<Stream>);

impl Watch for Watched {
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
