//! What a build hook or a substituter says, for a client.
//!
//! Helpers quote others: servers, build machines, file names. Of what they say, a client gets
//!
//! * text, in which control characters are escaped as by [`formats::printable`];
//! * what Guix's programs draw progress bars with: tabs, carriage returns, and the terminal
//!   sequences that set colors or erase the rest of a line;
//! * the trace lines that are theirs, `@ build-remote` and `@ download-…`. Other lines that begin
//!   with `@ ` are the daemon's to write; a helper's get a space before them.

use std::io::Write;

use formats::printable::is_unprintable;

/// A longer word after `@ ` is no event's name.
const MAX_NAME: usize = 64;
/// The most bytes of a terminal sequence.
const MAX_SEQUENCE: usize = 24;

/// Filters the output of one helper, in pieces as they are read.
#[derive(Debug, Default)]
pub struct HelperFilter {
    /// The end of the last piece, if what follows decides what it is.
    held: Vec<u8>,
    /// Whether something of the current line was passed on.
    inside_line: bool,
}

impl HelperFilter {
    /// Filters output that is complete.
    ///
    /// ```
    /// use protocol::helper_filter::HelperFilter;
    ///
    /// let said = b"@ build-succeeded /gnu/store/x.drv -\n\x1b[2J\x1b[1mbold\x1b[0m\n";
    /// assert_eq!(
    ///     HelperFilter::whole(said),
    ///     b" @ build-succeeded /gnu/store/x.drv -\n\\u{1b}[2J\x1b[1mbold\x1b[0m\n"
    /// );
    /// ```
    pub fn whole(output: &[u8]) -> Vec<u8> {
        let mut filter = HelperFilter::default();
        let mut filtered = filter.filter(output);
        filtered.extend(filter.finish());
        filtered
    }

    /// Filters the next piece. What cannot be judged yet comes with the next one.
    pub fn filter(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        self.pass(false)
    }

    /// What was held back, at the end of the output.
    pub fn finish(&mut self) -> Vec<u8> {
        self.pass(true)
    }

    fn pass(&mut self, is_last: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let mut filtered = Vec::with_capacity(held.len() + 1);
        let mut rest = held.as_slice();
        while let Some(count) = self.step(rest, is_last, &mut filtered) {
            rest = &rest[count..];
        }
        self.held = rest.to_vec();
        filtered
    }

    /// Passes on what `rest` begins with, and returns how many bytes that was; `None` if that needs
    /// more of the output.
    fn step(&mut self, rest: &[u8], is_last: bool, filtered: &mut Vec<u8>) -> Option<usize> {
        let first = *rest.first()?;
        if !self.inside_line && first == b'@' {
            if !is_last && !is_judgeable(rest) {
                return None;
            }
            if rest.starts_with(b"@ ") && !is_helpers_event(&rest[2..]) {
                filtered.push(b' ');
            }
        }
        self.inside_line = !matches!(first, b'\n' | b'\r');
        if first == b'\x1b' {
            match sequence(rest) {
                Sequence::Drawing(length) => {
                    filtered.extend_from_slice(&rest[..length]);
                    return Some(length);
                }
                Sequence::Incomplete if !is_last => return None,
                _ => {}
            }
        }
        let (length, character) = match first_character(rest) {
            Character::Incomplete if !is_last => return None,
            Character::Whole(c) => (c.len_utf8(), c),
            // In the character sets that are older than UTF-8, these are control characters.
            _ if (0x80..=0x9f).contains(&first) => (1, char::from(first)),
            _ => {
                filtered.push(first);
                return Some(1);
            }
        };
        if is_unprintable(character) && !matches!(character, '\n' | '\r' | '\t') {
            // Writing to a vector cannot fail.
            let _ = write!(filtered, "{}", character.escape_unicode());
        } else {
            filtered.extend_from_slice(&rest[..length]);
        }
        Some(length)
    }
}

