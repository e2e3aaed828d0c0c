//! Messages about how far a transfer is.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::stderr_line;

/// How often something is said.
const INTERVAL: Duration = Duration::from_secs(5);

/// A source that says every few seconds how much was read from it.
pub struct TransferProgress<R> {
    source: R,
    /// What is done, such as `sending to 'build1'`.
    doing: String,
    /// How much there is to read, in bytes, if that is known.
    total: Option<u64>,
    done: u64,
    next_message: Instant,
}

impl<R> TransferProgress<R> {
    /// Nothing was read yet.
    pub fn new(source: R, doing: String, total: Option<u64>) -> TransferProgress<R> {
        TransferProgress {
            source,
            doing,
            total,
            done: 0,
            next_message: Instant::now() + INTERVAL,
        }
    }

    /// How many bytes were read.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// How far it is, in words.
    fn message(&self) -> String {
        let done = self.done >> 20;
        match self.total {
            // An archive is a little larger than what is in it.
            Some(total) => format!(
                "{}: {} of {} MiB",
                self.doing,
                done.min(total >> 20),
                total >> 20
            ),
            None => format!("{}: {done} MiB", self.doing),
        }
    }
}

impl<R: Read> Read for TransferProgress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.done += count as u64;
        let now = Instant::now();
        if now >= self.next_message && count > 0 {
            stderr_line!("{}", self.message());
            self.next_message = now + INTERVAL;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_all() {
        let data = vec![0; 5 << 19];
        let doing = "sending to 'm'".to_owned();
        let mut progress = TransferProgress::new(&data[..], doing.clone(), Some(2 << 20));
        assert_eq!(progress.message(), "sending to 'm': 0 of 2 MiB");
        progress.read_exact(&mut vec![0; 3 << 19]).unwrap();
        assert_eq!(progress.message(), "sending to 'm': 1 of 2 MiB");
        progress.read_exact(&mut vec![0; 1 << 20]).unwrap();
        assert_eq!(progress.message(), "sending to 'm': 2 of 2 MiB");
        progress.total = None;
        assert_eq!(progress.message(), "sending to 'm': 2 MiB");
    }
}
