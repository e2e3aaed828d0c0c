//! `guix-daemon --check-setup`: looks over an installation and says, for each thing that a daemon
//! needs, whether it is right, and if not, the command that fixs it.
//!
//! Nothing is changed: no file is written, no directory made, no lock taken; the database is
//! opened for reading alone. Each of the files here looks at one kind of thing.

mod database;
mod files;
mod machine;
mod people;

use std::process::ExitCode;

use anyhow::Result;

use crate::output;
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
    fix: Option<String>,
}

impl Findings {
    fn right(&mut self, text: impl Into<String>) {
        self.0.push(Finding {
            state: State::Right,
            text: text.into(),
            fix: None,
        });
    }

    fn note(&mut self, text: impl Into<String>, fix: Option<String>) {
        self.0.push(Finding {
            state: State::Note,
            text: text.into(),
            fix,
        });
    }

    fn wrong(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding {
            state: State::Wrong,
            text: text.into(),
            fix: Some(fix.into()),
        });
    }

    /// What was found, as text for a person, and whether anything is wrong.
    fn report(&self) -> (String, bool) {
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

/// Looks at everything that a daemon with these settings would use.
pub fn run(settings: &Settings) -> Result<ExitCode> {
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
    let (report, anything_wrong) = findings.report();
    output::print(&report)?;
    Ok(if anything_wrong {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
