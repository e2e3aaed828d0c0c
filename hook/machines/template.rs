//! Placeholders in the command lines of pools: `{cores}` and the like, each in a single word. What
//! stands for one never becomes several words, except for `{worker}` and `{options}`, which are
//! lists of words and have to be whole words. There is no shell.

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// The number of processor cores of a job.
    Cores,
    /// The time limit of a job in minutes.
    Minutes,
    /// The memory of a job in MiB.
    Memory,
    /// The number of the slot.
    Slot,
    /// The name of the job.
    Job,
    /// The user as whom the commands run.
    User,
    /// The name of the derivation for which it is started.
    Name,
    /// The worker's command line.
    Worker,
    /// The options of the entry, and those of required features.
    Options,
    /// Nothing, if a job is only wanted at once.
    Now,
}

/// Their names.
const PLACEHOLDERS: [(&str, Placeholder); 10] = [
    ("cores", Placeholder::Cores),
    ("minutes", Placeholder::Minutes),
    ("memory", Placeholder::Memory),
    ("slot", Placeholder::Slot),
    ("job", Placeholder::Job),
    ("user", Placeholder::User),
    ("name", Placeholder::Name),
    ("worker", Placeholder::Worker),
    ("options", Placeholder::Options),
    ("now", Placeholder::Now),
];

/// A part of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Itself.
    Text(&'a str),
    /// What stands for it.
    Placeholder(Placeholder),
}

impl Placeholder {
    /// Whether it stands for a list of words.
    fn is_list(self) -> bool {
        matches!(self, Placeholder::Worker | Placeholder::Options)
    }
}

/// The parts of a word. Braces around anything but lower-case letters are text; the error is a
/// message.
pub fn pieces(word: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = word;
    let mut text_from = 0;
    while let Some(open) = rest.find('{') {
        let inside = &rest[open + 1..];
        let length = inside.bytes().take_while(u8::is_ascii_lowercase).count();
        if length == 0 || inside.as_bytes().get(length) != Some(&b'}') {
            rest = inside;
            continue;
        }
        let name = &inside[..length];
        let Some((_, placeholder)) = PLACEHOLDERS.iter().find(|(known, _)| *known == name) else {
            return Err(format!("`{{{name}}}' is no placeholder"));
        };
        let before = word.len() - rest.len() + open;
        if text_from < before {
            pieces.push(Piece::Text(&word[text_from..before]));
        }
        pieces.push(Piece::Placeholder(*placeholder));
        rest = &inside[length + 1..];
        text_from = word.len() - rest.len();
        if placeholder.is_list() && *word != format!("{{{name}}}") {
            return Err(format!("`{{{name}}}' has to be a word of its own"));
        }
    }
    if text_from < word.len() {
        pieces.push(Piece::Text(&word[text_from..]));
    }
    Ok(pieces)
}

/// Whether a command line has a placeholder.
pub fn has(words: &[String], wanted: Placeholder) -> bool {
    words.iter().any(|word| {
        let pieces = pieces(word).unwrap_or_default();
        pieces.contains(&Piece::Placeholder(wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Piece::{Placeholder as P, Text};

    #[test]
    fn a_word_is_text_and_placeholders() {
        for (word, expected) in [
            ("", vec![]),
            ("srun", vec![Text("srun")]),
            (
                "--mem={memory}M",
                vec![Text("--mem="), P(Placeholder::Memory), Text("M")],
            ),
            ("{job}", vec![P(Placeholder::Job)]),
            (
                "{slot}{slot}",
                vec![P(Placeholder::Slot), P(Placeholder::Slot)],
            ),
            ("{ print $1 }{", vec![Text("{ print $1 }{")]),
            (
                "{{cores}}",
                vec![Text("{"), P(Placeholder::Cores), Text("}")],
            ),
            ("{}{A}{é}", vec![Text("{}{A}{é}")]),
        ] {
            assert_eq!(pieces(word).as_deref(), Ok(&expected[..]), "{word}");
        }
    }

    #[test]
    fn mistakes_are_found() {
        assert_eq!(
            pieces("-c{core}"),
            Err("`{core}' is no placeholder".to_owned())
        );
        let message = "`{worker}' has to be a word of its own".to_owned();
        assert_eq!(pieces("sh -c {worker}"), Err(message));
    }
}
