//! Shows the daemon's log: its messages, builder output, and descriptions of its trace lines.
//!
//! Builders' output comes in frames, a [`Trace::BuildLog`] line and then as many bytes, so that a
//! builder can't forge events. Inside a frame, only few lines are events, those that
//! [`Trace::may_begin_builder_event`] recognises.

mod events;

use std::io::{self, Write};
use std::time::Instant;

use formats::printable::printable;
use protocol::trace::Trace;

use crate::builds::Builds;
use crate::downloads::Downloads;
use crate::failures::{Failures, places};
use crate::output::Surface;
use crate::plain_lines::PlainLines;
use crate::view::{Expected, View, clock_of};

/// The maximum length of an incomplete line that is kept; longer ones are shown in pieces.
const MAX_LINE: usize = 8192;

/// How much to show. The end of a failed build's log is shown in any case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing.
    Nothing,
    /// Messages and events.
    Events,
    /// The builders' output too.
    Everything,
}

/// Whose line it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The daemon's or a helper's.
    Daemon,
    /// That of the builder or hook with this process id.
    Builder(u32),
}

/// Shows a log on `out`.
pub struct LogPrinter<W> {
    out: W,
    detail: Detail,
    surface: Surface,
    /// Whether a download has just ended, after which daemons send an empty line.
    is_after_download: bool,
    /// Of the daemon's lines, if it isn't a terminal.
    plain: PlainLines,
    /// The source of the line that was shown last, if that is incomplete.
    open_line: Option<Source>,
    /// The beginning of an incomplete line of the daemon.
    line: Vec<u8>,
    /// Whether that line's beginning was already shown.
    inside_line: bool,
    /// How many bytes of builder output follow, and the builder's process id.
    payload: usize,
    builder: u32,
    begun: Instant,
    builds: Builds,
    downloads: Downloads,
    failures: Failures,
    /// Whether the end of the last failure's log is what was shown last.
    is_after_failure: bool,
    /// What is below the log.
    view: Option<View>,
}

