//! The findings, in order, and how they are printed.

/// The severity of a finding.
enum State {
    /// As it should be.
    Right,
    /// Worth knowing, but the daemon works without.
    Note,
    /// A daemon would fail or be unsafe.
    Wrong,
}

/// The findings, in order.
#[derive(Default)]
pub struct Findings(Vec<Finding>);

struct Finding {
    state: State,
    text: String,
    fix: Option<String>,
}

impl Findings {
    /// Something is as it should be.
    pub fn right(&mut self, text: impl Into<String>) {
        self.0.push(Finding {
            state: State::Right,
            text: text.into(),
            fix: None,
        });
    }

    /// Something is worth knowing; `fix` is the command that changes it.
    pub fn note(&mut self, text: impl Into<String>, fix: Option<String>) {
        self.0.push(Finding {
            state: State::Note,
            text: text.into(),
            fix,
        });
    }

    /// Something is wrong, and `fix` is the command that corrects it.
    pub fn wrong(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding {
            state: State::Wrong,
            text: text.into(),
            fix: Some(fix.into()),
        });
    }

    /// The number of findings.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The findings as text for the administrator, and whether anything is wrong.
    pub fn report(&self) -> (String, bool) {
        let mut text = String::new();
        let (mut right, mut notes, mut wrong) = (0, 0, 0);
        for finding in &self.0 {
            let (word, count) = match finding.state {
                State::Right => ("right", &mut right),
                State::Note => ("note ", &mut notes),
                State::Wrong => ("WRONG", &mut wrong),
            };
            *count += 1;
            text += &format!("{word}  {}\n", finding.text);
            if let Some(fix) = &finding.fix {
                text += &format!("       -> {fix}\n");
            }
        }
        text += &format!("{right} right, {wrong} wrong, {notes} to note\n");
        (text, wrong > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_ends_with_the_counts() {
        let mut findings = Findings::default();
        findings.right("a");
        findings.note("b", None);
        let (report, anything_wrong) = findings.report();
        assert_eq!(report, "right  a\nnote   b\n1 right, 0 wrong, 1 to note\n");
        assert!(!anything_wrong);
        findings.wrong("c", "fix it");
        let (report, anything_wrong) = findings.report();
        assert!(
            report.ends_with("WRONG  c\n       -> fix it\n1 right, 1 wrong, 1 to note\n"),
            "{report}"
        );
        assert!(anything_wrong);
    }
}
