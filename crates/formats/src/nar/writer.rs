//! Writing nars.

use std::io::{self, Read, Write};

use bstr::BStr;

use super::{MAGIC, Sink};
use crate::wire::WriteExt;

/// How much of a file is copied at a time, in bytes.
const FILE_CHUNK_SIZE: usize = 128 * 1024;

/// Writes a nar, node by node. It is a [`Sink`], so the output of `read` can go straight into it.
/// `W` gets small writes and should be buffered; files' contents are written in large pieces.
///
/// ```
/// use formats::nar::{Sink, Writer, read};
///
/// let mut writer = Writer::new(Vec::new());
/// writer.begin_directory()?;
/// writer.entry("link".into())?;
/// writer.symlink("target".into())?;
/// writer.end_directory()?;
/// let nar = writer.into_inner();
///
/// let mut copy = Writer::new(Vec::new());
/// read(&mut nar.as_slice(), &mut copy)?;
/// assert_eq!(copy.into_inner(), nar);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Writer<W> {
    target: W,
    begun: bool,
    depth: usize,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes a nar to `target`.
    pub fn new(target: W) -> Self {
        Writer {
            target,
            begun: false,
            depth: 0,
            buffer: Vec::new(),
        }
    }

    /// The underlying writer.
    pub fn into_inner(self) -> W {
        self.target
    }

    fn begin_node(&mut self, kind: &str) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            self.target.write_bytes(MAGIC)?;
        }
        self.tokens(["(", "type", kind])
    }

    fn end_node(&mut self) -> io::Result<()> {
        self.target.write_bytes(")")?;
        if self.depth > 0 {
            self.target.write_bytes(")")
        } else {
            Ok(())
        }
    }

    /// Begins a regular file of `size` bytes, which have to follow in calls of
    /// [`write_contents`](Self::write_contents), and then [`end_regular`](Self::end_regular).
    pub fn begin_regular(&mut self, executable: bool, size: u64) -> io::Result<()> {
        self.begin_node("regular")?;
        if executable {
            self.tokens(["executable", ""])?;
        }
        self.target.write_bytes("contents")?;
        self.target.write_u64(size)
    }

    /// Writes the next bytes of a regular file.
    pub fn write_contents(&mut self, data: &[u8]) -> io::Result<()> {
        self.target.write_all(data)
    }

    /// Ends a regular file of `size` bytes.
    pub fn end_regular(&mut self, size: u64) -> io::Result<()> {
        self.target.write_padding(size)?;
        self.end_node()
    }

    /// Writes `size` bytes of `contents`, through `buffer`.
    fn copy(&mut self, size: u64, contents: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<()> {
        let most = size.min(FILE_CHUNK_SIZE as u64) as usize;
        if buffer.len() < most {
            buffer.resize(most, 0);
        }
        let mut left = size;
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            match contents.read(&mut buffer[..most]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.write_contents(&buffer[..count])?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn tokens<const N: usize>(&mut self, tokens: [&str; N]) -> io::Result<()> {
        tokens
            .into_iter()
            .try_for_each(|token| self.target.write_bytes(token))
    }
}

impl<W: Write> Sink for Writer<W> {
    fn begin_directory(&mut self) -> io::Result<()> {
        self.begin_node("directory")?;
        self.depth += 1;
        Ok(())
    }

    fn entry(&mut self, name: &BStr) -> io::Result<()> {
        self.tokens(["entry", "(", "name"])?;
        self.target.write_bytes(name)?;
        self.target.write_bytes("node")
    }

    fn end_directory(&mut self) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        self.end_node()
    }

    fn symlink(&mut self, target: &BStr) -> io::Result<()> {
        self.begin_node("symlink")?;
        self.target.write_bytes("target")?;
        self.target.write_bytes(target)?;
        self.end_node()
    }

    /// Writes exactly `size` bytes of `contents`, and fails if there are fewer.
    fn regular(&mut self, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        self.begin_regular(executable, size)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let copied = self.copy(size, contents, &mut buffer);
        self.buffer = buffer;
        copied?;
        self.end_regular(size)
    }
}

/// The nar of a single file, in memory.
pub fn of_file(executable: bool, contents: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::with_capacity(contents.len() + 128));
    // Copying from memory to memory can't fail.
    let _ = writer.regular(executable, contents.len() as u64, &mut { contents });
    writer.into_inner()
}
