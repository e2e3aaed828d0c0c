//! The output of `guix build` on a machine, of which only builder output goes to the hook's log.
//!
//! `guix build` does not mark builder output; its own messages are recognised by their text.

use std::io::{self, Write};

use bstr::ByteSlice;

/// The maximum length of a line of `guix build` that is examined.
const GUIX_BUILD_LINE_LIMIT: usize = 8 << 10;

/// Removes messages of `guix build` itself about the derivation from its standard error.
pub(super) struct CommandLog<'a> {
    out: &'a mut dyn Write,
    /// Lines that begin like this are not builder output.
    own: [&'static str; 2],
    /// Text that begins like this and continues with the derivation's name isn't, either. It
    /// follows the builder's last line directly if that has no newline.
    before_name: [&'static str; 8],
    derivation: String,
    /// Bytes that may be the beginning of such text.
    held: Vec<u8>,
    /// Whether the beginning of the current line has been written.
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
            // A phrase comes before its suffixes.
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

    /// Processes the next bytes.
    pub fn write(&mut self, text: &[u8]) -> io::Result<()> {
        for piece in text.split_inclusive(|&byte| byte == b'\n') {
            let complete = piece.ends_with(b"\n");
            self.held.extend_from_slice(piece);
            let line = &self.held[..];
            let (shown, swallowed) = match self.find_own(line) {
                // A line must not be held back without limit, whoever prints it.
                Some(start) if complete || line.len() - start > GUIX_BUILD_LINE_LIMIT => {
                    (start, line.len())
                }
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

    /// Where a message of `guix build` about the derivation begins in a line.
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

    /// Where an incomplete line may begin to be a message of `guix build`.
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

    /// Writes held-back output.
    pub fn finish(self) -> io::Result<()> {
        self.out.write_all(&self.held)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_guix_build_are_removed() {
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
    fn a_last_line_without_newline_is_the_builders() {
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
}
