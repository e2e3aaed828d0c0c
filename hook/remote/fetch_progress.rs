//! How far a machine's daemon is with what it fetches, from the trace lines that it sends meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use protocol::trace::Trace;
use store::PathInfo;

use super::error::{on_one_line, shortened};
use super::transport::Report;

/// How long it may take until an item, or [`STEP`] bytes of one, have arrived there.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// How many bytes are progress: a server could send a byte now and then for ever.
const STEP: u64 = 64 << 10;
/// How often progress is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// The maximum length of a daemon's line that is examined.
const LINE_LIMIT: usize = 8 << 10;

/// How far the daemon is.
pub(super) struct FetchProgress<'a, 'r> {
    machine: &'a str,
    report: &'a mut Report<'r>,
    /// The items that have not arrived, and the sizes of their nars.
    sizes: HashMap<&'a str, u64>,
    /// How many items there are, and how many bytes they have.
    items: usize,
    total: u64,
    /// How many bytes of those that have not arrived are there.
    partial: HashMap<&'a str, u64>,
    /// How many bytes the others have.
    complete: u64,
    /// How many items could not be fetched, and why the first of them.
    failed: usize,
    reason: Option<String>,
    /// The beginning of a line.
    line: Vec<u8>,
    /// How much had arrived when there was last some progress, and when that was.
    arrived: u64,
    since: Instant,
    next_report: Instant,
}

impl<'a, 'r> FetchProgress<'a, 'r> {
    /// Nothing of `items` has arrived.
    pub fn new(
        machine: &'a str,
        items: &[&'a PathInfo],
        report: &'a mut Report<'r>,
    ) -> FetchProgress<'a, 'r> {
        let sizes: HashMap<_, _> = items
            .iter()
            .map(|item| (item.path.as_str(), item.nar_size))
            .collect();
        let now = Instant::now();
        FetchProgress {
            machine,
            report,
            items: sizes.len(),
            total: sizes.values().sum(),
            sizes,
            partial: HashMap::new(),
            complete: 0,
            failed: 0,
            reason: None,
            line: Vec::new(),
            arrived: 0,
            since: now,
            next_report: now + REPORT_INTERVAL,
        }
    }

    /// Processes the next bytes that the daemon sends.
    pub fn write(&mut self, text: &[u8]) {
        for piece in text.split_inclusive(|&byte| byte == b'\n') {
            let room = LINE_LIMIT.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.line(&String::from_utf8_lossy(&line));
            }
        }
        let now = Instant::now();
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            let message = self.message();
            (self.report)(&message);
        }
    }

    fn line(&mut self, line: &str) {
        match Trace::parse(line) {
            Some(Trace::DownloadProgress {
                file,
                size: Some(size @ 1..),
                transferred,
                ..
            }) => {
                let Some((&path, &nar_size)) = self.sizes.get_key_value(file) else {
                    return;
                };
                let share = transferred.min(size) as f64 / size as f64;
                self.partial.insert(path, (share * nar_size as f64) as u64);
                if self.done() >= self.arrived + STEP {
                    self.progressed();
                }
            }
            Some(Trace::SubstituterSucceeded { path }) => {
                self.complete += self.sizes.remove(path).unwrap_or(0);
                self.partial.remove(path);
                self.progressed();
            }
            Some(Trace::SubstituterFailed { path, reason }) if self.sizes.contains_key(path) => {
                self.sizes.remove(path);
                self.partial.remove(path);
                self.failed += 1;
                self.reason
                    .get_or_insert_with(|| shortened(on_one_line(reason)));
                self.progressed();
            }
            _ => {}
        }
    }

    /// How many bytes are there.
    fn done(&self) -> u64 {
        self.complete + self.partial.values().sum::<u64>()
    }

    fn progressed(&mut self) {
        self.arrived = self.done();
        self.since = Instant::now();
    }

    /// Whether there was no progress for so long that sending is better.
    pub fn is_stuck(&self) -> bool {
        self.since.elapsed() > PATIENCE
    }

    fn message(&self) -> String {
        format!(
            "'{}' is fetching: {} of {} MiB",
            self.machine,
            self.done() >> 20,
            self.total >> 20
        )
    }

    /// Reports what could not be fetched.
    pub fn finish(self) {
        let Some(reason) = self.reason else {
            return;
        };
        (self.report)(&format!(
            "warning: '{}' could not fetch {} of {} store items: {reason}",
            self.machine, self.failed, self.items
        ));
    }
}

#[cfg(test)]
mod tests {
    use formats::{Hash, StoreDir};

    use super::*;

    #[test]
    fn what_the_daemon_says_is_counted() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let items = ["a", "b", "c"].map(|name| PathInfo {
            path: store.join(&format!("{}-{name}", "0".repeat(32))).unwrap(),
            hash: Hash::sha256(name),
            registration_time: 1,
            deriver: None,
            nar_size: 4 << 20,
            references: [].into(),
        });
        let [a, b, c] = items.each_ref().map(|item| item.path.as_str());
        let text = format!(
            "substitute: x\n@ download-progress {a} http://x 100 50\n\
             @ substituter-succeeded {a}\n@ download-progress {b} http://x 8 8\n\
             @ download-progress {b} http://x - 8\n@ download-progress /etc/passwd http://x 8 8\n\
             @ substituter-failed {c}  no \x07\n@ substituter-failed {c} again\n\
             @ download-progress {b} http://x 100 25\n"
        );
        // However the text is split.
        for size in [1, 7, text.len()] {
            let mut said = Vec::new();
            let mut report = |text: &str| said.push(text.to_owned());
            let items: Vec<&PathInfo> = items.iter().collect();
            let mut progress = FetchProgress::new("m", &items, &mut report);
            text.as_bytes()
                .chunks(size)
                .for_each(|piece| progress.write(piece));
            assert_eq!(progress.message(), "'m' is fetching: 5 of 12 MiB");
            assert!(!progress.is_stuck());
            progress.finish();
            assert_eq!(
                said,
                ["warning: 'm' could not fetch 1 of 3 store items: no \x07"]
            );
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut report = |_: &str| {};
        let mut progress = FetchProgress::new("m", &[], &mut report);
        for _ in 0..100 {
            progress.write(&[b'@'; 1 << 10]);
        }
        assert_eq!(progress.line.len(), LINE_LIMIT);
    }
}
