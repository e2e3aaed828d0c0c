//! Untrusted text, made safe to print on one line.
//!
//! A line feed in such text could add a line of its own to a log, and an escape sequence could
//! change what a terminal shows. Both are shown as escapes instead, in Rust's notation.

use std::borrow::Cow;
use std::fmt::Write;

/// `text` with control characters written as escapes (`\n`, `\t`, `\r` or `\u{1b}`). All other
/// text, backslashes included, stays as it is.
///
/// ```
/// use formats::printable::printable;
///
/// assert_eq!(printable("gcc-14.3.0 \\ ünïcödé"), "gcc-14.3.0 \\ ünïcödé");
/// assert_eq!(printable("x86_64\n@ \x1b[2J"), "x86_64\\n@ \\u{1b}[2J");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, is_unprintable)
}

/// Like [`printable`], for text of several lines: line feeds and tabs stay as they are.
///
/// ```
/// assert_eq!(formats::printable::printable_lines("a\n\tb\r\n"), "a\n\tb\\r\n");
/// ```
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| !matches!(c, '\n' | '\t') && is_unprintable(c))
}

/// Like [`printable`], for a word that is followed by a space: spaces are escaped too.
///
/// ```
/// assert_eq!(formats::printable::printable_word("a b"), "a\\u{20}b");
/// ```
pub fn printable_word(word: &str) -> Cow<'_, str> {
    escape(word, |c| c == ' ' || is_unprintable(c))
}

/// The same for a message of several lines that stands between trace lines: a line that would look
/// like a trace line, which begins with `@ `, begins with a space instead.
///
/// ```
/// assert_eq!(formats::printable::printable_message("a\n@ b\x1b"), "a\n @ b\\u{1b}");
/// ```
pub fn printable_message(text: &str) -> Cow<'_, str> {
    let lines = printable_lines(text);
    if !lines.starts_with("@ ") && !lines.contains("\n@ ") {
        return lines;
    }
    let indented = lines.split_inclusive('\n').map(|line| {
        let indent = if line.starts_with("@ ") { " " } else { "" };
        [indent, line].concat()
    });
    Cow::Owned(indented.collect())
}

/// The same for JSON, in which strings are written with escapes of its own. JSON requires them only for
/// the first 32 characters, but terminals obey others, too.
///
/// ```
/// assert_eq!(formats::printable::printable_json("[\n\"\u{85}\"]"), "[\n\"\\u0085\"]");
/// ```
pub fn printable_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_unprintable(c) {
            // Beyond the first 65536 characters, there are two escapes for one.
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe += &format!("\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Control characters, and Unicode characters that end lines, change the text direction, or cannot be seen
/// (Unicode's property `Default_Ignorable_Code_Point`, but for variation selectors and fillers): with these, two
/// names that differ would look the same.
///
/// U+200C and U+200D, which join or divide letters in some scripts and make one emoji of several, are among
/// them: names do without, and other text stays readable.
///
/// ```
/// use formats::printable::printable;
///
/// assert_eq!(printable("gcc\u{200b}-14"), "gcc\\u{200b}-14");
/// ```
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

fn escape(text: &str, unsafe_here: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&unsafe_here) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            _ if !unsafe_here(c) => escaped.push(c),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "{}", c.escape_unicode());
            }
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        let ranges = [
            '\u{61c}'..='\u{61c}',
            '\u{200b}'..='\u{200f}',
            '\u{202a}'..='\u{202e}',
            '\u{2060}'..='\u{206f}',
            '\u{feff}'..='\u{feff}',
            '\u{e0000}'..='\u{e007f}',
        ];
        for c in ranges.into_iter().flatten() {
            let escaped = format!("a\\u{{{:x}}}b", u32::from(c));
            assert_eq!(printable(&format!("a{c}b")), escaped);
        }
        // Digits, dashes, spaces and symbols around them are seen.
        let seen = "\u{61b}\u{200a}\u{2010}\u{2027}\u{202f}\u{2070}\u{fefe}\u{1f600}";
        assert_eq!(printable(seen), seen);
    }

    #[test]
    fn json_says_the_same_with_escapes_of_its_own() {
        let text = printable_json("\"\u{e0041}\u{200d}x\"");
        assert_eq!(text, "\"\\udb40\\udc41\\u200dx\"");
    }

    proptest::proptest! {
        #[test]
        fn escaped_text_is_one_line_and_stays_as_it_is(text in "\\PC*|(?s).*") {
            let once = printable(&text);
            assert!(!once.contains(is_unprintable));
            assert_eq!(printable(&once), once);
            let word = printable_word(&text);
            assert!(!word.contains(' '));
            assert_eq!(printable_word(&word), word);
        }

        #[test]
        fn ordinary_text_is_unchanged(text in "[ -~äéλ中]*") {
            assert_eq!(printable(&text), text);
            assert_eq!(printable_lines(&text), text);
        }
    }
}
