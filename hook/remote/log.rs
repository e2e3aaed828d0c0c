//! What a build machine's daemon says during a build, taken apart: the builder's output goes to
//! the hook's log, and what the daemon itself says is only remembered.
//!
//! Builders' output comes wrapped, after a [`Trace::BuildLog`] line (`doc/spec/worker-protocol.md`,
//! section 7). Daemons before 0x163 don't wrap it. `guix build` doesn't either; its own lines are
//! known by their words.

use std::io::{self, Write};

use bstr::ByteSlice;
use protocol::trace::Trace;

/// The longest line of the daemon that is looked at.
const MOST: usize = 8 << 10;
/// What the daemon says when a build failed while its disk was (nearly) full.
const DISK_FULL: &str = "build failure may have been caused by lack of free disk space";

/// Takes the daemon's log apart.
pub(super) struct BuildLog<'a> {
    out: &'a mut dyn Write,
    wrapped: bool,
    /// The beginning of a line of the daemon.
    line: Vec<u8>,
    /// How many bytes of a builder's output follow.
    payload: u64,
    /// The log can't be written any more.
    pub failed: Option<io::Error>,
    /// The disk there was full.
    pub disk_full: bool,
    /// How the daemon says that a build ended.
    pub remark: Option<String>,
}

impl<'a> BuildLog<'a> {
    /// `wrapped`: the daemon wraps what builders print.
    pub fn new(out: &'a mut dyn Write, wrapped: bool) -> BuildLog<'a> {
        BuildLog {
            out,
            wrapped,
            line: Vec::new(),
            payload: 0,
            failed: None,
            disk_full: false,
            remark: None,
        }
    }

    /// Takes a piece of it.
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
            let room = MOST.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if end.is_some() {
                self.daemon_line();
            }
            text = rest;
        }
        if self.failed.is_none() {
            self.failed = self.out.flush().err();
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
            return; // what happens there is not what happens here
        }
        if !self.wrapped {
            self.show(&line);
        }
        let text = text.trim();
        self.disk_full |= text.contains(DISK_FULL);
        if text.starts_with("builder for ") || text.contains(" timed out after ") {
            self.remark = Some(text.to_owned());
        }
    }

    fn show(&mut self, text: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.out.write_all(text).err();
        }
    }
}

