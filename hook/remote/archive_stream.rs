//! Archives through the standard input and output of a command on a machine: compressed if its
//! entry requests that, and checked for completeness, because a broken connection looks like end of
//! file.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::error::Error;
use super::remote_command::RemoteCommand;
use super::timed_stream::{Patience, TimedStream, Timeouts};

/// The size of buffers, in bytes.
const BUFFER: usize = 128 << 10;

/// Sends an archive to the command, compressed with zstd if a level is given, and closes its
/// standard input. `idle` is the timeout for any progress.
pub(super) fn send(
    command: &mut RemoteCommand,
    archive: &mut dyn Read,
    level: Option<i32>,
    idle: Duration,
) -> Result<(), Error> {
    let Some(input) = command.stdin.take() else {
        return Ok(());
    };
    input.set_timeouts(Timeouts::transfer(idle));
    let mut target = Target::new(input, level).map_err(|error| command.lost(&error))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match archive.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                return Err(Error::Local {
                    doing: "reading store items".to_owned(),
                    source,
                });
            }
        };
        let sent = target.write_all(&buffer[..count]);
        sent.map_err(|error| command.lost(&error))?;
    }
    target.finish().map_err(|error| command.lost(&error))
}

/// Writes the archive on the command's standard output to `sink`. Returns whether it is complete.
pub(super) fn receive(
    command: &mut RemoteCommand,
    sink: &mut dyn Write,
    compressed: bool,
    idle: Duration,
) -> Result<bool, Error> {
    let mut checked = EndCheck::new(sink);
    let mut buffer = vec![0; BUFFER];
    let mut patience = Patience::new(Timeouts::transfer(idle));
    let mut read = |command: &mut RemoteCommand, buffer: &mut [u8]| {
        let began = Instant::now();
        let left = patience.remaining().unwrap_or(idle);
        let count = command.read(buffer, began + left)?;
        patience.moved(count, began.elapsed());
        Ok::<usize, Error>(count)
    };
    if compressed {
        let mut decoder = zstd::stream::write::Decoder::new(&mut checked)
            .map_err(|error| command.lost(&error))?;
        loop {
            let count = read(command, &mut buffer)?;
            // Data that can't be decompressed is also the machine's fault.
            let written = match count {
                0 => decoder.flush(),
                count => decoder.write_all(&buffer[..count]),
            };
            if let Err(error) = written {
                let local = decoder.get_ref().failed;
                return Err(receive_error(command, local, error));
            }
            if count == 0 {
                break;
            }
        }
    } else {
        loop {
            let count = read(command, &mut buffer)?;
            if count == 0 {
                break;
            }
            if let Err(error) = checked.write_all(&buffer[..count]) {
                return Err(receive_error(command, true, error));
            }
        }
    }
    if let Err(error) = checked.flush() {
        return Err(receive_error(command, true, error));
    }
    Ok(checked.is_complete())
}

/// `local`: whether it was the sink that failed.
fn receive_error(command: &RemoteCommand, local: bool, source: io::Error) -> Error {
    match local {
        true => Error::Local {
            doing: "writing store items".to_owned(),
            source,
        },
        false => command.lost(&source),
    }
}

/// The standard input of the command.
enum Target {
    Plain(TimedStream),
    Compressed(Box<zstd::stream::write::Encoder<'static, TimedStream>>),
}

impl Target {
    fn new(input: TimedStream, level: Option<i32>) -> io::Result<Target> {
        Ok(match level {
            None => Target::Plain(input),
            Some(level) => {
                Target::Compressed(Box::new(zstd::stream::write::Encoder::new(input, level)?))
            }
        })
    }

    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Target::Plain(input) => input.write_all(data),
            Target::Compressed(encoder) => encoder.write_all(data),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Target::Plain(_) => Ok(()),
            Target::Compressed(encoder) => encoder.finish().map(drop),
        }
    }
}

/// Forwards an archive and keeps its last eight bytes: a complete archive ends with zeros.
struct EndCheck<'a> {
    sink: &'a mut dyn Write,
    last: [u8; 8],
    length: u64,
    /// Whether writing to the sink failed.
    failed: bool,
}

impl<'a> EndCheck<'a> {
    fn new(sink: &'a mut dyn Write) -> EndCheck<'a> {
        EndCheck {
            sink,
            last: [1; 8],
            length: 0,
            failed: false,
        }
    }

    fn is_complete(&self) -> bool {
        self.length >= 8 && self.length % 8 == 0 && self.last == [0; 8]
    }
}

impl Write for EndCheck<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.sink.write_all(data);
        self.failed |= written.is_err();
        written?;
        self.length += data.len() as u64;
        let mut both = [0; 16];
        let tail = &data[data.len().saturating_sub(8)..];
        both[..8].copy_from_slice(&self.last);
        both[8..8 + tail.len()].copy_from_slice(tail);
        self.last.copy_from_slice(&both[tail.len()..tail.len() + 8]);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.sink.flush();
        self.failed |= flushed.is_err();
        flushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_archive_is_recognised() {
        let complete = |pieces: &[&[u8]]| {
            let mut out = Vec::new();
            let mut end = EndCheck::new(&mut out);
            pieces
                .iter()
                .for_each(|piece| end.write_all(piece).unwrap());
            end.is_complete()
        };
        assert!(complete(&[&[0; 8]]));
        assert!(complete(&[&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0; 6]]));
        assert!(!complete(&[]));
        assert!(!complete(&[&[0; 7]]));
        assert!(!complete(&[&[0; 8], &[1, 0, 0, 0, 0, 0, 0, 0]]));
    }
}
