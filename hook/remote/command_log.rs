//! The output of `guix build` on a machine, of which only builder output goes to the hook's log.
//!
//! `guix build` does not mark builder output; its own messages are recognised by their text, the
//! same whatever the pieces in which the text arrives.

use std::io::{self, Write};

/// How much of a message of `guix build` is removed. What is longer is a builder's line.
const MESSAGE_LIMIT: usize = 8 << 10;

/// What `guix build` prints at the beginning of a line.
const AT_START: [&str; 2] = [
    "The following derivation will be built:",
    "View build log at '",
];

/// What `guix build` prints before the name of the derivation. This follows the builder's last line
/// directly if that has no newline.
const BEFORE_NAME: [&str; 8] = [
    "guix-client build: error: build of `",
    "guix build: error: build of `",
    "Could not find build log for '",
    "successfully built ",
    "building of `",
    "build of ",
    "building ",
    "builder for `",
];

/// Removes messages of `guix build` itself about the derivation from its output: each from where it
/// begins to the end of the line.
pub(super) struct CommandLog<'a> {
    out: &'a mut dyn Write,
    /// How messages begin that begin a line.
    at_start: Vec<Vec<u8>>,
    /// How messages begin that may follow other text.
    anywhere: Vec<Vec<u8>>,
    /// Text that may be the beginning of a message.
    held: Vec<u8>,
    /// Whether the next byte begins a line.
    begins_line: bool,
    /// How much more of a message may be removed.
    to_remove: usize,
}

/// Whether a message begins.
enum Beginning {
    /// Yes.
    Message,
    /// That depends on what follows.
    Undecided,
    /// No.
    Other,
}

impl<'a> CommandLog<'a> {
    /// For the build of `derivation`.
    pub fn new(out: &'a mut dyn Write, derivation: &str) -> CommandLog<'a> {
        let named = |words: &str| [words, derivation].concat().into_bytes();
        let mut at_start = AT_START.map(|words| words.as_bytes().to_vec()).to_vec();
        at_start.push(named("  "));
        CommandLog {
            out,
            at_start,
            anywhere: BEFORE_NAME.map(named).to_vec(),
            held: Vec::new(),
            begins_line: true,
            to_remove: 0,
        }
    }

    /// Processes the next bytes.
    pub fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(text);
        // What is before `end` is decided; what is before `start`, too, is written or removed.
        let (mut start, mut end) = (0, 0);
        while end < held.len() {
            let ends_line = held[end] == b'\n';
            if self.to_remove > 0 {
                self.to_remove = if ends_line { 0 } else { self.to_remove - 1 };
                start = end + 1;
            } else {
                match self.beginning(&held[end..]) {
                    Beginning::Other => {}
                    Beginning::Undecided => break,
                    Beginning::Message => {
                        self.out.write_all(&held[start..end])?;
                        self.to_remove = MESSAGE_LIMIT;
                        continue;
                    }
                }
            }
            self.begins_line = ends_line;
            end += 1;
        }
        self.out.write_all(&held[start..end])?;
        held.drain(..end);
        self.held = held;
        self.out.flush()
    }

    /// Whether a message begins with this text.
    fn beginning(&self, text: &[u8]) -> Beginning {
        let at_start = match self.begins_line {
            true => self.at_start.as_slice(),
            false => &[],
        };
        let mut beginning = Beginning::Other;
        for words in at_start.iter().chain(&self.anywhere) {
            if words[0] != text[0] {
                continue;
            }
            if text.starts_with(words) {
                return Beginning::Message;
            }
            if words.starts_with(text) {
                beginning = Beginning::Undecided;
            }
        }
        beginning
    }

    /// Writes held-back output.
    pub fn finish(self) -> io::Result<()> {
        self.out.write_all(&self.held)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use bstr::{BString, ByteSlice};
    use proptest::prelude::*;

    use super::*;

    const DERIVATION: &str = "/gnu/store/x.drv";

    /// What is left of text that arrives in these pieces.
    fn builder_output(pieces: &[&[u8]]) -> BString {
        let mut out = Vec::new();
        let mut log = CommandLog::new(&mut out, DERIVATION);
        for piece in pieces {
            log.write(piece).unwrap();
        }
        log.finish().unwrap();
        out.into()
    }

    /// Words of `guix build`, whole and in parts, the derivation's name, and other text.
    fn words() -> impl Strategy<Value = Vec<u8>> {
        let mut words: Vec<Vec<u8>> = [&AT_START[..], &BEFORE_NAME[..], &[DERIVATION, "\n", "  "]]
            .concat()
            .iter()
            .map(|words| words.as_bytes().to_vec())
            .collect();
        words.push(vec![b'x'; MESSAGE_LIMIT - 1]);
        let word = proptest::sample::select(words);
        let part = (word, 0..64usize, 0..64usize).prop_map(|(word, from, cut)| {
            // Mostly whole.
            let from = if from < 48 { 0 } else { from.min(word.len()) };
            let to = if cut < 48 {
                0
            } else {
                cut.min(word.len() - from)
            };
            word[from..word.len() - to].to_vec()
        });
        let any = proptest::collection::vec(any::<u8>(), 0..3);
        proptest::collection::vec(prop_oneof![6 => part, 1 => any], 0..24)
            .prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn what_is_recognised_does_not_depend_on_the_pieces(
            text in words(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        ) {
            let whole = builder_output(&[&text]);
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            prop_assert_eq!(&builder_output(&bytes), &whole);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut start = 0;
            for end in cuts.into_iter().chain([text.len()]) {
                pieces.push(&text[start..end]);
                start = end;
            }
            prop_assert_eq!(&builder_output(&pieces), &whole);
        }
    }

    #[test]
    fn a_line_may_name_the_derivation_twice() {
        let text = format!("see {DERIVATION}, building {DERIVATION}...\nmore\n");
        for size in 1..=text.len() {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let expected = format!("see {DERIVATION}, more\n");
            assert_eq!(
                builder_output(&pieces).as_bstr(),
                expected.as_bytes().as_bstr()
            );
        }
    }

    #[test]
    fn a_long_line_of_a_builder_is_not_lost() {
        let long = "y".repeat(3 * MESSAGE_LIMIT);
        let text = format!("building {DERIVATION}{long}\n");
        let out = builder_output(&[text.as_bytes()]);
        assert_eq!(out.len(), text.len() - MESSAGE_LIMIT);
    }

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