/// What `guix build` prints on standard error, without its own lines about the derivation: only
/// the builder's output is left.
pub(super) struct CommandLog<'a> {
    out: &'a mut dyn Write,
    /// Lines that begin so are not the builder's.
    own: [&'static str; 2],
    /// Nor is what begins so and goes on with the derivation's name. It may come after the builder's
    /// last line, if that has no end.
    before_name: [&'static str; 8],
    derivation: String,
    /// What may be the beginning of such words.
    held: Vec<u8>,
    /// The beginning of this line was shown.
    inside_line: bool,
}

impl<'a> CommandLog<'a> {
    /// For the build of `derivation`.
    pub fn new(out: &'a mut dyn Write, derivation: &str) -> CommandLog<'a> {
        CommandLog {
            out,
            own: [
                "The following derivation will be built:",
                "View build log at '",
            ],
            // Those that end like others come first.
            before_name: [
                "guix-client build: error: build of `",
                "guix build: error: build of `",
                "Could not find build log for '",
                "successfully built ",
                "building of `",
                "build of ",
                "building ",
                "builder for `",
            ],
            derivation: derivation.to_owned(),
            held: Vec::new(),
            inside_line: false,
        }
    }

    /// Takes a piece of it.
    pub fn write(&mut self, text: &[u8]) -> io::Result<()> {
        for piece in text.split_inclusive(|&byte| byte == b'\n') {
            let complete = piece.ends_with(b"\n");
            self.held.extend_from_slice(piece);
            let line = &self.held[..];
            let (shown, swallowed) = match self.find_own(line) {
                // The rest of a line is bounded, whoever prints it.
                Some(start) if complete || line.len() - start > MOST => (start, line.len()),
                Some(start) => (start, start),
                None if complete => (line.len(), line.len()),
                None => {
                    let shown = self.undecided(line);
                    (shown, shown)
                }
            };
            self.out.write_all(&line[..shown])?;
            self.held.drain(..swallowed);
            self.inside_line = !complete && (self.inside_line || shown > 0 || swallowed > 0);
        }
        self.out.flush()
    }

    /// Where in a line `guix build` begins to speak of the derivation.
    fn find_own(&self, line: &[u8]) -> Option<usize> {
        let at_start = |words: &&str| line.starts_with(words.as_bytes());
        if !self.inside_line
            && (self.own.iter().any(at_start)
                || line
                    .strip_prefix(b"  ")
                    .is_some_and(|rest| rest.starts_with_str(&self.derivation)))
        {
            return Some(0);
        }
        let before = &line[..line.find(&self.derivation)?];
        let words = self
            .before_name
            .iter()
            .find(|words| before.ends_with_str(words))?;
        Some(before.len() - words.len())
    }

    /// From where on the beginning of a line may yet turn out to be words of `guix build`.
    fn undecided(&self, line: &[u8]) -> usize {
        let may_be = |text: &[u8]| {
            self.before_name.iter().any(|words| {
                let (words, name) = (words.as_bytes(), self.derivation.as_bytes());
                match text.strip_prefix(words) {
                    Some(rest) => name.starts_with(rest),
                    None => words.starts_with(text),
                }
            })
        };
        let starts = |text: &[u8]| {
            self.own
                .iter()
                .any(|words| words.as_bytes().starts_with(text))
                || format!("  {}", self.derivation)
                    .as_bytes()
                    .starts_with(text)
        };
        if !self.inside_line && starts(line) {
            return 0;
        }
        let longest = self.derivation.len() + self.before_name[0].len();
        (line.len().saturating_sub(longest)..line.len())
            .find(|&start| may_be(&line[start..]))
            .unwrap_or(line.len())
    }

    /// Shows what was held back.
    pub fn finish(self) -> io::Result<()> {
        self.out.write_all(&self.held)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guix_build_says_is_left_out() {
        let text = b"The following derivation will be built:\n  /x.drv\nbuilding /x.drv...\n\
            building things\n...\nbuild of /x.drv failed\nView build log at '/log'.\n\
            guix build: error: build of `/x.drv' failed\n  b";
        for size in 1..text.len() {
            let mut out = Vec::new();
            let mut log = CommandLog::new(&mut out, "/x.drv");
            text.chunks(size)
                .for_each(|piece| log.write(piece).unwrap());
            log.finish().unwrap();
            assert_eq!(out, b"building things\n...\n  b");
        }
    }

    #[test]
    fn a_last_line_without_end_is_the_builders() {
        let text = b"one\ntwo build successfully built /x.drv\nthree build of /x.drv failed\n\
            fourguix build: error: build of `/x.drv' failed\nfive /x.drv\nb";
        for size in 1..=text.len() {
            let mut out = Vec::new();
            let mut log = CommandLog::new(&mut out, "/x.drv");
            text.chunks(size)
                .for_each(|piece| log.write(piece).unwrap());
            log.finish().unwrap();
            assert_eq!(out.as_bstr(), "one\ntwo build three fourfive /x.drv\nb");
        }
    }

    #[test]
    fn builders_and_the_daemon_are_told_apart() {
        let text = b"@ build-started /x.drv - x - 1\n@ build-log 12 7\nab\n@ c\nbuilder for `x' failed with exit code 3\n\
            @ build-log 12 2\nz\nnote: build failure may have been caused by lack of free disk space\n";
        // However it is cut.
        for size in 1..text.len() {
            let mut out = Vec::new();
            let mut log = BuildLog::new(&mut out, true);
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
    fn old_daemons_do_not_wrap() {
        let mut out = Vec::new();
        BuildLog::new(&mut out, false).write(b"@ build-started x\nline\n");
        assert_eq!(out, b"line\n");
    }
}
