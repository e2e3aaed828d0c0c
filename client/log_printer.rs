//! Shows the daemon's log: its messages, builder output, and descriptions of its trace lines.
//!
//! Builders' output comes in frames, a [`Trace::BuildLog`] line and then as many bytes, so that a
//! builder can't forge events. Inside a frame, only few lines are events, those that
//! [`Trace::may_begin_builder_event`] recognises.

use std::io::{self, Write};

use formats::printable::printable;
use protocol::trace::Trace;

use crate::builds::{Build, Builds};
use crate::downloads::Downloads;

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
    colors: bool,
    /// The source of the line that was shown last, if that is incomplete.
    open_line: Option<Source>,
    /// The beginning of an incomplete line of the daemon.
    line: Vec<u8>,
    /// Whether that line's beginning was already shown.
    inside_line: bool,
    /// How many bytes of builder output follow, and the builder's process id.
    payload: usize,
    builder: u32,
    builds: Builds,
    downloads: Downloads,
    /// The beginning of a line that waits for its end, since bars are below it.
    held: Vec<u8>,
}

impl<W: Write> LogPrinter<W> {
    /// Shows the log of `expected` builds, and of downloads, on `out`, with `colors` if that is a
    /// terminal.
    pub fn new(
        out: W,
        detail: Detail,
        colors: bool,
        expected: usize,
        downloads: Downloads,
    ) -> Self {
        LogPrinter {
            out,
            detail,
            colors,
            open_line: None,
            line: Vec::new(),
            inside_line: false,
            payload: 0,
            builder: 0,
            builds: Builds::expecting(expected),
            downloads,
            held: Vec::new(),
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
            self.show(Source::Daemon, &line);
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
            match may_be_event && complete {
                true => self.event(&line),
                false => self.builder_line(&line),
            }
        }
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
        let end = match self.downloads.are_shown() {
            true => text
                .iter()
                .rposition(|&byte| byte == b'\n')
                .map_or(0, |at| at + 1),
            false => text.len(),
        };
        let (whole, rest) = text.split_at(end);
        if !whole.is_empty() || !self.downloads.are_shown() {
            let mut lines = std::mem::take(&mut self.held);
            lines.extend_from_slice(whole);
            self.downloads.write(&mut self.out, &lines);
        }
        let room = MAX_LINE.saturating_sub(self.held.len());
        self.held.extend_from_slice(&rest[..rest.len().min(room)]);
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
                pid,
                ..
            } => {
                self.builds.start(derivation, log_file, pid);
                self.print(BOLD, &format!("building {derivation}..."));
            }
            Trace::BuildSucceeded { derivation } => {
                self.end_build(derivation);
                let count = self.builds.succeeded();
                self.print(GREEN, &format!("successfully built {derivation}{count}"));
            }
            Trace::BuildFailed { derivation, .. } => {
                let build = self.end_build(derivation);
                self.builds.failed();
                self.print(RED, &format!("build of {derivation} failed"));
                self.show_failure(derivation, build);
            }
            Trace::BuildRemote {
                derivation,
                machine,
            } => {
                self.builds.sent_to(derivation, machine);
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
                self.downloads.failed(path);
                self.print(RED, &format!("substitution of {path} failed"));
            }
            Trace::DownloadStarted { file, url, size } => {
                self.print(BOLD, &format!("downloading from {url} ..."));
                self.downloads.start(file, size);
            }
            Trace::DownloadProgress {
                file, transferred, ..
            } => self.downloads.progress(file, transferred),
            Trace::DownloadSucceeded { file, size, .. } => {
                let text = self.downloads.succeeded(file, size);
                self.print(GREEN, &text);
            }
            // Failures are reported by separate messages.
            Trace::HookFailed { .. }
            | Trace::UnsupportedPlatform { .. }
            | Trace::SubstituterSucceeded { .. }
            | Trace::BuildPostponed { .. } => {}
        }
    }

    /// A build has ended: shows the rest of its output.
    fn end_build(&mut self, derivation: &str) -> Option<Build> {
        if let Some(pid) = self.builds.process_of(derivation) {
            self.builder = pid;
            let rest = std::mem::take(&mut self.builds.of_process(pid).line);
            if !rest.is_empty() {
                self.builder_line(&rest);
            }
        }
        self.builds.end(derivation)
    }

    /// Shows the end of a failed build's log, unless it was just shown, and says where the log is.
    fn show_failure(&mut self, derivation: &str, build: Option<Build>) {
        let Some(build) = build.filter(|build| !build.log_file.is_empty()) else {
            let text = format!("Could not find build log for '{derivation}'.");
            return self.print(RED, &text);
        };
        let was_shown = self.detail == Detail::Everything && !build.ran_beside_others;
        let tail = build.tail();
        if !was_shown && !tail.is_empty() {
            self.print_always(BOLD, &format!("The log of {derivation} ends with:"));
            for line in tail {
                self.print_always("", &format!("  {line}"));
            }
        }
        let file = build.log_file.replace("//", "/");
        self.print_always(BOLD, &format!("View build log at '{file}'."));
    }

    fn print(&mut self, color: &str, text: &str) {
        if self.detail > Detail::Nothing {
            self.print_always(color, text);
        }
    }

    fn print_always(&mut self, color: &str, text: &str) {
        // Another daemon, or a hook, may forward untrusted text.
        let text = printable(text);
        let line = match self.colors && !color.is_empty() {
            true => format!("{color}{text}\x1b[0m\n"),
            false => format!("{text}\n"),
        };
        self.show(Source::Daemon, line.as_bytes());
    }

    /// Shows the rest of incomplete lines and, if builds failed, how many succeeded.
    pub fn finish(mut self) -> io::Result<Builds> {
        let line = std::mem::take(&mut self.line);
        if self.detail > Detail::Nothing && !line.is_empty() {
            self.show(Source::Daemon, &line);
        }
        for (pid, line) in self.builds.take_lines() {
            self.builder = pid;
            self.builder_line(&line);
        }
        let downloaded = self.downloads.finish();
        self.put(b"");
        if let Some(downloaded) = downloaded {
            self.print(BOLD, &downloaded);
        }
        if let Some(summary) = self.builds.summary() {
            self.print(BOLD, &summary);
        }
        self.out.flush()?;
        Ok(self.builds)
    }
}

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[1;32m";
const RED: &str = "\x1b[1;31m";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builds::Place;

    fn downloads() -> Downloads {
        Downloads::expecting(0, 0, false)
    }

    /// However the log is split, the output is the same.
    fn shown(log: &str, detail: Detail) -> String {
        let mut results = [1, 2, 7, log.len().max(1)].map(|step| {
            let mut out = Vec::new();
            let mut printer = LogPrinter::new(&mut out, detail, false, 1, downloads());
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

    fn wrapped(pid: u32, output: &str) -> String {
        format!("@ build-log {pid} {}\n{output}", output.len())
    }

    fn log() -> String {
        [
            "@ build-started /x.drv - x86_64-linux /log/drvs/x//y.drv.gz 12\n",
            &wrapped(12, "hello\n"),
            &wrapped(12, "@ build-remote /x.drv machine\nab"),
            &wrapped(12, "@ build-succeeded /x.drv -\n"),
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
    }

    #[test]
    fn the_end_of_a_failed_log_is_shown_even_if_nothing_else_is() {
        let end = "The log of /x.drv ends with:\n  hello\n  ab@ build-succeeded /x.drv -\n\
                   View build log at '/log/drvs/x/y.drv.gz'.\n";
        assert_eq!(
            shown(&log(), Detail::Events),
            format!(
                "building /x.drv...\noffloading build of /x.drv to 'machine'\na message\n\
                 build of /x.drv failed\n{end}"
            )
        );
        assert_eq!(shown(&log(), Detail::Nothing), end);
    }

    #[test]
    fn lines_of_several_builds_are_whole_and_named() {
        let derivation = |name| format!("/gnu/store/{}-{name}.drv", "0".repeat(32));
        let (one, two) = (derivation("one-1.0"), derivation("two"));
        let log = [
            &format!("@ build-started {one} - x86_64-linux /log/one 1\n"),
            &wrapped(1, "alone\nbeg"),
            &format!("@ build-started {two} - x86_64-linux /log/two 2\n"),
            &wrapped(2, "left "),
            &wrapped(1, "un\n"),
            &wrapped(2, "right\nthe end"),
            &format!("@ build-failed {two} - 1 why\n"),
            &wrapped(1, "alone again\n"),
            &format!("@ build-succeeded {one} -\n"),
        ]
        .map(String::as_str)
        .concat();
        let mut out = Vec::new();
        let mut printer = LogPrinter::new(&mut out, Detail::Everything, false, 2, downloads());
        printer.write(log.as_bytes());
        let builds = printer.finish().unwrap();
        assert_eq!(builds.place_of(&one), Place::Daemon);
        assert_eq!(builds.place_of("/other.drv"), Place::Unknown);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                "building {one}...\nalone\nbeg\nbuilding {two}...\none-1.0> un\n\
                 two> left right\ntwo> the end\nbuild of {two} failed\n\
                 The log of {two} ends with:\n  left right\n  the end\n\
                 View build log at '/log/two'.\nalone again\n\
                 successfully built {one} (1 of 2)\n1 of 2 derivations built, 1 failed\n"
            )
        );
    }

    #[test]
    fn builds_of_unknown_processes_are_kept_apart() {
        let log = "@ build-started /x.drv - x86_64-linux /log/x\n\
                   @ build-started /y.drv - x86_64-linux /log/y\n\
                   @ build-failed /x.drv - 1 why\n@ build-failed /y.drv - 1 why\n";
        assert_eq!(
            shown(log, Detail::Nothing),
            "View build log at '/log/x'.\nView build log at '/log/y'.\n"
        );
    }

    #[test]
    fn the_last_attempt_tells_where_it_was_built() {
        let started = "@ build-started /x.drv - x86_64-linux /log/x 1\n";
        let sent = |machine| format!("@ build-remote /x.drv {machine}\n");
        let failed = "@ hook-failed /x.drv - 256 why\n";
        let first = [started, &sent("one"), failed].concat();
        let machine = |name: &str| Place::Machine(name.to_owned());
        for (log, place) in [
            ("", Place::Unknown),
            (started, Place::Daemon),
            // It may have failed when the outputs were here.
            (&first, machine("one")),
            (&[&first, started].concat(), Place::Daemon),
            (&[&first, started, &sent("two")].concat(), machine("two")),
        ] {
            let mut printer = LogPrinter::new(io::sink(), Detail::Nothing, false, 1, downloads());
            printer.write(log.as_bytes());
            let builds = printer.finish().unwrap();
            assert_eq!(builds.place_of("/x.drv"), place, "{log}");
        }
    }

    #[test]
    fn downloads_are_lines() {
        let item = format!("/gnu/store/{}-x-1.0", "0".repeat(32));
        let log = format!(
            "@ substituter-started {item} substitute\n\
             @ download-started {item} http://a/x 100\n\
             @ download-progress {item} http://a/x 100 50\n\
             @ download-succeeded {item} http://a/x 100\n\
             @ substituter-succeeded {item}\n"
        );
        let text = shown(&log, Detail::Events);
        let expected = format!(
            "substituting {item}...\ndownloading from http://a/x ...\ndownloaded x-1.0, 100 B in "
        );
        assert!(text.starts_with(&expected), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert_eq!(shown(&log, Detail::Nothing), "");
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
