//! The question whether a hook takes a derivation, and its answers, as they are written
//! (`doc/spec/hook-protocol.md`, sections 4 and 5).

/// What a hook needs to know to decide.
pub(in super::super) struct Question<'a> {
    /// The derivation's system.
    pub(in super::super) platform: &'a str,
    /// The derivation's file name.
    pub(in super::super) derivation: &'a str,
    /// The features that the build machine must have.
    pub(in super::super) features: Vec<&'a str>,
    /// How much waits for the derivation. The hook is not told: it decides which is asked about first.
    pub(in super::super) rank: u64,
}

impl Question<'_> {
    /// The line that the hook reads; `am_willing` if a local build could be started immediately.
    pub(super) fn line(&self, am_willing: bool) -> String {
        let Question {
            platform,
            derivation,
            features,
            rank: _,
        } = self;
        format!(
            "{} {platform} {derivation} {}\n",
            u8::from(am_willing),
            features.join(",")
        )
    }
}

/// A process's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It builds the derivation.
    Accept,
    /// It does not.
    Decline,
    /// It will never build anything (a reply of Nix's hooks).
    DeclinePermanently,
    /// Ask again later.
    Postpone,
    /// It died, did not reply in time, or sent an invalid reply: the predicate of "hook X …".
    Failed(String),
    /// The attempt was cancelled meanwhile.
    Cancelled,
}

impl Answer {
    /// Reads what follows `# ` in a line of the hook.
    pub(super) fn parse(word: &[u8]) -> Answer {
        match word {
            b"accept" => Answer::Accept,
            b"decline" => Answer::Decline,
            b"decline-permanently" => Answer::DeclinePermanently,
            b"postpone" => Answer::Postpone,
            other => {
                let shown: String = String::from_utf8_lossy(other).chars().take(100).collect();
                Answer::Failed(format!("gave a bad reply `{}'", shown.escape_debug()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_three_spaces_whatever_the_features() {
        let mut question = Question {
            platform: "x86_64-linux",
            derivation: "/gnu/store/x.drv",
            features: vec![],
            rank: 0,
        };
        assert_eq!(question.line(true), "1 x86_64-linux /gnu/store/x.drv \n");
        question.features = vec!["kvm", "big"];
        assert_eq!(
            question.line(false),
            "0 x86_64-linux /gnu/store/x.drv kvm,big\n"
        );
    }

    /// Requests of Guix's daemon and replies of its hook (`hook/vectors/README.md`).
    #[test]
    fn requests_and_replies_of_guix() {
        let mut question = Question {
            platform: "x86_64-linux",
            derivation: "/gnu/store/6shrj2lsv127xi1nwdpax64qv2sdqcyi-offloaded-decline.drv",
            features: vec![],
            rank: 0,
        };
        let recorded = include_str!("../../../hook/vectors/decline");
        assert_eq!(question.line(true), recorded);
        question.derivation = "/gnu/store/dsg49yrv1h11jr0pzw3vm4kl7yya60f5-offloaded-features.drv";
        question.features = vec!["kvm", "big-parallel"];
        let recorded = include_str!("../../../hook/vectors/features");
        assert_eq!(question.line(true), recorded);

        for (recorded, answer) in [
            (
                include_str!("../../../hook/vectors/accept.reply"),
                Answer::Accept,
            ),
            (
                include_str!("../../../hook/vectors/decline.reply"),
                Answer::Decline,
            ),
            (
                include_str!("../../../hook/vectors/postpone.reply"),
                Answer::Postpone,
            ),
        ] {
            for line in recorded.lines() {
                let word = line.strip_prefix("# ").unwrap();
                assert_eq!(Answer::parse(word.as_bytes()), answer);
            }
        }
    }

    #[test]
    fn replies_are_compared_exactly() {
        assert_eq!(Answer::parse(b"accept"), Answer::Accept);
        assert_eq!(
            Answer::parse(b"accept "),
            Answer::Failed("gave a bad reply `accept '".to_owned())
        );
        assert_eq!(
            Answer::parse(b""),
            Answer::Failed("gave a bad reply `'".to_owned())
        );
        assert_eq!(Answer::parse(b"postpone"), Answer::Postpone);
    }
}
