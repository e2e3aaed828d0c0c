//! The findings, each printed when it is known, and how many there are of each kind.

use anyhow::Result;

/// The severity of a finding.
#[derive(Clone, Copy)]
enum State {
    /// As it should be.
    Right,
    /// Worth knowing, but the daemon works without.
    Note,
    /// A daemon would fail or be unsafe.
    Wrong,
}

/// Where text for the administrator goes.
type Print = Box<dyn FnMut(&str) -> Result<()>>;

/// Prints findings, and counts them.
pub struct Findings {
    print: Print,
    right: usize,
    notes: usize,
    wrong: usize,
    /// That of the first text that could not be printed; nothing is printed after it.
    failure: Option<anyhow::Error>,
}

impl Findings {
    /// None yet; `print` prints a piece of text at once.
    pub fn new(print: impl FnMut(&str) -> Result<()> + 'static) -> Findings {
        Findings {
            print: Box::new(print),
            right: 0,
            notes: 0,
            wrong: 0,
            failure: None,
        }
    }

    /// Something is as it should be.
    pub fn right(&mut self, text: impl Into<String>) {
        self.add(State::Right, text.into(), None);
    }

    /// Something is worth knowing; `fix` is the command that changes it.
    pub fn note(&mut self, text: impl Into<String>, fix: Option<String>) {
        self.add(State::Note, text.into(), fix);
    }

    /// Something is wrong, and `fix` is the command that corrects it.
    pub fn wrong(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.add(State::Wrong, text.into(), Some(fix.into()));
    }

    /// The number of findings.
    pub fn count(&self) -> usize {
        self.right + self.notes + self.wrong
    }

    /// Prints the counts. Returns whether anything is wrong.
    ///
    /// # Errors
    /// Not everything could be printed.
    pub fn finish(mut self) -> Result<bool> {
        let Findings {
            right,
            notes,
            wrong,
            ..
        } = self;
        self.say(&format!("{right} right, {wrong} wrong, {notes} to note\n"));
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(wrong > 0),
        }
    }

    fn add(&mut self, state: State, text: String, fix: Option<String>) {
        let (word, count) = match state {
            State::Right => ("right", &mut self.right),
            State::Note => ("note ", &mut self.notes),
            State::Wrong => ("WRONG", &mut self.wrong),
        };
        *count += 1;
        let fix = fix.map_or_else(String::new, |fix| format!("       -> {fix}\n"));
        self.say(&format!("{word}  {text}\n{fix}"));
    }

    fn say(&mut self, text: &str) {
        if self.failure.is_none() {
            self.failure = (self.print)(text).err();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn each_is_printed_at_once_and_the_counts_at_last() {
        let printed = Rc::new(RefCell::new(String::new()));
        let new = || {
            let printed = printed.clone();
            Findings::new(move |text| {
                *printed.borrow_mut() += text;
                Ok(())
            })
        };
        let mut findings = new();
        findings.right("a");
        assert_eq!(printed.take(), "right  a\n");
        findings.note("b", None);
        assert_eq!(printed.take(), "note   b\n");
        assert!(!findings.finish().unwrap());
        assert_eq!(printed.take(), "1 right, 0 wrong, 1 to note\n");
        let mut findings = new();
        findings.wrong("c", "fix it");
        assert_eq!(printed.take(), "WRONG  c\n       -> fix it\n");
        assert!(findings.finish().unwrap());
    }

    #[test]
    fn what_cannot_be_printed_is_an_error() {
        let mut findings = Findings::new(|_| anyhow::bail!("full"));
        findings.right("a");
        assert_eq!(findings.finish().unwrap_err().to_string(), "full");
    }
}
