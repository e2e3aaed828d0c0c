//! The daemon's lines for files and pipes: without what only a terminal understands, and without the
//! states of a progress that a terminal would replace by later ones.

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
    fn other_lines_stay_as_they_are() {
        for text in ["", "a\n\nb\n", "a", "\u{1b}", "100 \u{2713}\n"] {
            assert_eq!(plain(text), text);
        }
        assert_eq!(plain("a\r\nb\r\n"), "a\nb\n");
        assert_eq!(plain("\x1b[1;31mred\x1b[0m\n"), "red\n");
        assert_eq!(plain("\x1b[31"), "");
    }
}
