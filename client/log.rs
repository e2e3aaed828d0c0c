//! Shows the daemon's log: its messages, builder output, and descriptions of its trace lines.
//!
//! Builders' output comes in frames, a [`Trace::BuildLog`] line and then as many bytes, so that a
//! builder can't forge events. Inside a frame, only few lines are events, those that
//! [`Trace::may_begin_builder_event`] recognises.

use std::collections::HashMap;
use std::io::{self, Write};

use formats::printable::printable;
use protocol::trace::Trace;

/// The maximum length of an incomplete line that is kept; longer ones are shown in pieces.
const MAX_LINE: usize = 8192;

/// How much to show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing.
    Nothing,
    /// Messages and events.
    Events,
    /// The builders' output too.
    Everything,
}

/// Shows a log on `out`.
pub struct LogPrinter<W> {
    out: W,
    detail: Detail,
    colors: bool,
    /// The beginning of an incomplete line.
    line: Vec<u8>,
    /// Whether that line's beginning was already shown.
    inside_line: bool,
    /// How many bytes of builder output follow, and the builder's process id.
    payload: usize,
    builder: u32,
    /// `line` and `inside_line` for each builder.
    builders: HashMap<u32, (Vec<u8>, bool)>,
    /// The log files of builds that were started.
    files: HashMap<String, String>,
}

impl<W: Write> LogPrinter<W> {
    /// Shows the log on `out`, with `colors` if that is a terminal.
    pub fn new(out: W, detail: Detail, colors: bool) -> Self {
        LogPrinter {
            out,
            detail,
            colors,
            line: Vec::new(),
            inside_line: false,
            payload: 0,
            builder: 0,
            builders: HashMap::new(),
            files: HashMap::new(),
        }
    }

