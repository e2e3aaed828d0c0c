//! What is printed: messages, and the progress of a download in one of two forms. Names, URLs and
//! what servers say are escaped, so that none can end a line, begin a trace line, or change what a
//! terminal shows.

use std::io::Write;
use std::time::{Duration, Instant};

use formats::Hash;
use formats::printable::printable;
use formats::store_path::name_without_hash;
use protocol::trace::Trace;

/// The least time between two reports of progress.
const INTERVAL: Duration = Duration::from_millis(200);

/// What messages begin with, as those of Guix's program.
const NAME: &str = "guix perform-download";

/// Prints one line.
pub fn line(text: &str) {
    let text = printable(text);
    // A line that looks like a trace line is none.
    let indent = if text.starts_with("@ ") { " " } else { "" };
    print(&format!("{indent}{text}\n"));
}

/// Prints an empty line.
pub fn blank() {
    print("\n");
}

/// Says that a place has something else.
pub fn mismatch(place: &str, expected: &Hash, actual: &Hash) {
    line(&format!("hash mismatch for {place:?}:"));
    line(&format!("  expected hash: {}", expected.base32()));
    line(&format!("  actual hash:   {}", actual.base32()));
}

/// Prints a warning.
pub fn warning(text: &str) {
    line(&format!("{NAME}: warning: {text}"));
}

/// Prints an error.
pub fn error(text: &str) {
    line(&format!("{NAME}: error: {text}"));
}

/// The log is a pipe whose reader may be gone; then the daemon ends this process soon.
fn print(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The progress of one transfer.
pub struct Progress {
    traces: bool,
    file: String,
    url: String,
    size: Option<u64>,
    started: bool,
    last: Instant,
    /// Whether the last line has no end yet.
    open: bool,
}

impl Progress {
    /// Of `file`, as it is to be named. Nothing is printed yet.
    pub fn new(traces: bool, file: &str) -> Progress {
        Progress {
            traces,
            file: file.to_owned(),
            url: String::new(),
            size: None,
            started: false,
            last: Instant::now(),
            open: false,
        }
    }

    /// A transfer from `url` begins.
    pub fn begin(&mut self, url: &str) {
        self.url = url.to_owned();
        self.started = false;
        self.size = None;
    }

    /// So many bytes have arrived of `size`, if it is known.
    pub fn received(&mut self, done: u64, size: Option<u64>) {
        let first = self.start(size);
        if !first && self.last.elapsed() < INTERVAL {
            return;
        }
        self.last = Instant::now();
        if self.traces {
            self.trace_progress(done);
        } else if !first {
            self.bar(done);
        }
    }

    fn trace_progress(&self, done: u64) {
        self.trace(Trace::DownloadProgress {
            file: &self.file,
            url: &self.url,
            size: self.size,
            transferred: done,
        });
    }

    /// The transfer is complete.
    pub fn succeeded(&mut self, done: u64) {
        self.start(Some(done));
        if self.traces {
            self.trace_progress(done);
            self.trace(Trace::DownloadSucceeded {
                file: &self.file,
                url: &self.url,
                size: Some(done),
            });
        } else {
            self.bar(done);
        }
        self.end();
    }

    /// Ends an unfinished line.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            print("\n");
        }
    }

    /// Reports the start, once for each transfer.
    fn start(&mut self, size: Option<u64>) -> bool {
        if self.started {
            return false;
        }
        self.started = true;
        self.size = size;
        if self.traces {
            self.trace(Trace::DownloadStarted {
                file: &self.file,
                url: &self.url,
                size,
            });
        }
        true
    }

    fn trace(&self, trace: Trace<'_>) {
        print(&format!("{trace}\n"));
    }

    fn bar(&mut self, done: u64) {
        let name = name_without_hash(&self.file);
        let share = match self.size {
            Some(size) if size > 0 => format!(" {:5.1}%", done as f64 * 100.0 / size as f64),
            _ => String::new(),
        };
        let mebibytes = done as f64 / (1024.0 * 1024.0);
        print(&format!(
            "\r {} {mebibytes:9.2} MiB{share}",
            printable(name)
        ));
        self.open = true;
    }
}
