//! Bytes from one thread to another: a pipe without the kernel, which would copy them twice.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How much is handed over at a time.
const LOAD: usize = 1 << 20;
/// How many loads may lie in between: about what a daemon asks for at a time, so that the next
/// piece is ready when it does.
const LOADS: usize = 6;

/// Makes both ends.
pub fn belt() -> (Feeder, Taker) {
    let (full, arriving) = sync_channel(LOADS);
    let (emptied, empty) = sync_channel(LOADS);
    let feeder = Feeder {
        full,
        empty,
        load: Vec::new(),
    };
    let taker = Taker {
        arriving,
        emptied,
        load: Vec::new(),
        taken: 0,
    };
    (feeder, taker)
}

/// The end to write to. What has been flushed arrives; the other end sees the end of file when this
/// one is dropped. Without the other end, writing fails with `EPIPE`.
pub struct Feeder {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    load: Vec<u8>,
}

/// The end to read from.
pub struct Taker {
    arriving: Receiver<Vec<u8>>,
    emptied: SyncSender<Vec<u8>>,
    load: Vec<u8>,
    taken: usize,
}

impl Write for Feeder {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(LOAD - self.load.len());
        self.load.reserve_exact(LOAD - self.load.len());
        self.load.extend_from_slice(&data[..count]);
        if self.load.len() == LOAD {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.load.is_empty() {
            return Ok(());
        }
        let next = self.empty.try_recv().unwrap_or_default();
        let load = std::mem::replace(&mut self.load, next);
        self.full
            .send(load)
            .map_err(|_| io::Error::from_raw_os_error(libc::EPIPE))
    }
}

impl Read for Taker {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.load.len() {
            let Ok(next) = self.arriving.recv() else {
                return Ok(0);
            };
            let mut load = std::mem::replace(&mut self.load, next);
            load.clear();
            // Nobody may want it any more.
            let _ = self.emptied.try_send(load);
            self.taken = 0;
        }
        let left = &self.load[self.taken..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_arrives_in_order_and_the_end() {
        let (mut feeder, mut taker) = belt();
        let sent: Vec<u8> = (0..20 * LOAD as u32 + 5).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let feeding = std::thread::spawn(move || {
            for piece in sent.chunks(LOAD / 3 + 1) {
                feeder.write_all(piece).unwrap();
            }
            feeder.flush().unwrap();
        });
        let mut arrived = Vec::new();
        taker.read_to_end(&mut arrived).unwrap();
        assert!(arrived == expected);
        feeding.join().unwrap();
    }

    #[test]
    fn nobody_feeds_for_nobody() {
        let (mut feeder, taker) = belt();
        drop(taker);
        feeder.write_all(b"x").unwrap();
        let error = feeder.flush().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
