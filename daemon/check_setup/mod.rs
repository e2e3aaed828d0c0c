//! `guix-daemon --check-setup`: looks over an installation and says, for each thing that a daemon
//! needs, whether it is right, and if not, the command that mends it.
//!
//! Nothing is changed: no file is written, no directory made, no lock taken; the database is
//! opened for reading alone. Each of the files here looks at one kind of thing.

mod database;
mod files;
mod machine;
mod people;

use std::process::ExitCode;

use crate::settings::Settings;

/// How one thing is.
enum State {
    /// As it should be.
    Right,
    /// Worth knowing; the daemon does without.
    Note,
    /// A daemon would fail, or be unsafe.
    Wrong,
}

/// What was found, in order.
#[derive(Default)]
pub struct Findings(Vec<Finding>);

struct Finding {
    state: State,
    text: String,
    mend: Option<String>,
}

impl Findings {
    fn right(&mut self, text: impl Into<String>) {
        self.0.push(Finding {
            state: State::Right,
            text: text.into(),
            mend: None,
        });
    }

    fn note(&mut self, text: impl Into<String>, mend: Option<String>) {
        self.0.push(Finding {
            state: State::Note,
            text: text.into(),
            mend,
        });
    }

    fn wrong(&mut self, text: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding {
            state: State::Wrong,
            text: text.into(),
            mend: Some(mend.into()),
        });
    }

    /// Prints what was found; the exit code says whether all is right.
    fn print(&self) -> ExitCode {
        let (mut right, mut notes, mut wrong) = (0, 0, 0);
        for finding in &self.0 {
            let (word, count) = match finding.state {
                State::Right => ("right", &mut right),
                State::Note => ("note ", &mut notes),
                State::Wrong => ("WRONG", &mut wrong),
            };
            *count += 1;
            println!("{word}  {}", finding.text);
            if let Some(mend) = &finding.mend {
                println!("       -> {mend}");
            }
        }
        println!("{right} right, {wrong} wrong, {notes} to note");
        if wrong == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Looks at everything that a daemon with these settings would use.
pub fn run(settings: &Settings) -> ExitCode {
    let mut findings = Findings::default();
    files::check(
        &settings.directories,
        settings.session.build_users_group.as_ref(),
        &mut findings,
    );
    database::check(&settings.directories, &mut findings);
    people::check(settings.session.build_users_group.as_ref(), &mut findings);
    people::check_keys(&settings.directories, &mut findings);
    machine::check_hook(settings, &mut findings);
    machine::check_kernel(&mut findings);
    machine::check_programs(&settings.directories, &mut findings);
    findings.print()
}
