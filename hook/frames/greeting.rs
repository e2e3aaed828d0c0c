//! The line by which each side begins, and what login scripts print before it.

use super::VERSION;
use super::error::{FrameError, Said};

/// How many bytes before the greeting are skipped, at most.
pub(super) const SKIPPED_LIMIT: usize = 64 << 10;
/// How many bytes of these are kept, for messages.
const KEPT: usize = 1 << 10;
/// What the line begins with; the version follows.
const MAGIC: &[u8] = b"guix-offload worker ";
/// The longest version, in digits.
const DIGITS: usize = 10;
/// The longest line of a greeting, in bytes.
const LINE_LIMIT: usize = MAGIC.len() + DIGITS + 2;

/// The greeting that this version sends. The first line ends what a script has printed without an end
/// of line.
pub(super) fn greeting() -> Vec<u8> {
    format!("\nguix-offload worker {VERSION}\n").into_bytes()
}

/// The other side's greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What was printed before it: the last lines.
    pub before: String,
}

/// Looks for the greeting in what arrives.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// The line that is arriving, as far as it can be a greeting.
    line: Vec<u8>,
    /// The end of what came before.
    kept: Vec<u8>,
    skipped: usize,
}

impl Search {
    /// Takes the next byte. Returns the greeting once it is complete.
    pub fn take(&mut self, byte: u8) -> Result<Option<Greeting>, FrameError> {
        self.skipped += 1;
        if byte != b'\n' {
            if self.line.len() < LINE_LIMIT {
                self.line.push(byte);
            }
            self.keep(byte);
        } else if self.line.starts_with(MAGIC) {
            return self.end_of_greeting().map(Some);
        } else {
            self.line.clear();
            self.keep(byte);
        }
        if self.skipped > SKIPPED_LIMIT + LINE_LIMIT {
            return Err(FrameError::NoGreeting(self.said()));
        }
        Ok(None)
    }

    /// The error of a stream that has ended.
    pub fn ended(&self) -> FrameError {
        FrameError::EndBeforeGreeting(self.said())
    }

    fn end_of_greeting(&self) -> Result<Greeting, FrameError> {
        let version = &self.line[MAGIC.len()..];
        let version = String::from_utf8_lossy(version).into_owned();
        if version == VERSION.to_string() {
            let length = self.kept.len().saturating_sub(self.line.len());
            let before = text(&self.kept[..length]);
            return Ok(Greeting { before });
        }
        match version.strip_suffix('\r') {
            Some(_) => Err(FrameError::Terminal),
            None if is_number(&version) => Err(FrameError::Version { theirs: version }),
            None => Err(FrameError::NoGreeting(self.said())),
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.kept.len() == 2 * KEPT {
            self.kept.drain(..KEPT);
        }
        self.kept.push(byte);
    }

    fn said(&self) -> Said {
        Said(text(&self.kept))
    }
}

fn is_number(version: &str) -> bool {
    !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
}

/// The end of what was said.
fn text(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(KEPT);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}
