//! What a build machine's daemon sends during a build: the builder's output goes to the hook's log,
//! and of the daemon's own messages only those are kept that say why the build failed.
//!
//! Builder output follows a [`Trace::BuildLog`] line (`doc/spec/worker-protocol.md`, section 7).
//! Daemons before protocol version 0x163 do not mark it.

use std::io::{self, Write};

use protocol::trace::Trace;

/// The longest line of the daemon that is looked at.
const LINE_LIMIT: usize = 8 << 10;
/// What the daemon says when a build failed while its disk was (nearly) full.
const DISK_FULL: &str = "build failure may have been caused by lack of free disk space";

/// Separates builder output from the daemon's own messages.
pub(super) struct DaemonLog<'a> {
    out: &'a mut dyn Write,
    is_marked: bool,
    /// The beginning of a line of the daemon.
    line: Vec<u8>,
    /// How many bytes of builder output follow.
    payload: u64,
    /// Why the log could not be written.
    pub write_error: Option<io::Error>,
    /// The disk there was full.
    pub disk_full: bool,
    /// The daemon's last message about how a build failed.
    pub remark: Option<String>,
}

impl<'a> DaemonLog<'a> {
    /// `is_marked`: the daemon marks builder output.
    pub fn new(out: &'a mut dyn Write, is_marked: bool) -> DaemonLog<'a> {
        DaemonLog {
            out,
            is_marked,
            line: Vec::new(),
            payload: 0,
            write_error: None,
            disk_full: false,
            remark: None,
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
            let room = LINE_LIMIT.saturating_sub(self.line.len());
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
        self.disk_full |= text.contains(DISK_FULL);
        if text.starts_with("builder for ") || text.contains(" timed out after ") {
            self.remark = Some(text.to_owned());
        }
    }

    fn show(&mut self, text: &[u8]) {
        if self.write_error.is_none() {
            self.write_error = self.out.write_all(text).err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builder_output_and_messages_are_separated() {
        let text = b"@ build-started /x.drv - x - 1\n@ build-log 12 7\nab\n@ c\nbuilder for `x' failed with exit code 3\n\
            @ build-log 12 2\nz\nnote: build failure may have been caused by lack of free disk space\n";
        // However it is cut into pieces.
        for size in 1..text.len() {
            let mut out = Vec::new();
            let mut log = DaemonLog::new(&mut out, true);
            text.chunks(size).for_each(|piece| log.write(piece));
            assert!(log.disk_full);
            assert_eq!(
                log.remark.as_deref(),
                Some("builder for `x' failed with exit code 3")
            );
            assert_eq!(out, b"ab\n@ c\nz\n");
        }
    }

    #[test]
    fn old_daemons_do_not_mark_builder_output() {
        let mut out = Vec::new();
        DaemonLog::new(&mut out, false).write(b"@ build-started x\nline\n");
        assert_eq!(out, b"line\n");
    }
}
