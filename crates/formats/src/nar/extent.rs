//! Finding the end of a nar that is followed by other data.

use std::io::{self, Read};

use super::{MAGIC, MAX_DEPTH, MAX_TARGET};
use crate::wire::padding;

/// What the archive has next.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Magic,
    NodeOpen,
    Type,
    Kind,
    ContentsOrExecutable,
    Executable,
    Contents,
    Size,
    Data { left: u64, size: u64 },
    Target,
    TargetValue,
    NodeClose,
    EntryOrClose,
    EntryOpen,
    Name,
    NameValue,
    Node,
    EntryClose,
    End,
}

/// Yields the bytes of one nar from a reader, and then the end of file; what follows the nar stays
/// in the reader. A consumer that stops early, because of an error of its own, can
/// [drain](Extent::drain) the rest, so that the reader stays in step with the sender.
///
/// It only checks what it needs in order to find the end; the bytes still have to be
/// [read](super::read).
pub struct Extent<R> {
    source: R,
    next: Next,
    /// The number of open directories.
    depth: usize,
    /// Bytes that were read ahead to find out what comes next, and how many of them were yielded.
    pending: Vec<u8>,
    handed: usize,
}

impl<R: Read> Extent<R> {
    /// The nar that starts at the current position of `source`, which should be buffered.
    pub fn new(source: R) -> Self {
        Extent {
            source,
            next: Next::Magic,
            depth: 0,
            pending: Vec::new(),
            handed: 0,
        }
    }

    /// Whether the whole nar was yielded.
    pub fn is_complete(&self) -> bool {
        self.next == Next::End && self.handed == self.pending.len()
    }

    /// Reads the rest of the nar and discards it.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        while self.read(&mut buffer)? > 0 {}
        Ok(())
    }

    /// The reader, positioned after the nar if this [is complete](Extent::is_complete).
    pub fn into_inner(self) -> R {
        self.source
    }

    /// Reads `count` more bytes into `pending`, and returns where they begin.
    fn fetch(&mut self, count: usize) -> io::Result<usize> {
        let start = self.pending.len();
        self.pending.resize(start + count, 0);
        self.source.read_exact(&mut self.pending[start..])?;
        Ok(start)
    }

    /// Reads the next string or size.
    fn step(&mut self) -> io::Result<()> {
        self.pending.clear();
        self.handed = 0;
        self.fetch(8)?;
        let mut word = [0; 8];
        word.copy_from_slice(&self.pending);
        let word = u64::from_le_bytes(word);
        if self.next == Next::Size {
            return self.data(word, word);
        }
        if word > MAX_TARGET as u64 {
            return Err(malformed());
        }
        let length = word as usize;
        let start = self.fetch(length + padding(word))?;
        let token = &self.pending[start..start + length];
        self.next = match (self.next, token) {
            (Next::Magic, MAGIC) => Next::NodeOpen,
            (Next::NodeOpen, b"(") => Next::Type,
            (Next::Type, b"type") => Next::Kind,
            (Next::Kind, b"regular") => Next::ContentsOrExecutable,
            (Next::Kind, b"symlink") => Next::Target,
            (Next::Kind, b"directory") if self.depth < MAX_DEPTH => {
                self.depth += 1;
                Next::EntryOrClose
            }
            (Next::ContentsOrExecutable, b"executable") => Next::Executable,
            (Next::Executable, b"") => Next::Contents,
            (Next::ContentsOrExecutable | Next::Contents, b"contents") => Next::Size,
            (Next::Target, b"target") => Next::TargetValue,
            (Next::TargetValue, _) => Next::NodeClose,
            (Next::NodeClose, b")") => self.after_node(),
            (Next::EntryOrClose, b"entry") => Next::EntryOpen,
            (Next::EntryOrClose, b")") => {
                self.depth -= 1;
                self.after_node()
            }
            (Next::EntryOpen, b"(") => Next::Name,
            (Next::Name, b"name") => Next::NameValue,
            (Next::NameValue, _) => Next::Node,
            (Next::Node, b"node") => Next::NodeOpen,
            (Next::EntryClose, b")") => Next::EntryOrClose,
            _ => return Err(malformed()),
        };
        Ok(())
    }

    fn after_node(&self) -> Next {
        if self.depth == 0 {
            Next::End
        } else {
            Next::EntryClose
        }
    }

    /// Continues with the data of a file or, if nothing is `left`, with its padding.
    fn data(&mut self, left: u64, size: u64) -> io::Result<()> {
        self.next = if left == 0 {
            Next::NodeClose
        } else {
            Next::Data { left, size }
        };
        if left == 0 {
            self.fetch(padding(size)).map(drop)
        } else {
            Ok(())
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "bad archive: input is not a normalized archive",
    )
}

impl<R: Read> Read for Extent<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.handed < self.pending.len() {
                let count = buffer.len().min(self.pending.len() - self.handed);
                buffer[..count].copy_from_slice(&self.pending[self.handed..][..count]);
                self.handed += count;
                return Ok(count);
            }
            match self.next {
                Next::End => return Ok(0),
                Next::Data { left, size } => {
                    let most = left.min(buffer.len() as u64) as usize;
                    let count = self.source.read(&mut buffer[..most])?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.pending.clear();
                    self.handed = 0;
                    self.data(left - count as u64, size)?;
                    return Ok(count);
                }
                _ => self.step()?,
            }
        }
    }
}
