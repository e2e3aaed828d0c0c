//! The lines below the log, on the terminal: drawn over what was there, so that nothing flickers, and the
//! log is what it would be without them.

use super::styled::Line;

/// Have terminals that can show what comes between these two at once; others ignore them.
const BEGIN: &[u8] = b"\x1b[?2026h";
const END: &[u8] = b"\x1b[?2026l";

/// What is drawn of them.
#[derive(Default)]
pub struct Block {
    /// How wide each line is.
    widths: Vec<usize>,
    /// How many columns the terminal had.
    columns: usize,
}

impl Block {
    /// What a terminal is to be sent so that `log`, whole lines, is where the lines were, and `lines` are
    /// below it. The cursor stays at the end of the last one. No line may be as wide as the terminal, which has
    /// so many columns now.
    pub fn frame(&mut self, log: &[u8], lines: &[Line], columns: usize, colors: bool) -> Vec<u8> {
        let mut frame = Vec::with_capacity(log.len() + 256);
        let is_drawn = !self.widths.is_empty();
        if is_drawn && !log.is_empty() {
            frame.extend_from_slice(BEGIN);
        }
        if is_drawn {
            frame.push(b'\r');
            let up = self.rows(columns) - 1;
            if up > 0 {
                frame.extend(format!("\x1b[{up}A").into_bytes());
            }
        }
        // (Divided lines would not all be drawn over.)
        let is_resized = columns != std::mem::replace(&mut self.columns, columns);
        if is_drawn && (!log.is_empty() || lines.is_empty() || is_resized) {
            frame.extend_from_slice(b"\x1b[J");
        }
        frame.extend_from_slice(log);
        if !lines.is_empty() {
            // A character may be wider than it is counted: then it isn't shown.
            frame.extend_from_slice(b"\x1b[?7l");
            let texts: Vec<String> = lines.iter().map(|line| line.to_terminal(colors)).collect();
            frame.extend(texts.join("\x1b[K\r\n").into_bytes());
            frame.extend_from_slice(b"\x1b[K\x1b[J\x1b[?7h");
        }
        if is_drawn && !log.is_empty() {
            frame.extend_from_slice(END);
        }
        self.widths = lines.iter().map(Line::width).collect();
        frame
    }

    /// How many rows it takes. Terminals that have become narrower have divided its lines.
    fn rows(&self, columns: usize) -> usize {
        let columns = columns.max(1);
        let rows = self
            .widths
            .iter()
            .map(|width| width.div_ceil(columns).max(1));
        rows.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|&text| Line::of("", text)).collect()
    }

    #[test]
    fn the_log_takes_the_place_of_the_lines() {
        let mut block = Block::default();
        let mut frame = |log: &str, texts: &[&str], columns| {
            String::from_utf8(block.frame(log.as_bytes(), &lines(texts), columns, false)).unwrap()
        };
        assert_eq!(frame("one\n", &[], 80), "one\n");
        assert_eq!(
            frame("two\n", &["a", "bb"], 80),
            "two\n\x1b[?7la\x1b[K\r\nbb\x1b[K\x1b[J\x1b[?7h"
        );
        assert_eq!(
            frame("three\n", &["ccc"], 80),
            "\x1b[?2026h\r\x1b[1A\x1b[Jthree\n\x1b[?7lccc\x1b[K\x1b[J\x1b[?7h\x1b[?2026l"
        );
        // The terminal has become narrower, and has divided the line.
        assert_eq!(
            frame("", &["d"], 2),
            "\r\x1b[1A\x1b[J\x1b[?7ld\x1b[K\x1b[J\x1b[?7h"
        );
        assert_eq!(frame("", &[], 2), "\r\x1b[J");
        assert_eq!(frame("", &[], 2), "");
    }
}
