//! Archives, through the standard input and output of a command on a machine: compressed if the
//! link to it is slow, and with an end that is told from a connection that broke.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::Error;
use super::session::Session;
use super::stream::{Patience, Stream};

/// How much is moved at a time.
const BUFFER: usize = 128 << 10;

impl Session {
    /// Sends an archive, compressed with zstd if a level is given, and closes the standard input.
    pub fn send(
        &mut self,
        archive: &mut dyn Read,
        level: Option<i32>,
        silence: Duration,
    ) -> Result<(), Error> {
        let Some(input) = self.input.take() else {
            return Ok(());
        };
        input.set_patience(Patience::of_silence(silence));
        let mut target = Target::new(input, level).map_err(|error| self.lost(&error))?;
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
            sent.map_err(|error| self.lost(&error))?;
        }
        target.finish().map_err(|error| self.lost(&error))
    }

    /// Writes the archive on its standard output to `sink`. Returns whether it ends as an archive
    /// does.
    pub fn receive(
        &mut self,
        sink: &mut dyn Write,
        compressed: bool,
        silence: Duration,
    ) -> Result<bool, Error> {
        let mut end = End::new(sink);
        let mut buffer = vec![0; BUFFER];
        if compressed {
            let mut decoder =
                zstd::stream::write::Decoder::new(&mut end).map_err(|error| self.lost(&error))?;
            loop {
                let count = self.read(&mut buffer, Instant::now() + silence)?;
                // Data that can't be decompressed come from there, too.
                let written = match count {
                    0 => decoder.flush(),
                    count => decoder.write_all(&buffer[..count]),
                };
                if let Err(error) = written {
                    let local = decoder.get_ref().failed;
                    return Err(self.end_error(local, error));
                }
                if count == 0 {
                    break;
                }
            }
        } else {
            loop {
                let count = self.read(&mut buffer, Instant::now() + silence)?;
                if count == 0 {
                    break;
                }
                if let Err(error) = end.write_all(&buffer[..count]) {
                    return Err(self.end_error(true, error));
                }
            }
        }
        if let Err(error) = end.flush() {
            return Err(self.end_error(true, error));
        }
        Ok(end.is_complete())
    }

    fn end_error(&self, local: bool, source: io::Error) -> Error {
        match local {
            true => Error::Local {
                doing: "writing store items".to_owned(),
                source,
            },
            false => self.lost(&source),
        }
    }
}

/// The standard input of the command.
enum Target {
    Plain(Stream),
    Compressed(Box<zstd::stream::write::Encoder<'static, Stream>>),
}

impl Target {
    fn new(input: Stream, level: Option<i32>) -> io::Result<Target> {
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

/// Passes an archive on, and remembers its last word: every archive ends with a word of zeros.
struct End<'a> {
    sink: &'a mut dyn Write,
    last: [u8; 8],
    length: u64,
    /// It is the sink that failed.
    failed: bool,
}

impl<'a> End<'a> {
    fn new(sink: &'a mut dyn Write) -> End<'a> {
        End {
            sink,
            last: [1; 8],
            length: 0,
            failed: false,
        }
    }

    fn is_complete(&self) -> bool {
        self.length >= 8 && self.length.is_multiple_of(8) && self.last == [0; 8]
    }
}

impl Write for End<'_> {
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
    fn the_end_of_an_archive_is_known() {
        let complete = |pieces: &[&[u8]]| {
            let mut out = Vec::new();
            let mut end = End::new(&mut out);
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