/// Whether enough of a line that begins with `@` is there to know whether it is an event.
fn is_judgeable(line: &[u8]) -> bool {
    match line.get(1) {
        None => false,
        Some(b' ') => line.len() > MAX_NAME || line[2..].iter().any(ends_name),
        Some(_) => true,
    }
}

fn ends_name(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r')
}

/// Whether this, which follows `@ `, begins with the name of an event that helpers report.
fn is_helpers_event(text: &[u8]) -> bool {
    let name = text.split(ends_name).next().unwrap_or_default();
    name == b"build-remote" || name.starts_with(b"download-")
}

enum Sequence {
    /// Sets colors or erases the rest of the line, in so many bytes.
    Drawing(usize),
    Incomplete,
    Other,
}

/// What the terminal sequence is that `text` begins with.
fn sequence(text: &[u8]) -> Sequence {
    for (index, byte) in text.iter().enumerate().take(MAX_SEQUENCE) {
        match (index, byte) {
            (0, _) | (1, b'[') => {}
            (1, _) => return Sequence::Other,
            (_, b'0'..=b'9' | b';') => {}
            (_, b'm' | b'K') => return Sequence::Drawing(index + 1),
            _ => return Sequence::Other,
        }
    }
    match text.len() < MAX_SEQUENCE {
        true => Sequence::Incomplete,
        false => Sequence::Other,
    }
}

enum Character {
    Whole(char),
    Incomplete,
    /// Not UTF-8.
    Invalid,
}

fn first_character(text: &[u8]) -> Character {
    let head = &text[..text.len().min(4)];
    let (valid, is_incomplete) = match std::str::from_utf8(head) {
        Ok(valid) => (valid, false),
        Err(error) => {
            let valid = std::str::from_utf8(&head[..error.valid_up_to()]);
            (valid.unwrap_or_default(), error.error_len().is_none())
        }
    };
    match valid.chars().next() {
        Some(c) => Character::Whole(c),
        None if is_incomplete && text.len() < 4 => Character::Incomplete,
        None => Character::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(output: &[u8], size: usize) -> Vec<u8> {
        let mut filter = HelperFilter::default();
        let mut filtered: Vec<u8> = output
            .chunks(size)
            .flat_map(|piece| filter.filter(piece))
            .collect();
        filtered.extend(filter.finish());
        filtered
    }

    #[test]
    fn what_helpers_may_say_is_unchanged() {
        let said = "plain é 中\tx\r\x1b[K50%\r\n@ download-progress /f u 1 2\n\
                    @ build-remote /x.drv m\n\x1b[1;31mred\x1b[0m @ build-log 1 2\n@x\n@";
        assert_eq!(HelperFilter::whole(said.as_bytes()), said.as_bytes());
    }

    #[test]
    fn the_daemons_events_and_other_sequences_are_not_passed_on() {
        let whole = |said: &[u8]| String::from_utf8(HelperFilter::whole(said)).unwrap();
        assert_eq!(whole(b"a\r@ build-log 1 9\n"), "a\r @ build-log 1 9\n");
        assert_eq!(whole(b"@ build-succeeded"), " @ build-succeeded");
        assert_eq!(whole(b"\x1b]0;title\x07"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(whole(b"\xc2\x9b2J \x9b2J"), "\\u{9b}2J \\u{9b}2J");
        assert_eq!(whole(b"@ build-remote\x0c d"), " @ build-remote\\u{c} d");
        assert_eq!(whole(b"\x1b"), "\\u{1b}");
    }

    proptest::proptest! {
        #[test]
        fn pieces_make_no_difference(
            output in "(@ (build-remote|build-log|download-x) |@|[\r\n]|\x1b\\[1?[mKJ]|\x1b|é|\u{9b}|x){0,12}",
            size in 1usize..9,
        ) {
            let whole = HelperFilter::whole(output.as_bytes());
            assert_eq!(in_pieces(output.as_bytes(), size), whole);
            assert_eq!(HelperFilter::whole(&whole), whole);
        }
    }
}
