//! The downloads of a request, as far as the daemon's log tells: a line for each that has ended.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use formats::store_path::name_without_hash;
use indicatif::HumanBytes;

/// How many downloads are watched at the same time, whatever a daemon claims.
const MAX_RUNNING: usize = 64;

/// The downloads of a request.
#[derive(Default)]
pub struct Downloads {
    /// When those that run have begun, by the process that reports them, if it is not the daemon, and file.
    running: HashMap<(Option<u32>, String), Instant>,
    /// How many are expected.
    expected: usize,
    /// How many have ended well, and how many bytes they had.
    done: usize,
    bytes: u64,
    begun: Option<Instant>,
}

impl Downloads {
    /// None runs yet; so many are expected.
    pub fn expecting(expected: usize) -> Downloads {
        Downloads {
            expected,
            ..Downloads::default()
        }
    }

    /// A download to `file` has begun, as this process reports, or the daemon.
    pub fn start(&mut self, by: Option<u32>, file: &str) {
        self.begun.get_or_insert_with(Instant::now);
        if self.running.len() >= MAX_RUNNING {
            return;
        }
        self.running.insert((by, file.to_owned()), Instant::now());
        self.expected = self.expected.max(self.done + self.running.len());
    }

    /// A download has ended well. Returns what there is to say about it.
    pub fn succeeded(&mut self, by: Option<u32>, file: &str, size: Option<u64>) -> String {
        let took = self
            .running
            .remove(&(by, file.to_owned()))
            .map(|begun| begun.elapsed());
        self.done += 1;
        self.expected = self.expected.max(self.done);
        let size = size.unwrap_or(0);
        self.bytes = self.bytes.saturating_add(size);
        let count = match self.expected {
            0 | 1 => String::new(),
            expected => format!(" ({} of {expected})", self.done),
        };
        let amount = match took {
            Some(took) => amount(size, took),
            None => HumanBytes(size).to_string(),
        };
        format!("downloaded {}, {amount}{count}", name_without_hash(file))
    }

    /// A download has failed, if it has begun.
    pub fn failed(&mut self, by: Option<u32>, file: &str) {
        self.running.remove(&(by, file.to_owned()));
    }

    /// If there were several downloads, how much they were.
    pub fn summary(&self) -> Option<String> {
        let took = self.begun?.elapsed();
        let amount = amount(self.bytes, took);
        (self.done > 1).then(|| format!("{} files downloaded, {amount}", self.done))
    }
}

/// `SIZE in SECONDS s (SPEED)`.
fn amount(size: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let speed = (size as f64 / seconds.max(0.001)) as u64;
    let size = HumanBytes(size);
    format!("{size} in {seconds:.1} s ({}/s)", HumanBytes(speed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the time, which differs.
    fn without_time(text: &str) -> String {
        let (before, after) = text.split_once(" in ").unwrap();
        let (_, after) = after.split_once("/s)").unwrap();
        format!("{before} …{after}")
    }

    #[test]
    fn each_download_is_told_and_all_together() {
        let file = |name: &str| format!("/gnu/store/{}-{name}", "0".repeat(32));
        let mut downloads = Downloads::expecting(2);
        downloads.start(None, &file("one-1.0"));
        downloads.start(None, &file("two"));
        let said = downloads.succeeded(None, &file("one-1.0"), Some(2048));
        assert_eq!(
            without_time(&said),
            "downloaded one-1.0, 2.00 KiB … (1 of 2)"
        );
        downloads.failed(None, &file("two"));
        // From another server.
        downloads.start(None, &file("two"));
        downloads.start(None, &file("two"));
        let said = downloads.succeeded(None, &file("two"), Some(1024));
        assert_eq!(without_time(&said), "downloaded two, 1.00 KiB … (2 of 2)");
        // One more than expected, of which nothing was told before.
        let said = downloads.succeeded(None, "x", None);
        assert_eq!(said, "downloaded x, 0 B (3 of 3)");
        // What one process reports is not another's.
        downloads.start(None, "y");
        let said = downloads.succeeded(Some(1), "y", None);
        assert!(!said.contains(" in "), "{said}");
        let total = downloads.summary().unwrap();
        assert_eq!(without_time(&total), "4 files downloaded, 3.00 KiB …");
        assert_eq!(Downloads::expecting(5).summary(), None);
    }

    #[test]
    fn what_a_daemon_invents_takes_no_memory() {
        let mut downloads = Downloads::default();
        for number in 0..1000 {
            downloads.start(None, &number.to_string());
        }
        assert_eq!(downloads.running.len(), MAX_RUNNING);
    }
}