impl<W: Write> LogPrinter<W> {
    /// Shows the log of a request of which this is expected on `out`, which is such a `surface`; or above the
    /// rows of `view`, if there is one.
    pub fn new(
        out: W,
        detail: Detail,
        surface: Surface,
        expected: Expected,
        view: Option<View>,
    ) -> Self {
        LogPrinter {
            out,
            detail,
            surface,
            is_after_download: false,
            plain: PlainLines::default(),
            open_line: None,
            line: Vec::new(),
            inside_line: false,
            payload: 0,
            builder: 0,
            begun: Instant::now(),
            builds: Builds::expecting(expected.builds),
            downloads: Downloads::expecting(expected.fetches),
            failures: Failures::default(),
            is_after_failure: false,
            view,
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
        // A progress may replace it.
        let may_be_replaced = self.surface == Surface::Lines;
        if !complete && (may_be_event || may_be_replaced) && self.line.len() < MAX_LINE {
            return;
        }
        let line = std::mem::take(&mut self.line);
        let was_inside = std::mem::replace(&mut self.inside_line, !complete);
        if !was_inside && complete && line.starts_with(b"@ ") {
            self.event(&line, None);
        } else if self.detail > Detail::Nothing && !self.ends_download(&line) {
            match self.surface {
                Surface::Lines => {
                    let line = self.plain.take(&line);
                    self.show(Source::Daemon, &line);
                }
                _ => self.show(Source::Daemon, &line),
            }
        }
    }

    fn builder_output(&mut self, output: &[u8]) {
        for piece in output.split_inclusive(|&byte| byte == b'\n') {
            // Lines of several builds are not mixed.
            let whole_lines = self.builds.several_run();
            let build = self.builds.of_process(self.builder);
            build.line.extend_from_slice(piece);
            let complete = piece.ends_with(b"\n");
            let may_be_event = !build.inside_line && Trace::may_begin_builder_event(&build.line);
            if !complete && (may_be_event || whole_lines) && build.line.len() < MAX_LINE {
                continue;
            }
            let line = std::mem::take(&mut build.line);
            build.inside_line = !complete;
            let is_event = may_be_event && complete && self.event(&line, Some(self.builder));
            if !is_event && !self.ends_download(&line) {
                self.builder_line(&line);
            }
        }
    }

    /// Whether this process may report this: of derivations, it may speak of its own only.
    fn may_report(&mut self, trace: &Trace<'_>, builder: Option<u32>) -> bool {
        match (builder, trace) {
            (Some(pid), Trace::BuildRemote { derivation, .. }) => {
                self.builds.of_process(pid).derivation() == Some(*derivation)
            }
            _ => true,
        }
    }

    /// Whether it is the empty line after a download.
    fn ends_download(&mut self, line: &[u8]) -> bool {
        std::mem::take(&mut self.is_after_download) && line == b"\n"
    }

    /// Keeps a line of the current builder, or a piece of one, and shows it if all is to be shown.
    fn builder_line(&mut self, line: &[u8]) {
        self.builds.of_process(self.builder).add_to_tail(line);
        if self.detail == Detail::Everything {
            self.show(Source::Builder(self.builder), line);
        }
    }

    /// Shows a line or a piece of one. Where several builds run, a builder's lines begin with its
    /// name.
    fn show(&mut self, source: Source, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        if self.open_line.is_some_and(|open| open != source) {
            self.put(b"\n");
            self.open_line = None;
        }
        if let (None, Source::Builder(pid)) = (self.open_line, source) {
            if self.builds.several_run() {
                let prefix = self.builds.of_process(pid).prefix();
                self.put(prefix.as_bytes());
            }
        }
        self.put(text);
        self.open_line = (!text.ends_with(b"\n")).then_some(source);
    }

    fn put(&mut self, text: &[u8]) {
        self.is_after_failure = false;
        match &self.view {
            Some(view) => view.print(text),
            // `output` handles errors of standard error.
            None => _ = self.out.write_all(text),
        }
    }

    fn print(&mut self, color: &str, text: &str) {
        if self.detail > Detail::Nothing {
            self.print_always(color, text);
        }
    }

    fn print_always(&mut self, color: &str, text: &str) {
        // Another daemon, or a hook, may forward untrusted text.
        let text = printable(text);
        let line = match self.surface == Surface::Colors && !color.is_empty() {
            true => format!("{color}{text}\x1b[0m\n"),
            false => format!("{text}\n"),
        };
        self.show(Source::Daemon, line.as_bytes());
    }

    /// Says what has failed and, if somebody `is_watching`, where how many were built.
    fn summarize(&mut self, is_watching: bool) {
        if is_watching || self.builds.are_several() {
            for (is_first, line) in self.failures.lines(self.is_after_failure) {
                self.print_always(if is_first { RED } else { "" }, &line);
            }
        }
        let where_and_when = match is_watching {
            true => format!(
                " in {}{}",
                clock_of(self.begun.elapsed()),
                places(&self.builds)
            ),
            false => String::new(),
        };
        if let Some(summary) = self.builds.summary() {
            self.print(BOLD, &(summary + &where_and_when));
        } else if is_watching && self.builds.are_several() {
            let count = self.builds.count_of_successes();
            self.print(BOLD, &format!("{count} derivations built{where_and_when}"));
        }
    }

    /// Shows the rest of incomplete lines and, if builds failed, how many succeeded.
    pub fn finish(mut self) -> io::Result<Builds> {
        let line = std::mem::take(&mut self.line);
        if self.detail > Detail::Nothing && !line.is_empty() {
            let line = match self.surface {
                Surface::Lines => self.plain.take(&line),
                _ => line,
            };
            self.show(Source::Daemon, &line);
        }
        let rest = self.plain.finish();
        self.show(Source::Daemon, &rest);
        for (pid, line) in self.builds.take_lines() {
            self.builder = pid;
            self.builder_line(&line);
        }
        let view = self.view.take();
        if let Some(view) = &view {
            view.finish();
        }
        if let Some(downloaded) = self.downloads.summary() {
            self.print(BOLD, &downloaded);
        }
        if self.detail > Detail::Nothing {
            self.summarize(view.is_some());
        }
        self.out.flush()?;
        Ok(self.builds)
    }
}

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[1;32m";
const RED: &str = "\x1b[1;31m";

#[cfg(test)]
#[path = "log_printer_tests.rs"]
mod tests;