    /// Processes a piece of the log.
    pub fn write(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            if self.payload > 0 {
                let count = self.payload.min(text.len());
                let (output, rest) = text.split_at(count);
                self.payload -= count;
                self.builder_output(output);
                text = rest;
            } else {
                let end = text.iter().position(|byte| b"\n\r".contains(byte));
                let (piece, rest) = text.split_at(end.map_or(text.len(), |end| end + 1));
                self.daemon_output(piece, end.is_some());
                text = rest;
            }
        }
        let _ = self.out.flush();
    }

    fn daemon_output(&mut self, piece: &[u8], complete: bool) {
        self.line.extend_from_slice(piece);
        let begins_like_event = self.line.starts_with(b"@ ") || b"@ ".starts_with(&self.line);
        let may_be_event = !self.inside_line && begins_like_event;
        if !complete && may_be_event && self.line.len() < MAX_LINE {
            return;
        }
        let line = std::mem::take(&mut self.line);
        let was_inside = std::mem::replace(&mut self.inside_line, !complete);
        if !was_inside && complete && line.starts_with(b"@ ") {
            self.event(&line);
        } else if self.detail > Detail::Nothing {
            self.show(&line);
        }
    }

    fn builder_output(&mut self, output: &[u8]) {
        let (mut line, mut inside_line) = self.builders.remove(&self.builder).unwrap_or_default();
        for piece in output.split_inclusive(|&byte| byte == b'\n') {
            line.extend_from_slice(piece);
            let complete = piece.ends_with(b"\n");
            let may_be_event = !inside_line && Trace::may_begin_builder_event(&line);
            if may_be_event && !complete && line.len() < MAX_LINE {
                continue;
            }
            if may_be_event && complete {
                self.event(&line);
            } else if self.detail == Detail::Everything {
                self.show(&line);
            }
            inside_line = !complete;
            line.clear();
        }
        if !line.is_empty() || inside_line {
            self.builders.insert(self.builder, (line, inside_line));
        }
    }

    fn show(&mut self, text: &[u8]) {
        // `output` handles errors of standard error.
        let _ = self.out.write_all(text);
    }

    fn event(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let Some(trace) = Trace::parse(&line) else {
            return;
        };
        match trace {
            Trace::BuildLog { pid, length } => {
                self.builder = pid;
                self.payload = length.min(u64::from(u32::MAX)) as usize;
            }
            Trace::BuildStarted {
                derivation,
                log_file,
                ..
            } => {
                self.files
                    .insert(derivation.to_owned(), log_file.to_owned());
                self.print(BOLD, &format!("building {derivation}..."));
            }
            Trace::BuildSucceeded { derivation } => {
                self.print(GREEN, &format!("successfully built {derivation}"));
            }
            Trace::BuildFailed { derivation, .. } => {
                self.print(RED, &format!("build of {derivation} failed"));
                let file = self.files.remove(derivation).unwrap_or_default();
                let file = file.replace("//", "/");
                if file.is_empty() {
                    self.print(
                        RED,
                        &format!("Could not find build log for '{derivation}'."),
                    );
                } else {
                    self.print(BOLD, &format!("View build log at '{file}'."));
                }
            }
            Trace::BuildRemote {
                derivation,
                machine,
            } => {
                let text = format!("offloading build of {derivation} to '{machine}'");
                self.print(BOLD, &text);
            }
            Trace::HashMismatch {
                path,
                algorithm,
                expected,
                actual,
            } => {
                self.print(RED, &format!("{algorithm} hash mismatch for {path}:"));
                self.print("", &format!("  expected hash: {expected}"));
                self.print("", &format!("  actual hash:   {actual}"));
            }
            Trace::SubstituterStarted { path } => {
                self.print(BOLD, &format!("substituting {path}..."))
            }
            Trace::SubstituterFailed { path, .. } => {
                self.print(RED, &format!("substitution of {path} failed"));
            }
            Trace::DownloadStarted { url, .. } => {
                self.print(BOLD, &format!("downloading from {url} ..."));
            }
            // Failures are reported by separate messages.
            Trace::HookFailed { .. }
            | Trace::UnsupportedPlatform { .. }
            | Trace::SubstituterSucceeded { .. }
            | Trace::DownloadProgress { .. }
            | Trace::DownloadSucceeded { .. } => {}
        }
    }

    fn print(&mut self, color: &str, text: &str) {
        if self.detail == Detail::Nothing {
            return;
        }
        // Another daemon, or a hook, may forward untrusted text.
        let text = printable(text);
        let shown = match self.colors && !color.is_empty() {
            true => writeln!(self.out, "{color}{text}\x1b[0m"),
            false => writeln!(self.out, "{text}"),
        };
        let _ = shown;
    }

    /// Shows the rest of an incomplete line.
    pub fn finish(mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        if self.detail > Detail::Nothing {
            self.out.write_all(&line)?;
        }
        self.out.flush()
    }
}

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[1;32m";
const RED: &str = "\x1b[1;31m";

#[cfg(test)]
mod tests {
    use super::*;

    /// However the log is split, the output is the same.
    fn shown(log: &str, detail: Detail) -> String {
        let mut results = [1, 2, 7, log.len().max(1)].map(|step| {
            let mut out = Vec::new();
            let mut printer = LogPrinter::new(&mut out, detail, false);
            log.as_bytes()
                .chunks(step)
                .for_each(|piece| printer.write(piece));
            printer.finish().unwrap();
            String::from_utf8(out).unwrap()
        });
        let last = results[3].clone();
        results
            .iter_mut()
            .for_each(|result| assert_eq!(*result, last));
        last
    }

    fn log() -> String {
        let wrapped = |output: &str| format!("@ build-log 12 {}\n{output}", output.len());
        [
            "@ build-started /x.drv - x86_64-linux /log/drvs/x//y.drv.gz 12\n",
            &wrapped("hello\n"),
            &wrapped("@ build-remote /x.drv machine\nab"),
            &wrapped("@ build-succeeded /x.drv -\n"),
            "a message\n@ build-failed /x.drv - 1 why\n",
        ]
        .concat()
    }

    #[test]
    fn events_are_shown_in_words() {
        assert_eq!(
            shown(&log(), Detail::Everything),
            "building /x.drv...\nhello\noffloading build of /x.drv to 'machine'\n\
             ab@ build-succeeded /x.drv -\na message\n\
             build of /x.drv failed\nView build log at '/log/drvs/x/y.drv.gz'.\n"
        );
        assert_eq!(
            shown(&log(), Detail::Events),
            "building /x.drv...\noffloading build of /x.drv to 'machine'\na message\n\
             build of /x.drv failed\nView build log at '/log/drvs/x/y.drv.gz'.\n"
        );
        assert_eq!(shown(&log(), Detail::Nothing), "");
    }

    #[test]
    fn incomplete_lines_are_shown_at_last() {
        assert_eq!(
            shown("progress 1%\rprogress 2%", Detail::Events),
            "progress 1%\rprogress 2%"
        );
        assert_eq!(shown("@ build-st", Detail::Events), "@ build-st");
    }
}
