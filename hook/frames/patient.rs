//! Writing to a pipe whose reader takes little at a time.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use system::pipe;
use system::poll::{PollFd, PollFlags, poll};

/// How long a full pipe is left to its reader.
const NAP: Duration = Duration::from_millis(1);
/// After so many times in which it has taken nothing, the kernel is asked to tell when it has.
const NAPS: u32 = 5;

/// Writes to a pipe that is wide ([`pipe::widen`]) and that something else empties by a KiB at a time, as
/// Slurm does.
///
/// The kernel wakes whoever waits to write once there is room for a page. A writer that is awake for each
/// page takes the processor from the reader, which has just woken it.
pub struct PatientPipe(File);

impl PatientPipe {
    /// A writer of this end of a pipe, or of something else, which is only written to by this.
    pub fn new(pipe: File) -> io::Result<PatientPipe> {
        pipe::widen(&pipe);
        pipe::set_nonblocking(&pipe, true)?;
        Ok(PatientPipe(pipe))
    }
}

impl Write for PatientPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut naps = 0;
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
            if naps < NAPS {
                naps += 1;
                std::thread::sleep(NAP);
            } else {
                poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)], None)?;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
