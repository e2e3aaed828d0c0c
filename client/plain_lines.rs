//! The daemon's lines for files and pipes: without what only a terminal understands, and without the
//! states of a progress that a terminal would replace by later ones.

use std::io::Write;

/// Begins a control sequence (ECMA-48, section 5.4), with `[` after it.
const ESCAPE: u8 = 0x1b;

/// What a terminal would show last, and may replace.
#[derive(Default)]
pub struct PlainLines {
    replaceable: Vec<u8>,
}

impl PlainLines {
    /// What is to be shown of a piece of text, which ends with its only line feed or carriage return,
    /// or is a line without an end.
    pub fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut text = without_sequences(piece);
        if text.last() == Some(&b'\r') {
            text.pop();
            if !text.is_empty() {
                self.replaceable = text;
            }
            return Vec::new();
        }
        let before = std::mem::take(&mut self.replaceable);
        match text.as_slice() {
            b"\n" => [before, text].concat(),
            _ => text,
        }
    }

    /// What nothing has replaced.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.replaceable);
        if !text.is_empty() {
            text.push(b'\n');
        }
        text
    }
}

/// The longest line that is kept until it is complete, in bytes.
const MAX_LINE: usize = 8192;

/// Writes the daemon's messages, whichever pieces they come in, as lines.
pub struct LineWriter<W: Write> {
    out: W,
    lines: PlainLines,
    /// The beginning of a line.
    line: Vec<u8>,
}

impl<W: Write> LineWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> LineWriter<W> {
        LineWriter {
            out,
            lines: PlainLines::default(),
            line: Vec::new(),
        }
    }

    /// Writes a piece. Errors of standard error are handled where that is.
    pub fn write(&mut self, text: &[u8]) {
        for piece in text.split_inclusive(|byte| b"\r\n".contains(byte)) {
            self.line.extend_from_slice(piece);
            if b"\r\n".contains(&piece[piece.len() - 1]) || self.line.len() >= MAX_LINE {
                let line = std::mem::take(&mut self.line);
                let _ = self.out.write_all(&self.lines.take(&line));
            }
        }
    }
}

impl<W: Write> Drop for LineWriter<W> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            let _ = self.out.write_all(&self.lines.take(&line));
        }
        let _ = self.out.write_all(&self.lines.finish());
    }
}

fn without_sequences(mut text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    while let Some((&byte, rest)) = text.split_first() {
        text = match rest.strip_prefix(b"[") {
            Some(sequence) if byte == ESCAPE => {
                let end = sequence
                    .iter()
                    .position(|byte| !(0x20..0x40).contains(byte));
                end.map_or(&[], |end| &sequence[end + 1..])
            }
            _ => {
                plain.push(byte);
                rest
            }
        };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of a text that is taken line by line.
    fn plain(text: &str) -> String {
        let mut lines = PlainLines::default();
        let pieces = text
            .as_bytes()
            .split_inclusive(|byte| b"\r\n".contains(byte));
        let mut shown: Vec<u8> = pieces.flat_map(|piece| lines.take(piece)).collect();
        shown.extend(lines.finish());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn only_the_last_state_of_a_progress_is_shown() {
        assert_eq!(
            plain("\x1b[Klooking...   0.0%\r\x1b[Klooking... 100.0%\n"),
            "looking... 100.0%\n"
        );
        assert_eq!(
            plain("\r\x1b[KDownloading...\n 1%\r 2%\r\n"),
            "Downloading...\n 2%\n"
        );
        assert_eq!(plain(" 1%\r 2%\r"), " 2%\n");
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let text = "\x1b[Ka 0%\r\x1b[Ka 100%\nb\r\nc\r";
        for step in 1..text.len() {
            let mut shown = Vec::new();
            let mut lines = LineWriter::new(&mut shown);
            text.as_bytes()
                .chunks(step)
                .for_each(|piece| lines.write(piece));
            drop(lines);
            assert_eq!(String::from_utf8(shown).unwrap(), "a 100%\nb\nc\n");
        }
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        for text in ["", "a\n\nb\n", "a", "\u{1b}", "100 \u{2713}\n"] {
            assert_eq!(plain(text), text);
        }
        assert_eq!(plain("a\r\nb\r\n"), "a\nb\n");
        assert_eq!(plain("\x1b[1;31mred\x1b[0m\n"), "red\n");
        assert_eq!(plain("\x1b[31"), "");
    }
}
