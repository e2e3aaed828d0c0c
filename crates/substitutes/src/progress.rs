//! What users are told of a download: trace lines, or for a client that doesn't want these, a line
//! that is drawn anew as the download goes on.

use std::time::{Duration, Instant};

use formats::StorePath;
use formats::printable::printable_word;
use protocol::trace::Trace;

use crate::waiter::Waiter;

/// How often the line is drawn at most.
const PERIOD: Duration = Duration::from_millis(200);
/// Replaces the line at the cursor.
const ERASE: &str = "\r\x1b[K";

/// A download.
pub(crate) struct Progress<'a> {
    path: &'a StorePath,
    traces: bool,
    /// Where the file comes from, and its compressed size.
    file: Option<(String, Option<u64>)>,
    begun: Instant,
    drawn: Option<Instant>,
    /// Whether the cursor is at the end of the line.
    is_line_open: bool,
}

impl<'a> Progress<'a> {
    /// Of an item, of which nothing has arrived; `traces` is whether trace lines are wanted.
    pub(crate) fn new(path: &'a StorePath, traces: bool) -> Progress<'a> {
        Progress {
            path,
            traces,
            file: None,
            begun: Instant::now(),
            drawn: None,
            is_line_open: false,
        }
    }

    /// A file comes from `url`, of this size if that is known; the download may have begun with
    /// another.
    pub(crate) fn started(&mut self, url: &str, size: Option<u64>, waiter: &mut dyn Waiter) {
        let before = self.file.take();
        let same = before.as_ref().filter(|(known, _)| known == url);
        let size = size.or_else(|| same.and_then(|(_, size)| *size));
        self.file = Some((url.to_owned(), size));
        if before.is_some() {
            return;
        }
        self.begun = Instant::now();
        let file = self.path.as_str();
        waiter.say(&match self.traces {
            true => format!("{}\n", Trace::DownloadStarted { file, url, size }),
            // Several downloads may run at once, and another one's line be there.
            false => format!("{ERASE}Downloading {}...\n", printable_word(url)),
        });
    }

    /// So many bytes of the file have arrived.
    pub(crate) fn progressed(&mut self, done: u64, waiter: &mut dyn Waiter) {
        let Some((url, size)) = &self.file else {
            return;
        };
        if self.traces {
            let trace = Trace::DownloadProgress {
                file: self.path.as_str(),
                url,
                size: *size,
                transferred: done,
            };
            waiter.say(&format!("{trace}\n"));
        } else if self.drawn.is_none_or(|drawn| drawn.elapsed() >= PERIOD) {
            self.drawn = Some(Instant::now());
            self.is_line_open = true;
            waiter.say(&self.line(done, *size));
        }
    }

    /// The file has arrived.
    pub(crate) fn succeeded(&mut self, waiter: &mut dyn Waiter) {
        let Some((url, size)) = &self.file else {
            return;
        };
        if self.traces {
            let file = self.path.as_str();
            let (url, size) = (url.as_str(), *size);
            let trace = Trace::DownloadSucceeded { file, url, size };
            waiter.say(&format!("{trace}\n\n"));
        } else {
            let line = self.line(size.unwrap_or_default(), *size);
            waiter.say(&format!("{line}\n\n"));
            self.is_line_open = false;
        }
    }

    /// The file can't be had from `url`; whether there is another one to try.
    pub(crate) fn failed(
        &mut self,
        url: &str,
        reason: &str,
        has_next: bool,
        waiter: &mut dyn Waiter,
    ) {
        if std::mem::take(&mut self.is_line_open) {
            waiter.say("\n");
        }
        let url = printable_word(url);
        let rest = if has_next { ", trying next URL" } else { "" };
        waiter.warn(&format!("download from '{url}' failed: {reason}{rest}\n"));
    }

    /// The name, how much has arrived and how fast, and how much that is of the whole.
    fn line(&self, done: u64, size: Option<u64>) -> String {
        let mebibytes = done as f64 / f64::from(1 << 20);
        let seconds = self.begun.elapsed().as_secs_f64();
        let speed = if seconds > 0.0 {
            mebibytes / seconds
        } else {
            0.0
        };
        let share = match size {
            Some(size) if size > 0 => {
                format!(" {:5.1}%", 100.0 * done.min(size) as f64 / size as f64)
            }
            _ => String::new(),
        };
        let name = self.path.name();
        format!("{ERASE} {name} {mebibytes:9.2} MiB {speed:8.2} MiB/s{share}")
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use formats::StoreDir;

    use super::*;
    use crate::waiter::Stop;

    struct Listener(String);

    impl Waiter for Listener {
        fn time_left(&self) -> Result<Option<Duration>, Stop> {
            Ok(None)
        }

        fn wake_fd(&self) -> BorrowedFd<'_> {
            unreachable!("nobody waits")
        }

        fn note_activity(&mut self) {}

        fn say(&mut self, text: &str) {
            self.0 += text;
        }
    }

    /// What is said of a download that goes on in many steps, and fails once.
    fn said(traces: bool) -> String {
        let store = StoreDir::new("/gnu/store").unwrap();
        let path = store.join(&format!("{}-x", "0".repeat(32))).unwrap();
        let mut listener = Listener(String::new());
        let mut progress = Progress::new(&path, traces);
        progress.progressed(1, &mut listener);
        progress.started("http://a/\x1b[2J", Some(2 << 20), &mut listener);
        for done in 0..1000 {
            progress.progressed(done << 10, &mut listener);
        }
        progress.failed("http://a/", "404", true, &mut listener);
        progress.started("http://b/", Some(2 << 20), &mut listener);
        progress.succeeded(&mut listener);
        listener.0
    }

    #[test]
    fn a_line_is_drawn_now_and_then() {
        let said = said(false);
        assert!(
            said.starts_with("\r\x1b[KDownloading http://a/"),
            "{said:?}"
        );
        assert!(said.contains("\r\x1b[K x      0.00 MiB"), "{said:?}");
        assert!(said.contains("\ndownload from 'http://a/' failed: 404, trying next URL\n"));
        assert!(said.ends_with("MiB/s 100.0%\n\n"), "{said:?}");
        assert!(said.matches(ERASE).count() < 900, "{said:?}");
        assert!(!said.contains("\x1b[2J") && !said.contains('@'), "{said:?}");
    }

    #[test]
    fn or_trace_lines_are_written() {
        let said = said(true);
        assert!(said.starts_with("@ download-started "), "{said:?}");
        assert_eq!(said.matches("@ download-progress ").count(), 1000);
        assert!(said.ends_with("\n\n") && !said.contains('\r'), "{said:?}");
    }
}
