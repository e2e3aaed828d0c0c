//! The progress of transfers, shown on a terminal.

use std::io::{Read, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// A progress bar on standard error if that is a terminal; otherwise does nothing.
pub struct TransferProgress(ProgressBar);

impl TransferProgress {
    /// A progress bar for a transfer of `total` bytes, if known.
    pub fn new(what: &str, total: Option<u64>) -> TransferProgress {
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let target = match output::is_watched() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        bar.set_draw_target(target);
        let template = match total {
            Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
            None => "{spinner} {msg} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        TransferProgress(bar)
    }

    /// Wraps a reader to count what is read.
    pub fn reader<R: Read>(&self, inner: R) -> impl Read {
        self.0.wrap_read(inner)
    }

    /// Wraps a writer to count what is written.
    pub fn writer<W: Write>(&self, inner: W) -> impl Write {
        self.0.wrap_write(inner)
    }

    /// Prints `text` on standard error without disturbing the bar.
    pub fn print(&self, text: &[u8]) {
        self.0.suspend(|| _ = output::stderr().write_all(text));
    }
}

impl Drop for TransferProgress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
