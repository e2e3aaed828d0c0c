//! Writing nars.

use std::io::{self, Read, Write};

use bstr::BStr;

use super::{MAGIC, Sink};
use crate::wire::WriteExt;

/// How many bytes of a file are moved at a time.
const CHUNK: usize = 128 * 1024;

/// Writes a nar, node by node: what `read` tells a [`Sink`] can be told a writer. `W` gets
/// small pieces and should be buffered; whole files go to it in large ones.
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

    /// What was written to.
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

    /// Takes exactly `size` bytes of `contents`, and fails if there are less.
    fn regular(&mut self, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        self.begin_node("regular")?;
        if executable {
            self.tokens(["executable", ""])?;
        }
        self.target.write_bytes("contents")?;
        self.target.write_u64(size)?;
        let mut left = size;
        while left > 0 {
            let most = left.min(CHUNK as u64) as usize;
            if self.buffer.len() < most {
                self.buffer.resize(most, 0);
            }
            match contents.read(&mut self.buffer[..most]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.target.write_all(&self.buffer[..count])?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.target.write_padding(size)?;
        self.end_node()
    }
}

/// The nar of a single file, in memory.
pub fn of_file(executable: bool, contents: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::with_capacity(contents.len() + 128));
    // Writing to memory what is in memory can't fail.
    let _ = writer.regular(executable, contents.len() as u64, &mut { contents });
    writer.into_inner()
}
