//! Machines that are given by name: `NAME` or `NAME:PORT`, in which `*`, `?` and `[…]` have the meaning
//! that they have for shells.

use std::collections::BTreeSet;

use regex_lite::Regex;

/// How many names an error gives.
const NAMES_SHOWN: usize = 10;

/// The machines of `known`, which are `NAME:PORT`s, that any of the patterns names, each once and in
/// their order there. It is an error, which says what there is, if a pattern names none.
pub fn named(known: &[String], patterns: &[String]) -> Result<Vec<String>, String> {
    let mut chosen = BTreeSet::new();
    for pattern in patterns {
        let regex = shell_pattern(pattern)?;
        let is_named = |key: &str| regex.is_match(key) || regex.is_match(name_of(key));
        let mut found = known.iter().filter(|key| is_named(key)).peekable();
        if found.peek().is_none() {
            return Err(format!(
                "no build machine is called '{pattern}': {}",
                there_are(known)
            ));
        }
        chosen.extend(found.cloned());
    }
    Ok(known
        .iter()
        .filter(|key| chosen.remove(*key))
        .cloned()
        .collect())
}

/// `NAME` of `NAME:PORT`.
fn name_of(key: &str) -> &str {
    key.rsplit_once(':').map_or(key, |(name, _)| name)
}

fn there_are(known: &[String]) -> String {
    let shown: Vec<String> = (known.iter().take(NAMES_SHOWN))
        .map(|key| format!("'{}'", name_of(key)))
        .collect();
    match known.len().saturating_sub(NAMES_SHOWN) {
        _ if known.is_empty() => "there is none".to_owned(),
        0 => format!("there are {}", shown.join(", ")),
        others => format!("there are {} and {others} others", shown.join(", ")),
    }
}

/// A shell's pattern as a regular expression.
fn shell_pattern(pattern: &str) -> Result<Regex, String> {
    let mut text = "^".to_owned();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        // A bracket without its end stands for itself, and so does a closing one that comes first.
        let set = match first {
            '[' => rest.char_indices().skip(1).find(|(at, c)| {
                *c == ']' && !rest[1..*at].trim_start_matches(['!', '^']).is_empty()
            }),
            _ => None,
        };
        match (first, set) {
            ('*', _) => text.push_str(".*"),
            ('?', _) => text.push('.'),
            ('[', Some((end, _))) => {
                let inside = &rest[1..end];
                let (negation, inside) = match inside.strip_prefix(['!', '^']) {
                    Some(inside) => ("^", inside),
                    None => ("", inside),
                };
                text += &format!("[{negation}{}]", inside.replace(['\\', '['], ""));
                length = end + 1;
            }
            _ => text += &regex_lite::escape(&rest[..length]),
        }
        rest = &rest[length..];
    }
    text.push('$');
    Regex::new(&text).map_err(|_| format!("invalid pattern '{pattern}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const ALL: [&str; 6] = [
        "build1:22",
        "build2.example:22",
        "build10:22",
        "build1:2222",
        "old:22",
        "fd00::2:22",
    ];

    fn chosen(patterns: &[&str]) -> Vec<String> {
        named(&keys(&ALL), &keys(patterns)).unwrap()
    }

    #[test]
    fn names_are_chosen_as_by_a_shell() {
        assert_eq!(chosen(&["build1"]), ["build1:22", "build1:2222"]);
        assert_eq!(chosen(&["build1:2222"]), ["build1:2222"]);
        assert_eq!(chosen(&["build?"]), ["build1:22", "build1:2222"]);
        assert_eq!(
            chosen(&["old", "build[02]*", "build1?"]),
            ["build2.example:22", "build10:22", "old:22"]
        );
        assert_eq!(chosen(&["*[!0-9]"]), ["build2.example:22", "old:22"]);
        assert_eq!(chosen(&["*"]), ALL);
        assert_eq!(chosen(&["fd00::2"]), ["fd00::2:22"]);
        // A name that is given twice is one machine.
        assert_eq!(chosen(&["old", "o*"]), ["old:22"]);
    }

    #[test]
    fn a_name_that_is_not_there_is_an_error_that_says_what_there_is() {
        let error = named(&keys(&ALL), &keys(&["old", "ol"])).unwrap_err();
        let expected = "no build machine is called 'ol': there are 'build1', 'build2.example', \
                        'build10', 'build1', 'old', 'fd00::2'";
        assert_eq!(error, expected);
        let error = named(&[], &keys(&["x"])).unwrap_err();
        assert_eq!(error, "no build machine is called 'x': there is none");
        let many: Vec<String> = (0..1000).map(|n| format!("m{n}:22")).collect();
        let error = named(&many, &keys(&["x"])).unwrap_err();
        assert!(error.ends_with("'m9' and 990 others"), "{error}");
    }

    #[test]
    fn nothing_but_the_wildcards_has_a_meaning() {
        for pattern in [
            "build.", "buil.*", "^build1$", "(old)", "old|old", "[old", "[]old", "", "\\",
        ] {
            assert!(named(&keys(&ALL), &keys(&[pattern])).is_err(), "{pattern}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_is_accepted_or_refused(pattern in "[*?\\[\\]!^a-c0-9\\\\.&~-]{0,12}") {
            let _ = named(&keys(&ALL), &[pattern]);
        }
    }
}
