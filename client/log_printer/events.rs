//! What has happened, in words.

use std::io::Write;

use protocol::trace::{BuildFailure, Trace};

use super::{BOLD, Detail, GREEN, LogPrinter, RED};
use crate::builds::Build;

impl<W: Write> LogPrinter<W> {
    /// Shows an event, which this builder or hook, or the daemon, has reported. Returns false if it must not report
    /// that. What isn't known is left out.
    pub(super) fn event(&mut self, line: &[u8], builder: Option<u32>) -> bool {
        let line = String::from_utf8_lossy(line);
        let Some(trace) = Trace::parse(&line) else {
            return true;
        };
        if !self.may_report(&trace, builder) {
            return false;
        }
        self.tell_view(&trace, builder);
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
                let count = self.builds.succeeded(derivation);
                self.print(GREEN, &format!("successfully built {derivation}{count}"));
            }
            Trace::BuildFailed {
                derivation,
                failure,
            } => {
                self.build_failed(derivation, failure);
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
                self.downloads.failed(builder, path);
                self.print(RED, &format!("substitution of {path} failed"));
            }
            Trace::DownloadStarted { file, url, .. } => {
                self.print(BOLD, &format!("downloading from {url} ..."));
                self.downloads.start(builder, file);
            }
            Trace::DownloadSucceeded { file, size, .. } => {
                let text = self.downloads.succeeded(builder, file, size);
                self.print(GREEN, &text);
                self.is_after_download = true;
            }
            // Failures are reported by separate messages.
            Trace::HookFailed { .. }
            | Trace::UnsupportedPlatform { .. }
            | Trace::SubstituterSucceeded { .. }
            | Trace::DownloadProgress { .. }
            | Trace::BuildPostponed { .. }
            | Trace::BuildVerdict { .. } => {}
        }
        true
    }

    fn tell_view(&mut self, trace: &Trace<'_>, builder: Option<u32>) {
        if let Some(view) = &self.view {
            let builds = &mut self.builds;
            let own = builder.and_then(|pid| builds.of_process(pid).derivation());
            // What a process of which nothing is known downloads is nobody's.
            if own.is_some() || builder.is_none() {
                view.happened(trace, own);
            }
        }
    }

    fn build_failed(&mut self, derivation: &str, failure: BuildFailure<'_>) {
        let build = self.end_build(derivation);
        self.builds.failed();
        self.print(RED, &format!("build of {derivation} failed"));
        let place = self.builds.place_of(derivation);
        self.failures
            .add(derivation, place, failure, build.as_ref());
        self.show_failure(derivation, build);
        self.is_after_failure = true;
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
        let Some(build) = build.filter(|build| !build.log_file().is_empty()) else {
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
        let text = format!("View build log at '{}'.", build.log_file());
        self.print_always(BOLD, &text);
    }
}
