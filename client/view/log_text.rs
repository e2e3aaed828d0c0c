//! Lines of a log on a terminal with something below them: what a builder prints may have colors, but must
//! not move the cursor, or clear the screen.

use formats::printable::is_unprintable;

/// A line as it is shown, without its end: of what a carriage return would have replaced, only the last
/// state; with colors, but no other control sequence. Colors end with the line.
pub fn shown(line: &[u8]) -> Vec<u8> {
    if line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return line.to_vec();
    }
    let text = String::from_utf8_lossy(line);
    let mut states = text.split('\r').rev();
    let mut rest = states.find(|state| !state.is_empty()).unwrap_or_default();
    let mut shown = String::with_capacity(rest.len());
    let mut is_colored = false;
    while let Some(c) = rest.chars().next() {
        if c == '\x1b' {
            let (sequence, after) = split_sequence(rest);
            if is_color(sequence) {
                shown.push_str(sequence);
                is_colored = !matches!(sequence, "\x1b[m" | "\x1b[0m");
            }
            rest = after;
            continue;
        }
        match c {
            '\t' => shown.push(c),
            c if is_unprintable(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    if is_colored {
        shown.push_str("\x1b[0m");
    }
    shown.into_bytes()
}

/// The same without colors and tabs, for a single row.
pub fn plain(line: &[u8]) -> String {
    let shown = shown(line);
    let mut rest = std::str::from_utf8(&shown).unwrap_or_default();
    let mut plain = String::with_capacity(rest.len());
    while let Some((before, _)) = rest.split_once('\x1b') {
        plain.push_str(before);
        rest = split_sequence(&rest[before.len()..]).1;
    }
    plain.push_str(rest);
    plain.replace('\t', " ")
}

/// The control sequence (ECMA-48, section 5.4) that a text begins with, and the rest. An escape character
/// that begins none is one by itself.
fn split_sequence(text: &str) -> (&str, &str) {
    let Some(parameters) = text.strip_prefix("\x1b[") else {
        return text.split_at(1);
    };
    let end = parameters.find(|c: char| !matches!(c, ' '..='?'));
    match end {
        Some(end) if matches!(parameters.as_bytes()[end], b'@'..=b'~') => {
            text.split_at(2 + end + 1)
        }
        Some(end) => text.split_at(2 + end),
        None => (text, ""),
    }
}

/// Whether a sequence sets colors (Select Graphic Rendition), and conceals nothing.
fn is_color(sequence: &str) -> bool {
    let parameters = sequence
        .strip_prefix("\x1b[")
        .and_then(|rest| rest.strip_suffix('m'));
    parameters.is_some_and(|all| {
        let is_known = |byte| matches!(byte, b'0'..=b'9' | b';' | b':');
        all.bytes().all(is_known) && !conceals(all)
    })
}

/// Whether one of these parameters conceals what follows (8). Those after 38, 48 and 58 are a color's: `5;N`
/// or `2;R;G;B`.
fn conceals(parameters: &str) -> bool {
    let mut parameters = parameters.split(';');
    while let Some(parameter) = parameters.next() {
        // (With colons, a color is a single parameter.)
        let first = parameter.split(':').next().unwrap_or_default();
        match (first.trim_start_matches('0'), first == parameter) {
            ("8", _) => return true,
            ("38" | "48" | "58", true) => {
                let kind = parameters.next().unwrap_or_default();
                let of_color = match kind.trim_start_matches('0') {
                    "5" => 1,
                    "2" => 3,
                    // Terminals differ in what they make of it.
                    kind => return kind == "8" || parameters.any(|rest| rest.contains('8')),
                };
                parameters.by_ref().take(of_color).for_each(drop);
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> String {
        String::from_utf8(shown(line.as_bytes())).unwrap()
    }

    #[test]
    fn colors_stay_and_nothing_else_does() {
        for (line, expected) in [
            ("checking for gcc... yes\tno", "checking for gcc... yes\tno"),
            ("\x1b[1;31mred", "\x1b[1;31mred\x1b[0m"),
            ("\x1b[1mx\x1b[0m", "\x1b[1mx\x1b[0m"),
            ("a\x1b[2Jb\x1b[10Ac\x1b[?1049hd", "abcd"),
            ("\x1b]0;title\x07x", "]0;title\\u{7}x"),
            ("\x1bc\x1b", "c"),
            ("\x1b[12", ""),
            ("\x1b[1\x1b[2Kx", "x"),
            ("\u{9b}2Jé中", "\\u{9b}2Jé中"),
            (" 10 %\r 20 %\r", " 20 %"),
            ("\x1b[8mhidden", "hidden"),
            ("\x1b[1;08mhidden", "hidden"),
            ("\x1b[38;5;8;8mhidden", "hidden"),
            ("\x1b[38;2;8;8;8;8mhidden", "hidden"),
            ("\x1b[38;8mhidden", "hidden"),
            ("\x1b[38;9;8mhidden", "hidden"),
            ("\x1b[8:1mhidden", "hidden"),
            ("\x1b[38;5;8mx", "\x1b[38;5;8mx\x1b[0m"),
            ("\x1b[1;48;5;8;4mx", "\x1b[1;48;5;8;4mx\x1b[0m"),
            ("\x1b[38;2;8;08;8mx", "\x1b[38;2;8;08;8mx\x1b[0m"),
            ("\x1b[38:2::8:8:8mx", "\x1b[38:2::8:8:8mx\x1b[0m"),
            ("\x1b[28;38;5;8mx", "\x1b[28;38;5;8mx\x1b[0m"),
            ("\x1b[88mx", "\x1b[88mx\x1b[0m"),
            ("\r", ""),
            ("", ""),
        ] {
            assert_eq!(text(line), expected, "{line:?}");
        }
        assert_eq!(shown(b"\xff\xfe"), "\u{fffd}\u{fffd}".as_bytes());
        assert_eq!(plain(b"a\t\x1b[31mb\x1b[0m\x1b[Kc"), "a bc");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_in_a_line_it_is_one(line in "(?s).*") {
            for text in [text(&line), plain(line.as_bytes())] {
                for (index, _) in text.match_indices('\x1b') {
                    let (sequence, _) = split_sequence(&text[index..]);
                    assert!(is_color(sequence), "{sequence:?}");
                }
                assert!(!text.contains(|c: char| c != '\t' && c != '\x1b' && is_unprintable(c)));
            }
            assert!(!plain(line.as_bytes()).contains('\x1b'));
        }
    }
}
