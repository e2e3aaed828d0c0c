//! Reading the greeting and frames.

use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use super::PAYLOAD_LIMIT;
use super::compression::Decompressor;
use super::error::FrameError;
use super::frame::{Frame, HEADER, Header, Kind};
use super::greeting::{Greeting, Search};

/// The size of the buffer: the longest frame.
const BUFFER: usize = HEADER + PAYLOAD_LIMIT;
/// A reader that gets less than this at a time, and lacks more, is faster than what comes before it.
const LITTLE: usize = 8 << 10;
/// How long it waits then for more to come. (A pipe holds what comes meanwhile.)
const NAP: Duration = Duration::from_micros(300);

/// Reads what the other side sends. It holds one frame, and the window of the decompressor.
///
/// ```
/// use hook::frames::{FrameReader, FrameWriter, Kind};
///
/// let mut stream = b"Welcome to node 7\n$ ".to_vec();
/// let mut writer = FrameWriter::new(&mut stream);
/// writer.greet()?;
/// writer.write(Kind::Open, 1, b"")?;
///
/// let mut reader = FrameReader::new(&stream[..]);
/// assert_eq!(reader.greeting()?.before, "Welcome to node 7\n$");
/// let frame = reader.next()?.expect("there is a frame");
/// assert_eq!((frame.kind, frame.channel), (Kind::Open, 1));
/// assert!(reader.next()?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FrameReader<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    decompressor: Option<Decompressor>,
}

impl<R: Read> FrameReader<R> {
    /// A reader of this stream, of which nothing was read.
    pub fn new(source: R) -> FrameReader<R> {
        FrameReader {
            source,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            decompressor: None,
        }
    }

    /// Reads the greeting, and skips what comes before it.
    pub fn greeting(&mut self) -> Result<Greeting, FrameError> {
        let mut search = Search::default();
        loop {
            while self.start < self.end {
                let byte = self.buffer[self.start];
                self.start += 1;
                if let Some(greeting) = search.take(byte)? {
                    return Ok(greeting);
                }
            }
            if !self.fill()? {
                return Err(search.ended());
            }
        }
    }

    /// Reads the next frame; `None` at the end of the stream.
    #[allow(clippy::should_implement_trait, reason = "it lends its buffer")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        if !self.has(HEADER)? {
            return match self.start == self.end {
                true => Ok(None),
                false => Err(FrameError::Cut),
            };
        }
        let mut header = [0; HEADER];
        header.copy_from_slice(&self.buffer[self.start..self.start + HEADER]);
        let header = Header::decode(header)?;
        self.start += HEADER;
        if !self.has(header.length)? {
            return Err(FrameError::Cut);
        }
        let payload = &self.buffer[self.start..self.start + header.length];
        self.start += header.length;
        let payload = if header.compressed {
            if header.kind != Kind::Data {
                return Err(FrameError::Payload {
                    frame: header.kind.name(),
                    reason: "only data is compressed".to_owned(),
                });
            }
            let decompressor = match self.decompressor.take() {
                Some(decompressor) => decompressor,
                None => Decompressor::new()?,
            };
            let decompressor = self.decompressor.insert(decompressor);
            decompressor.decompress(payload)?
        } else {
            payload
        };
        Ok(Some(Frame {
            kind: header.kind,
            channel: header.channel,
            payload,
        }))
    }

    /// Reads until the buffer has `count` bytes; returns false at the end of the stream.
    ///
    /// Slurm passes on a KiB at a time. A reader that is awake for each of them takes the processor from
    /// Slurm's daemon, which has just woken it.
    fn has(&mut self, count: usize) -> Result<bool, FrameError> {
        loop {
            let before = self.end - self.start;
            if before >= count {
                return Ok(true);
            }
            if !self.fill()? {
                return Ok(false);
            }
            let now = self.end - self.start;
            if now - before < LITTLE && now + LITTLE < count {
                thread::sleep(NAP);
            }
        }
    }

    /// Reads some bytes; returns false at the end of the stream.
    fn fill(&mut self) -> Result<bool, FrameError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.end += count;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
