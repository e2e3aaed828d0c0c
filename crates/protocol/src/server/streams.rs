//! Data that is transferred during an operation.

use std::io::{self, Read, Write};

use formats::wire::ReadExt;

use super::Error;
use super::connection::Connection;
use super::tunnel::Tunnel;
use crate::frames::{READ_MOST, READ_SIZE, WRITE_SIZE};

impl<R: Read> Connection<R> {
    /// During ImportPaths: the data from the client; with [`READ_AHEAD`](crate::frames::READ_AHEAD),
    /// pieces are asked for early.
    pub fn import_source(&mut self, read_ahead: bool) -> ImportSource<'_, R> {
        ImportSource::new(self, read_ahead)
    }

    /// During ExportPath: where to write the item. Has to be [finished](ExportSink::finish), even
    /// after an error.
    pub fn export_sink(&self) -> ExportSink {
        ExportSink::new(self.tunnel().clone())
    }
}

/// Data that the client sends piece by piece, on request.
///
/// The client may send more than is read; what is left of the last pieces is discarded by
/// [`ImportSource::finish`] or on drop.
pub struct ImportSource<'a, R: Read> {
    connection: &'a mut Connection<R>,
    /// What is left of the current piece, and its full size, in bytes.
    left: u64,
    size: u64,
    /// How much to ask for next, or what was asked for last, in bytes.
    wanted: usize,
    /// Whether the piece after a full one is asked for before that is read.
    read_ahead: bool,
    /// Whether a piece was asked for that has not begun to arrive.
    asked: bool,
    /// Whether an error has put the two sides out of step.
    failed: bool,
}

impl<'a, R: Read> ImportSource<'a, R> {
    fn new(connection: &'a mut Connection<R>, read_ahead: bool) -> Self {
        ImportSource {
            connection,
            left: 0,
            size: 0,
            wanted: READ_SIZE,
            read_ahead,
            asked: false,
            failed: false,
        }
    }

    fn ask(&mut self) -> io::Result<()> {
        self.connection.tunnel().ask(self.wanted)?;
        self.asked = true;
        Ok(())
    }

    /// Waits for the next piece. The client is done with it if it is not full, and may be, otherwise.
    fn next_piece(&mut self) -> io::Result<()> {
        if !self.asked {
            self.ask()?;
        }
        self.begin_piece()?;
        if self.size == self.wanted as u64 {
            self.wanted = (2 * self.wanted).min(READ_MOST);
            if self.read_ahead {
                self.ask()?;
            }
        }
        match self.size {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits for the piece that was asked for. After an empty one, log messages are allowed again.
    fn begin_piece(&mut self) -> io::Result<()> {
        self.failed = true;
        self.size = self.connection.reader().read_length(self.wanted as u64)?;
        self.failed = false;
        self.asked = false;
        self.left = self.size;
        match self.size {
            0 => self.resume(),
            _ => Ok(()),
        }
    }

    /// After the last byte of a piece, reads its padding, and allows log messages again unless the next one
    /// arrives.
    fn end_of_piece(&mut self) -> io::Result<()> {
        self.failed = true;
        self.connection.reader().read_padding(self.size)?;
        self.failed = false;
        if self.asked {
            return Ok(());
        }
        self.resume()
    }

    fn resume(&mut self) -> io::Result<()> {
        self.connection.begin().map_err(|error| match error {
            Error::Io(error) => error,
            Error::Gone => io::Error::new(io::ErrorKind::ConnectionReset, error),
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        })
    }

    /// Discards what is left of the last pieces. An error means that the connection has to be closed.
    pub fn finish(mut self) -> io::Result<()> {
        self.drop_rest()
    }

    fn drop_rest(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.drop_piece()?;
        if self.asked {
            self.begin_piece()?;
            self.drop_piece()?;
        }
        Ok(())
    }

    fn drop_piece(&mut self) -> io::Result<()> {
        let left = std::mem::take(&mut self.left);
        if left == 0 {
            return Ok(());
        }
        self.failed = true;
        let dropped = io::copy(&mut self.connection.reader().take(left), &mut io::sink())?;
        if dropped < left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end_of_piece()
    }
}

impl<R: Read> Read for ImportSource<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.failed {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.left == 0 {
            self.next_piece()?;
        }
        let most = self.left.min(buffer.len() as u64) as usize;
        let count = match self.connection.reader().read(&mut buffer[..most]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        };
        let count = match count {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.failed = true;
                return Err(error);
            }
            Ok(count) => count,
        };
        self.left -= count as u64;
        if self.left == 0 {
            self.end_of_piece()?;
        }
        Ok(count)
    }
}

impl<R: Read> Drop for ImportSource<'_, R> {
    fn drop(&mut self) {
        // If this leaves the connection out of step, the next request fails.
        let _ = self.drop_rest();
    }
}

/// Sends data to the client.
pub struct ExportSink {
    tunnel: Tunnel,
    buffer: Vec<u8>,
}

impl ExportSink {
    fn new(tunnel: Tunnel) -> Self {
        ExportSink {
            tunnel,
            buffer: Vec::with_capacity(WRITE_SIZE),
        }
    }

    /// Leaves the data that is still buffered to be sent with the reply.
    pub fn finish(self) {
        if !self.buffer.is_empty() {
            self.tunnel.write_data_later(&self.buffer);
        }
    }
}

impl Write for ExportSink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + data.len() > WRITE_SIZE {
            self.flush()?;
        }
        if data.len() >= WRITE_SIZE {
            self.tunnel.write_data(data)?;
        } else {
            self.buffer.extend_from_slice(data);
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let sent = self.tunnel.write_data(&self.buffer);
            self.buffer.clear();
            sent?;
        }
        Ok(())
    }
}
