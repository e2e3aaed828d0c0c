//! A client's settings for itself, and who may set what.
//!
//! As in Guix's `nix-daemon.cc`, except that `--no-offload` is the administrator's word: a client
//! can turn the hook off, never back on.

use std::sync::Arc;

use bstr::{BString, ByteSlice};
use protocol::codec::Nothing;
use protocol::operations::SetOptions;
use store::{Level, Progress};

use super::session::{Outcome, Session};
use crate::settings::{Error, LogType, SessionSettings};

/// What anybody may set for their own builds.
const FOR_ANYBODY: [&str; 6] = [
    "build-timeout",
    "build-max-silent-time",
    "build-max-jobs",
    "build-cores",
    "build-repeat",
    "multiplexed-build-output",
];

pub fn set_options(session: &mut Session<'_>, request: SetOptions) -> Outcome {
    let user = (session.client.uid.is_none())
        .then(|| {
            request
                .overrides
                .iter()
                .find(|(name, _)| name == "user-name")
        })
        .flatten()
        .map(|(_, user)| user.clone());
    if let Some(user) = user
        && let Err(message) = create_profile(session, &user)
    {
        return session.refuse(&message);
    }
    match changed_settings(session, &request) {
        Ok(settings) => {
            session.settings = Arc::new(settings);
            session.log.set_settings(session.settings.clone());
            // Who answers about substitutes is told about the settings when it is started.
            session.substituter = None;
            session.answer(request, |_, _| Ok(Nothing))
        }
        Err(error) => session.refuse(&error.to_string()),
    }
}

/// Makes the profile directory of somebody who connected over TCP.
fn create_profile(session: &Session<'_>, user: &BString) -> Result<(), String> {
    let name = user.to_str_lossy();
    match system::ids::user_by_name(&name) {
        Ok(Some(account)) => session
            .store
            .create_user(&name, account.uid, &*session.log)
            .map_err(|error| error.to_string()),
        _ => {
            let text = format!("user name {name} not found");
            session.log.message(Level::Info, &text);
            Ok(())
        }
    }
}

/// The settings as the client wants them.
fn changed_settings(session: &Session<'_>, request: &SetOptions) -> Result<SessionSettings, Error> {
    let truth = |value: bool| if value { "true" } else { "false" };
    let mut settings = SessionSettings::clone(&session.settings);
    // What a remote client would keep is out of its reach, and fills our disk.
    settings.keep_failed = request.keep_failed && !session.client.remote;
    settings.keep_going = request.keep_going;
    settings.set("build-fallback", truth(request.fallback));
    settings.verbosity = request.verbosity;
    if let Some(jobs) = request.max_build_jobs {
        settings.set("build-max-jobs", jobs.to_string());
    }
    if let Some(seconds) = request.max_silent_time {
        settings.set("build-max-silent-time", seconds.to_string());
    }
    if let Some(use_hook) = request.use_build_hook {
        settings.use_build_hook = use_hook && settings.hook_allowed;
    }
    if let Some(verbosity) = request.build_verbosity {
        settings.build_verbosity = verbosity;
    }
    if let Some(log_type) = request.log_type {
        settings.log_type = match log_type {
            0 => LogType::Pretty,
            1 => LogType::Escapes,
            _ => LogType::Flat,
        };
    }
    if let Some(print) = request.print_build_trace {
        settings.print_build_trace = print;
    }
    if let Some(cores) = request.build_cores {
        settings.set("build-cores", cores.to_string());
    }
    if let Some(substitute) = request.use_substitutes
        && settings.use_substitutes
    {
        settings.set("build-use-substitutes", truth(substitute));
    }
    for (name, value) in &request.overrides {
        if FOR_ANYBODY.iter().any(|known| name == known) {
            settings.set(name.clone(), value.clone());
        } else if name == "user-name" && session.client.uid.is_none() {
            // Seen to already.
        } else if session.client.trusted {
            settings.set(name.clone(), value.clone());
        } else {
            settings.set([b"untrusted-", name.as_slice()].concat(), value.clone());
        }
    }
    settings.apply_named()?;
    Ok(settings)
}
