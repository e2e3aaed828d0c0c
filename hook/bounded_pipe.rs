//! A bounded in-memory pipe between two threads. A pipe of the kernel would copy the bytes twice.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The size of a block, in bytes.
const BLOCK_SIZE: usize = 1 << 20;
/// The capacity in blocks: about as much as a daemon asks for at a time, so that the next piece is
/// ready when it asks.
const BLOCKS: usize = 6;

/// Creates both ends.
pub fn bounded_pipe() -> (PipeWriter, PipeReader) {
    let (filled_sender, filled) = sync_channel(BLOCKS);
    let (used_sender, used) = sync_channel(BLOCKS);
    let writer = PipeWriter {
        filled: filled_sender,
        used,
        block: Vec::new(),
    };
    let reader = PipeReader {
        filled,
        used: used_sender,
        block: Vec::new(),
        position: 0,
    };
    (writer, reader)
}

/// The end for writing. The reader receives flushed data, and end of file when this end is dropped.
/// After the reader was dropped, writing fails with `EPIPE`.
pub struct PipeWriter {
    filled: SyncSender<Vec<u8>>,
    /// Blocks for reuse.
    used: Receiver<Vec<u8>>,
    block: Vec<u8>,
}

/// The end for reading.
pub struct PipeReader {
    filled: Receiver<Vec<u8>>,
    used: SyncSender<Vec<u8>>,
    block: Vec<u8>,
    position: usize,
}

impl Write for PipeWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(BLOCK_SIZE - self.block.len());
        self.block.reserve_exact(BLOCK_SIZE - self.block.len());
        self.block.extend_from_slice(&data[..count]);
        if self.block.len() == BLOCK_SIZE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let next = self.used.try_recv().unwrap_or_default();
        let block = std::mem::replace(&mut self.block, next);
        self.filled
            .send(block)
            .map_err(|_| io::Error::from_raw_os_error(libc::EPIPE))
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.block.len() {
            let Ok(next) = self.filled.recv() else {
                return Ok(0);
            };
            let mut block = std::mem::replace(&mut self.block, next);
            block.clear();
            // The writer may have been dropped.
            let _ = self.used.try_send(block);
            self.position = 0;
        }
        let left = &self.block[self.position..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.position += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_arrive_in_order_and_then_the_end() {
        let (mut writer, mut reader) = bounded_pipe();
        let sent: Vec<u8> = (0..20 * BLOCK_SIZE as u32 + 5)
            .map(|n| (n % 251) as u8)
            .collect();
        let expected = sent.clone();
        let writing = std::thread::spawn(move || {
            for piece in sent.chunks(BLOCK_SIZE / 3 + 1) {
                writer.write_all(piece).unwrap();
            }
            writer.flush().unwrap();
        });
        let mut arrived = Vec::new();
        reader.read_to_end(&mut arrived).unwrap();
        assert!(arrived == expected);
        writing.join().unwrap();
    }

    #[test]
    fn writing_without_a_reader_fails() {
        let (mut writer, reader) = bounded_pipe();
        drop(reader);
        writer.write_all(b"x").unwrap();
        let error = writer.flush().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
