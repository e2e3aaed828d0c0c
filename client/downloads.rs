//! The downloads of a request, as far as the daemon's log tells: a line for each that has ended, and, on
//! a terminal, a bar for each that runs, and one for all.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use formats::printable::printable;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How many downloads are watched at the same time, whatever a daemon claims.
const MAX_RUNNING: usize = 64;
/// The length of the hash in an item's name.
const HASH_LENGTH: usize = 32;
/// How wide names are in front of bars.
const NAME_WIDTH: usize = 30;

/// A download that runs.
struct Download {
    begun: Instant,
    bar: ProgressBar,
}

/// The downloads of a request.
pub struct Downloads {
    running: HashMap<String, Download>,
    /// How many are expected, and how many bytes they have, as far as that is known.
    expected: usize,
    expected_bytes: u64,
    /// How many have ended well, and how many bytes they had.
    done: usize,
    bytes: u64,
    begun: Option<Instant>,
    bars: MultiProgress,
    total: Option<ProgressBar>,
}

impl Downloads {
    /// None runs yet. Bars are drawn only if somebody is watching.
    pub fn expecting(items: usize, bytes: u64, is_watched: bool) -> Downloads {
        let target = match is_watched {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Downloads {
            running: HashMap::new(),
            expected: items,
            expected_bytes: bytes,
            done: 0,
            bytes: 0,
            begun: None,
            bars: MultiProgress::with_draw_target(target),
            total: None,
        }
    }

    /// A download to `file` has begun.
    pub fn start(&mut self, file: &str, size: Option<u64>) {
        self.begun.get_or_insert_with(Instant::now);
        if self.running.len() >= MAX_RUNNING {
            return;
        }
        let bar = match size {
            Some(size) => ProgressBar::new(size),
            None => ProgressBar::no_length(),
        };
        let template = match size {
            Some(_) => "{msg:30!} {wide_bar} {bytes:>10}/{total_bytes:10} {bytes_per_sec:12}",
            None => "{msg:30!} {spinner} {bytes:>10} {bytes_per_sec:12}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let name: String = name_of(file).chars().take(NAME_WIDTH).collect();
        bar.set_message(printable(&name).into_owned());
        let bar = match &self.total {
            Some(total) => self.bars.insert_before(total, bar),
            None => self.bars.add(bar),
        };
        let begun = Instant::now();
        let before = self
            .running
            .insert(file.to_owned(), Download { begun, bar });
        if let Some(before) = before {
            before.bar.finish_and_clear();
        }
        self.expected = self.expected.max(self.done + self.running.len());
        self.show_total();
    }

    /// So many bytes have arrived.
    pub fn progress(&mut self, file: &str, transferred: u64) {
        if let Some(download) = self.running.get(file) {
            download.bar.set_position(transferred);
            self.show_total();
        }
    }

    /// A download has ended well. Returns what there is to say about it.
    pub fn succeeded(&mut self, file: &str, size: Option<u64>) -> String {
        let took = self.end(file).map(|begun| begun.elapsed());
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
        self.show_total();
        format!("downloaded {}, {amount}{count}", name_of(file))
    }

    /// A download has failed, if it has begun.
    pub fn failed(&mut self, file: &str) {
        self.end(file);
        self.show_total();
    }

    /// Removes a download; returns when it began.
    fn end(&mut self, file: &str) -> Option<Instant> {
        let download = self.running.remove(file)?;
        download.bar.finish_and_clear();
        self.bars.remove(&download.bar);
        Some(download.begun)
    }

    /// Updates the bar for all, which there is if there are several.
    fn show_total(&mut self) {
        if self.expected < 2 {
            return;
        }
        let total = self.total.get_or_insert_with(|| {
            let template = match self.expected_bytes {
                0 => "{msg:30!} {spinner} {bytes:>10} {bytes_per_sec:12}",
                _ => "{msg:30!} {wide_bar} {bytes:>10}/{total_bytes:10} {bytes_per_sec:12}",
            };
            let bar = ProgressBar::new(self.expected_bytes);
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            self.bars.add(bar)
        });
        let running = self.running.values();
        let bytes = running.fold(self.bytes, |sum, download| {
            sum.saturating_add(download.bar.position())
        });
        total.set_length(self.expected_bytes.max(bytes));
        total.set_position(bytes);
        total.set_message(format!("{} of {} downloads", self.done, self.expected));
    }

    /// Whether bars may be on the screen, which lines must not be mixed with.
    pub fn are_shown(&self) -> bool {
        !self.bars.is_hidden() && (!self.running.is_empty() || self.total.is_some())
    }

    /// Writes to `out`, above the bars.
    pub fn write(&self, out: &mut impl Write, text: &[u8]) {
        // `output` handles errors of standard error.
        match self.are_shown() {
            true => self.bars.suspend(|| _ = out.write_all(text)),
            false => _ = out.write_all(text),
        }
    }

    /// Removes all bars. If there were several downloads, returns how much they were.
    pub fn finish(&mut self) -> Option<String> {
        for (_, download) in self.running.drain() {
            download.bar.finish_and_clear();
        }
        if let Some(total) = self.total.take() {
            total.finish_and_clear();
        }
        let _ = self.bars.clear();
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

/// What a store item is called, without the directory and the hash.
fn name_of(file: &str) -> &str {
    let base = file.rsplit('/').next().unwrap_or(file);
    match base.split_at_checked(HASH_LENGTH) {
        Some((_, rest)) if rest.len() > 1 && rest.starts_with('-') => &rest[1..],
        _ => base,
    }
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
        let mut downloads = Downloads::expecting(2, 0, false);
        downloads.start(&file("one-1.0"), Some(2048));
        downloads.progress(&file("one-1.0"), 1024);
        downloads.progress("/never/begun", 1 << 40);
        downloads.start(&file("two"), None);
        let said = downloads.succeeded(&file("one-1.0"), Some(2048));
        assert_eq!(
            without_time(&said),
            "downloaded one-1.0, 2.00 KiB … (1 of 2)"
        );
        downloads.failed(&file("two"));
        // From another server.
        downloads.start(&file("two"), None);
        downloads.start(&file("two"), None);
        let said = downloads.succeeded(&file("two"), Some(1024));
        assert_eq!(without_time(&said), "downloaded two, 1.00 KiB … (2 of 2)");
        // One more than expected, of which nothing was told before.
        let said = downloads.succeeded("x", None);
        assert_eq!(said, "downloaded x, 0 B (3 of 3)");
        assert!(!downloads.are_shown());
        let total = downloads.finish().unwrap();
        assert_eq!(without_time(&total), "3 files downloaded, 3.00 KiB …");
        assert_eq!(Downloads::expecting(5, 5, false).finish(), None);
    }

    #[test]
    fn what_a_daemon_invents_takes_no_memory() {
        let mut downloads = Downloads::expecting(0, 0, false);
        for number in 0..1000 {
            downloads.start(&number.to_string(), None);
        }
        assert_eq!(downloads.running.len(), MAX_RUNNING);
    }
}
