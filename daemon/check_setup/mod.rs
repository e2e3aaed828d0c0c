//! `guix-daemon --check-setup`: checks, for each thing that a daemon needs, whether it is right,
//! and if not, prints the command that corrects it.
//!
//! Nothing is changed: no file is written, no directory created, no lock taken; the database is
//! opened read-only. Only the start of a build is tried, in a directory below `$TMPDIR` that is
//! deleted afterwards. Each file here checks one kind of thing.

mod advice;
mod build_users;
mod database;
mod directories;
mod findings;
mod helper;
mod kernel;
mod keys;
mod offloading;
mod programs;
mod sandbox;
mod subordinate;
mod substitutes;
mod whom;

use std::process::ExitCode;

use anyhow::Result;

use self::findings::Findings;
use crate::output;
use crate::settings::Settings;

/// Checks everything that a daemon with these settings would use.
pub fn run(settings: &Settings) -> Result<ExitCode> {
    whom::become_owner(settings)?;
    let mut findings = Findings::new(output::print);
    let directories = &settings.directories;
    let group = settings.session.build_users_group.as_ref();
    directories::check(directories, group, &mut findings);
    database::check(directories, &mut findings);
    build_users::check(group, &mut findings);
    keys::check(directories, &mut findings);
    substitutes::check(settings, &mut findings);
    offloading::check(settings, &mut findings);
    kernel::check(&mut findings);
    subordinate::check(&mut findings);
    sandbox::check(settings, &mut findings);
    helper::check(settings, &mut findings);
    programs::check(settings, &mut findings);
    Ok(if findings.finish()? {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
