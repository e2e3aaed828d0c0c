//! What a build machine's daemon sends during a build: builder output goes to the hook's log, and
//! of the daemon's own messages only those are kept that explain why the build failed.
//!
//! Builder output follows a [`Trace::BuildLog`] line (`doc/spec/worker-protocol.md`, section 7).
//! Daemons with protocol versions before 0x163 do not mark builder output.

use std::io::{self, Write};

use protocol::trace::Trace;

/// The maximum length of a daemon's line that is examined.
const DAEMON_LINE_LIMIT: usize = 8 << 10;
/// The daemon's message when a build failed while a disk was (nearly) full.
const DISK_FULL: &str = "note: build failure may have been caused by lack of free disk space";

/// Separates builder output from the daemon's own messages during the build of one derivation.
pub(super) struct DaemonLog<'a> {
    out: &'a mut dyn Write,
    derivation: &'a str,
    is_marked: bool,
    /// Whether the daemon's previous line was [`DISK_FULL`].
    is_noted: bool,
    /// The beginning of a line of the daemon.
    line: Vec<u8>,
    /// The number of bytes of builder output that follow.
    payload: u64,
    /// Why the log could not be written.
    pub write_error: Option<io::Error>,
    /// The daemon there says that a disk was full. A builder can print the same words, so they
    /// count only if its output is marked; and it can put them, with line feeds around, into the
    /// name of a file that the daemon then complains of, so they count only as a line directly
    /// before the one that says how the build ended.
    pub disk_full: bool,
    /// The daemon's last message about how a build failed.
    pub remark: Option<String>,
    /// The last line that is not the builder's.
    pub last_line: Option<String>,
}

impl<'a> DaemonLog<'a> {
    /// `is_marked`: whether the daemon marks builder output.
    pub fn new(out: &'a mut dyn Write, derivation: &'a str, is_marked: bool) -> DaemonLog<'a> {
        DaemonLog {
            out,
            derivation,
            is_marked,
            is_noted: false,
            line: Vec::new(),
            payload: 0,
            write_error: None,
            disk_full: false,
            remark: None,
            last_line: None,
        }
    }

    /// Processes the next bytes.
    pub fn write(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            if self.payload > 0 {
                let count = self.payload.min(text.len() as u64) as usize;
                self.payload -= count as u64;
                self.show(&text[..count]);
                text = &text[count..];
                continue;
            }
            let end = text.iter().position(|&byte| byte == b'\n');
            let (piece, rest) = text.split_at(end.map_or(text.len(), |end| end + 1));
            let room = DAEMON_LINE_LIMIT.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if end.is_some() {
                self.daemon_line();
            }
            text = rest;
        }
        if self.write_error.is_none() {
            self.write_error = self.out.flush().err();
        }
    }

    fn daemon_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        if let Some(Trace::BuildLog { length, .. }) = Trace::parse(&text) {
            self.payload = length;
            return;
        }
        if line.starts_with(b"@ ") {
            return; // events there, such as substitutions, are none of this daemon's
        }
        if !self.is_marked {
            self.show(&line);
        }
        let text = text.trim();
        self.disk_full |= self.is_noted && says_how_it_ended(text, self.derivation);
        self.is_noted = self.is_marked && text == DISK_FULL;
        if text.starts_with("builder for ") || text.contains(" timed out after ") {
            self.remark = Some(text.to_owned());
        }
        if !text.is_empty() {
            self.last_line = Some(text.to_owned());
        }
    }

    fn show(&mut self, text: &[u8]) {
        if self.write_error.is_none() {
            self.write_error = self.out.write_all(text).err();
        }
    }
}

/// Whether a line is exactly ``builder for `DERIVATION' failed with exit code N`` or `… due to
/// signal N (NAME)`.
fn says_how_it_ended(line: &str, derivation: &str) -> bool {
    let end = line
        .strip_prefix("builder for `")
        .and_then(|rest| rest.strip_prefix(derivation)?.strip_prefix("' failed "));
    let Some(end) = end else {
        return false;
    };
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    if let Some(code) = end.strip_prefix("with exit code ") {
        return is_number(code);
    }
    end.strip_prefix("due to signal ")
        .and_then(|signal| signal.strip_suffix(')')?.split_once(" ("))
        .is_some_and(|(number, name)| is_number(number) && !name.contains(['\'', '`']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builder_output_and_messages_are_separated() {
        let text = b"@ build-started /x.drv - x - 1\n@ build-log 12 7\nab\n@ c\n\
            note: build failure may have been caused by lack of free disk space\n\
            builder for `/x.drv' failed with exit code 3\n@ build-log 12 2\nz\n";
        // However the text is split.
        for size in 1..text.len() {
            let mut out = Vec::new();
            let mut log = DaemonLog::new(&mut out, "/x.drv", true);
            text.chunks(size).for_each(|piece| log.write(piece));
            assert!(log.disk_full);
            assert_eq!(
                log.remark.as_deref(),
                Some("builder for `/x.drv' failed with exit code 3")
            );
            assert_eq!(out, b"ab\n@ c\nz\n");
        }
    }

    #[test]
    fn old_daemons_do_not_mark_builder_output() {
        let mut out = Vec::new();
        DaemonLog::new(&mut out, "/x.drv", false).write(b"@ build-started x\nline\n");
        assert_eq!(out, b"line\n");
    }

    #[test]
    fn only_the_daemon_can_say_that_a_disk_is_full() {
        let says_so = |text: &str, is_marked| {
            let mut out = Vec::new();
            let mut log = DaemonLog::new(&mut out, "/x.drv", is_marked);
            log.write(text.as_bytes());
            log.disk_full
        };
        let note = format!("{DISK_FULL}\n");
        let ended = "builder for `/x.drv' failed with exit code 1\n";
        let killed = "builder for `/x.drv' failed due to signal 9 (Killed)\n";
        assert!(says_so(&format!("{note}{ended}"), true));
        assert!(says_so(&format!("x\n{note}@ x\n{killed}"), true));
        // Without marks, the sender of a line is unknown.
        assert!(!says_so(&format!("{note}{ended}"), false));
        let framed = format!("@ build-log 12 {}\n{note}{ended}", note.len());
        assert!(!says_so(&framed, true));
        // Messages about a file that the builder has named.
        for name in [
            DISK_FULL.to_owned(),
            format!("\n{note}"),
            format!("\n{note}{}", ended.trim()),
            format!("\n{note}{}", killed.trim()),
            format!("\n{note}builder for `/x.drv' failed due to signal 9 ("),
        ] {
            assert!(
                !says_so(&format!("file `{name}' is bad ()\n"), true),
                "{name}"
            );
        }
    }
}
