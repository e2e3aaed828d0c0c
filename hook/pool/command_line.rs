//! Command lines: what stands for the placeholders in their words.

use crate::machines::template::{Piece, Placeholder, pieces};

/// What stands for placeholders.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// `{cores}`
    pub cores: Option<u32>,
    /// `{minutes}`
    pub minutes: Option<u64>,
    /// `{memory}`
    pub memory: Option<u32>,
    /// `{slot}`
    pub slot: u32,
    /// `{job}`
    pub job: String,
    /// `{user}`
    pub user: String,
    /// `{name}`
    pub name: String,
    /// `{worker}`
    pub worker: Vec<String>,
    /// `{options}`
    pub options: Vec<String>,
    /// Whether `{now}` stands for nothing; otherwise, its words are left out.
    pub now: bool,
}

impl Values {
    /// What stands for a placeholder within a word; `None`: the word is left out.
    fn within_word(&self, placeholder: Placeholder) -> Option<String> {
        match placeholder {
            Placeholder::Cores => self.cores.map(|cores| cores.to_string()),
            Placeholder::Minutes => self.minutes.map(|minutes| minutes.to_string()),
            Placeholder::Memory => self.memory.map(|memory| memory.to_string()),
            Placeholder::Slot => Some(self.slot.to_string()),
            Placeholder::Job => Some(self.job.clone()),
            Placeholder::User => Some(self.user.clone()),
            // Clients choose it: it must not become an option.
            Placeholder::Name => match self.name.strip_prefix('-') {
                Some(rest) => Some(format!("_{rest}")),
                None => Some(self.name.clone()),
            },
            Placeholder::Now => self.now.then(String::new),
            // They are words of their own.
            Placeholder::Worker | Placeholder::Options => None,
        }
    }

    /// The word that a word with placeholders becomes; `None`: it is left out.
    fn word(&self, pieces: &[Piece<'_>]) -> Option<String> {
        let pieces = pieces.iter().map(|piece| match piece {
            Piece::Text(text) => Some((*text).to_owned()),
            Piece::Placeholder(placeholder) => self.within_word(*placeholder),
        });
        pieces.collect()
    }
}

/// The words of a command line.
pub fn expand(template: &[String], values: &Values) -> Vec<String> {
    let mut words = Vec::new();
    for word in template {
        match pieces(word).as_deref() {
            Ok([Piece::Placeholder(Placeholder::Worker)]) => words.extend(values.worker.clone()),
            Ok([Piece::Placeholder(Placeholder::Options)]) => words.extend(values.options.clone()),
            Ok(pieces) => words.extend(values.word(pieces)),
            // Machine files are checked when they are read.
            Err(_) => words.push(word.clone()),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn values() -> Values {
        Values {
            cores: Some(4),
            minutes: None,
            memory: Some(2000),
            slot: 3,
            job: "guix-pool-3-abc".to_owned(),
            user: "builder".to_owned(),
            name: "hello-1.0.drv".to_owned(),
            worker: owned(&["/bin/guix-offload", "worker"]),
            options: owned(&["--gres=gpu:1", "-p", "short queue"]),
            now: false,
        }
    }

    #[test]
    fn words_get_their_values_or_are_left_out() {
        let template = owned(&[
            "srun",
            "-c{cores}",
            "--time={minutes}",
            "--mem={memory}M",
            "--immediate{now}",
            "{options}",
            "--comment={name} in {slot}",
            "--user={user}",
            "{worker}",
        ]);
        let expected = [
            "srun",
            "-c4",
            "--mem=2000M",
            "--gres=gpu:1",
            "-p",
            "short queue",
            "--comment=hello-1.0.drv in 3",
            "--user=builder",
            "/bin/guix-offload",
            "worker",
        ];
        assert_eq!(expand(&template, &values()), expected);
        let now = Values {
            now: true,
            ..values()
        };
        assert_eq!(expand(&owned(&["--immediate{now}"]), &now), ["--immediate"]);
    }

    #[test]
    fn a_name_is_no_option() {
        let values = Values {
            name: "--exec=sh".to_owned(),
            ..values()
        };
        assert_eq!(expand(&owned(&["{name}"]), &values), ["_-exec=sh"]);
    }

    proptest! {
        /// Whatever the values are, a word stays one word, and nothing in it is looked at again.
        #[test]
        fn a_word_stays_one_word(
            name in "[ -~]{0,30}",
            job in "[ -~]{0,30}",
            before in "[^{}]{0,9}",
            after in "[^{}]{0,9}",
        ) {
            let values = Values { name: name.clone(), job: job.clone(), ..values() };
            let template = vec!["true".to_owned(), format!("{before}{{job}}{after}"), "{name}".to_owned()];
            let words = expand(&template, &values);
            prop_assert_eq!(words.len(), 3);
            prop_assert_eq!(&words[1], &format!("{before}{job}{after}"));
            prop_assert!(!words[2].starts_with('-'));
            prop_assert_eq!(words[2].get(1..), name.get(1..));
        }
    }
}
