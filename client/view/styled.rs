//! Lines with colors that are no wider than the terminal.

use system::terminal::cut;

/// A color, as a terminal's control sequence.
pub const RED: &str = "\x1b[31m";
/// Another one.
pub const GREEN: &str = "\x1b[32m";
/// Another one.
pub const YELLOW: &str = "\x1b[33m";
/// Not as bright as the rest.
pub const DIM: &str = "\x1b[2m";
/// No color.
pub const PLAIN: &str = "";

/// A line, in pieces of one color each, whose text is printable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(&'static str, String)>);

impl Line {
    /// A line of one color.
    pub fn of(color: &'static str, text: impl Into<String>) -> Line {
        Line::default().with(color, text)
    }

    /// This line, and something after it.
    pub fn with(mut self, color: &'static str, text: impl Into<String>) -> Line {
        self.0.push((color, text.into()));
        self
    }

    /// How many columns it takes.
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// The text, without colors.
    #[cfg(test)]
    pub fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// The line, cut if it is wider than so many columns.
    pub fn fitted(self, columns: usize) -> Line {
        let mut left = columns;
        let mut fitted = Vec::new();
        for (color, text) in self.0 {
            let text = cut(&text, left);
            left -= text.chars().count();
            fitted.push((color, text));
        }
        Line(fitted)
    }

    /// What a terminal is sent.
    pub fn to_terminal(&self, has_colors: bool) -> String {
        let mut all = String::new();
        for (color, text) in &self.0 {
            match has_colors && !color.is_empty() && !text.is_empty() {
                true => all.extend([color, text.as_str(), "\x1b[0m"]),
                false => all.push_str(text),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_the_right_column_whatever_its_colors() {
        let line = Line::of(RED, "abc").with(PLAIN, "def").with(GREEN, "ghi");
        assert_eq!(line.width(), 9);
        assert_eq!(line.clone().fitted(9), line);
        assert_eq!(line.clone().fitted(5).text(), "abcd…");
        assert_eq!(line.clone().fitted(0).text(), "");
        assert_eq!(line.to_terminal(false), "abcdefghi");
        let colored = "\x1b[31mabc\x1b[0md…";
        assert_eq!(line.fitted(5).to_terminal(true), colored);
    }
}
