//! SetOptions: the settings that a client changes for itself, and which of them it may change.
//!
//! As in Guix's `nix-daemon.cc`, except that a client cannot undo the administrator's
//! `--no-offload`: it can turn the hook off, never on.

use std::sync::Arc;

use bstr::{BString, ByteSlice};
use protocol::codec::Nothing;
use protocol::frames::READ_AHEAD;
use protocol::operations::SetOptions;
use store::{Level, Progress};

use super::session::{HandlerResult, Session};
use crate::building::ClientIdentity;
use crate::settings::{Error, LogType, SessionSettings};
use crate::substituter::Questions;

/// The settings that an untrusted client may change.
const UNPRIVILEGED: [&str; 7] = [
    "build-timeout",
    "build-max-silent-time",
    "build-max-jobs",
    "build-cores",
    "build-repeat",
    "multiplexed-build-output",
    READ_AHEAD,
];

pub fn set_options(session: &mut Session<'_>, request: SetOptions) -> HandlerResult {
    let user = (session.client.uid.is_none())
        .then(|| {
            request
                .overrides
                .iter()
                .find(|(name, _)| name == "user-name")
        })
        .flatten()
        .map(|(_, user)| user.clone());
    if let Some(user) = user {
        if let Err(message) = create_profile(session, &user) {
            return session.refuse(&message);
        }
    }
    match changed_settings(&session.settings, &session.client, &request) {
        Ok(settings) => {
            session.settings = Arc::new(settings);
            session.log.set_settings(session.settings.clone());
            // Who answered questions has the old settings.
            session.questions = Questions::after(session.questions.told());
            session.answer(request, |_, _| Ok(Nothing))
        }
        Err(error) => session.refuse(&error.to_string()),
    }
}

/// Creates the profile directory of a user who connected over TCP.
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

/// The client's settings with the request's changes.
fn changed_settings(
    settings: &SessionSettings,
    client: &ClientIdentity,
    request: &SetOptions,
) -> Result<SessionSettings, Error> {
    let truth = |value: bool| if value { "true" } else { "false" };
    let mut settings = settings.clone();
    // A remote client could not access the kept directory, which would fill our disk.
    settings.keep_failed = request.keep_failed && !client.remote;
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
    if let Some(substitute) = request.use_substitutes {
        if settings.use_substitutes {
            settings.set("build-use-substitutes", truth(substitute));
        }
    }
    for (name, value) in &request.overrides {
        if UNPRIVILEGED.iter().any(|known| name == known) {
            settings.set(name.clone(), value.clone());
        } else if name == "user-name" && client.uid.is_none() {
            // It is used in `create_profile'.
        } else if client.trusted {
            settings.set(name.clone(), value.clone());
        } else {
            settings.set([b"untrusted-", name.as_slice()].concat(), value.clone());
        }
    }
    settings.apply_named()?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> ClientIdentity {
        ClientIdentity {
            uid: Some(0),
            trusted: true,
            ..ClientIdentity::default()
        }
    }

    fn untrusted() -> ClientIdentity {
        ClientIdentity {
            uid: Some(1000),
            ..ClientIdentity::default()
        }
    }

    fn changed(client: &ClientIdentity, request: &SetOptions) -> SessionSettings {
        changed_settings(&SessionSettings::initial(), client, request).unwrap()
    }

    fn override_of(name: &str, value: &str) -> SetOptions {
        let mut request = SetOptions::default();
        request.set(name, value);
        request
    }

    #[test]
    fn untrusted_clients_change_only_what_concerns_their_builds() {
        let request = override_of("build-timeout", "5");
        assert_eq!(changed(&untrusted(), &request).build_timeout, 5);
        let request = override_of("build-use-chroot", "false");
        let settings = changed(&untrusted(), &request);
        assert!(settings.use_chroot);
        assert!(settings.get("untrusted-build-use-chroot").is_some());
        assert!(!changed(&trusted(), &request).use_chroot);
    }

    #[test]
    fn what_the_administrator_has_turned_off_stays_off() {
        let request = SetOptions {
            use_build_hook: Some(true),
            use_substitutes: Some(true),
            ..SetOptions::default()
        };
        let mut settings = SessionSettings::initial();
        settings.hook_allowed = false;
        settings.use_build_hook = false;
        settings.set("build-use-substitutes", "false");
        settings.apply_named().unwrap();
        let settings = changed_settings(&settings, &trusted(), &request).unwrap();
        assert!(!settings.use_build_hook && !settings.use_substitutes);
    }

    #[test]
    fn remote_clients_do_not_keep_failed_builds() {
        let request = SetOptions {
            keep_failed: true,
            ..SetOptions::default()
        };
        assert!(changed(&untrusted(), &request).keep_failed);
        let remote = ClientIdentity {
            remote: true,
            ..ClientIdentity::default()
        };
        assert!(!changed(&remote, &request).keep_failed);
    }

    #[test]
    fn a_bad_number_is_an_error() {
        let request = override_of("build-cores", "many");
        let error = changed_settings(&SessionSettings::initial(), &trusted(), &request);
        assert_eq!(
            error.unwrap_err().to_string(),
            "configuration setting `build-cores' should have an integer value"
        );
    }
}
