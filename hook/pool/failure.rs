//! Why there is no job, or none any more.

use serde::{Deserialize, Serialize};

use super::templates::Signs;

/// How many bytes of what a command has printed are shown.
const SHOWN: usize = 600;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// There is no room now.
    Busy,
    /// The scheduler will never run such a job: the entry is wrong.
    Rejected,
    /// The scheduler does not answer.
    Unreachable,
    /// The job runs, but no worker that we understand.
    NoWorker,
    /// The worker would use this host's store.
    SameStore,
    /// The job was ended because it used too much, or lacks space.
    Exhausted,
    /// The job has lasted as long as it may.
    OutOfTime,
    /// The job, its node or the connection is gone.
    Lost,
    /// This host is at fault.
    Local,
}

/// Why there is no job, or none any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// Whose fault it is.
    pub kind: FailureKind,
    /// The reason, in the words of the scheduler or the worker where they have some.
    pub text: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Failure {
        let text = text.into();
        Failure { kind, text }
    }

    /// This host's failure.
    pub fn local(doing: &str, error: &std::io::Error) -> Failure {
        Failure::new(FailureKind::Local, format!("{doing}: {error}"))
    }

    /// The failure of a command that has printed these errors, if they are among those that are known.
    pub fn known(signs: &Signs, errors: &str) -> Option<Failure> {
        let says = |words: &[String]| words.iter().any(|words| errors.contains(words.as_str()));
        let kind = if says(&signs.busy) {
            FailureKind::Busy
        } else if says(&signs.unreachable) {
            FailureKind::Unreachable
        } else if says(&signs.exhausted) {
            FailureKind::Exhausted
        } else if says(&signs.out_of_time) {
            FailureKind::OutOfTime
        } else if says(&signs.lost) {
            FailureKind::Lost
        } else {
            return None;
        };
        Some(Failure::new(kind, last_lines(errors)))
    }
}

/// The last lines that a command has printed, on one line.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    let text = lines[lines.len().saturating_sub(6)..].join("; ");
    let from =
        (text.len().saturating_sub(SHOWN)..=text.len()).find(|at| text.is_char_boundary(*at));
    text[from.unwrap_or(0)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_scheduler_tell_the_kinds() {
        let signs = Signs {
            busy: vec!["nodes are busy".to_owned()],
            unreachable: vec!["controller".to_owned()],
            exhausted: vec!["memory limit".to_owned()],
            out_of_time: vec!["TIME LIMIT".to_owned()],
            lost: vec!["Node failure".to_owned()],
            hopeless: Vec::new(),
        };
        for (errors, expected) in [
            (
                "srun: error: Requested nodes are busy\n",
                Some(FailureKind::Busy),
            ),
            (
                "Unable to contact slurm controller",
                Some(FailureKind::Unreachable),
            ),
            (
                "Step 1.0 exceeded memory limit",
                Some(FailureKind::Exhausted),
            ),
            (
                "CANCELLED AT 12:00 DUE TO TIME LIMIT",
                Some(FailureKind::OutOfTime),
            ),
            ("Node failure on n1", Some(FailureKind::Lost)),
            ("invalid partition specified: x", None),
        ] {
            let kind = Failure::known(&signs, errors).map(|failure| failure.kind);
            assert_eq!(kind, expected, "{errors}");
        }
    }

    #[test]
    fn little_is_shown_of_what_is_printed() {
        assert_eq!(last_lines("\n a\r\n\nb\n"), "a; b");
        assert_eq!(last_lines(&"é".repeat(5000)).len(), SHOWN);
        assert_eq!(last_lines(""), "");
    }
}
