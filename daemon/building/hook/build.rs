//! A build that a hook has accepted (`doc/spec/hook-protocol.md`, sections 6 and 7).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use formats::store_path::StorePath;
use protocol::trace::{BuildFailure, Trace};
use store::Closure;
use system::{pipe, signal};

use super::super::attempt::Job;
use super::super::files;
use super::super::log_file::LogFile;
use super::super::monitor::{Carries, Ended, Limits, Monitor, Source};
use super::super::outcome::{Failure, Outcome};
use super::super::outputs::{self, Round};
use super::super::request::BuildError;
use super::super::shared::Attempt;
use super::super::trouble::Trouble;
use super::Hook;

/// Has the hook build what is missing; the caller holds the locks of all outputs.
pub(in super::super) fn run(
    job: &Job,
    attempt: &Attempt,
    hook: Hook,
    missing: &BTreeSet<StorePath>,
) -> Result<Outcome, BuildError> {
    let mut inputs = (*job.input_closure()?).clone();
    inputs.extend(
        job.engine
            .store
            .compute_closure([&job.path], Closure::default())?,
    );
    let lines = [line(&inputs), line(missing)].concat();
    let ended = supervise(job, attempt, hook, &lines)?;
    match ended {
        Ended::Stopped => Ok(Outcome::Failed(Failure::Misc)),
        Ended::TimedOut => {
            attempt.trace(Trace::BuildFailed {
                derivation: job.path.as_str(),
                failure: BuildFailure::Timeout,
            });
            Ok(Outcome::Failed(Failure::TimedOut))
        }
        Ended::Exited(status) => judge(job, attempt, status, missing),
    }
}

/// Paths as the hook gets them: each with a space after it.
fn line(paths: &BTreeSet<StorePath>) -> Vec<u8> {
    let mut text = Vec::new();
    for path in paths {
        text.extend_from_slice(path.as_str().as_bytes());
        text.push(b' ');
    }
    text.push(b'\n');
    text
}

/// Tells the hook what it needs to know, and watches it until its end.
fn supervise(job: &Job, attempt: &Attempt, hook: Hook, lines: &[u8]) -> Result<Ended, BuildError> {
    let Hook {
        mut requests,
        words,
        log,
        unread,
        mut child,
    } = hook;
    let settings = &job.engine.settings;
    let keep = job
        .session
        .keep_log
        .then_some(settings.directories.log.as_path());
    let log_file = LogFile::create(keep, &job.path, settings.log_compression)?;
    let (pid, name) = (child.pid(), log_file.name());
    attempt.trace(Trace::BuildStarted {
        derivation: job.path.as_str(),
        system: &job.platform(),
        log_file: name,
        pid: Some(pid.unsigned_abs()),
    });
    let talking = |e: io::Error| BuildError::general(format!("talking to the build hook: {e}"));
    pipe::set_nonblocking(&requests, false).map_err(talking)?;
    if !unread.is_empty() {
        // Said together with its answer.
        let pid = Some(pid.unsigned_abs());
        attempt.say(super::super::mailbox::Said::Chatter {
            pid,
            data: unread.into(),
        });
    }
    let monitor = Monitor {
        attempt,
        name: format!("building of `{}'", job.path),
        limits: Limits::of(&job.session),
        log: log_file,
    };
    let mut sources = [
        Source::new(words, Carries::Chatter),
        Source::new(log, Carries::Log),
    ];
    std::thread::scope(|scope| {
        // The lines may be longer than a pipe holds, and the hook may talk before it reads them.
        // Should it never read them, this ends when it is killed.
        scope.spawn(move || {
            let _ = requests.write_all(lines);
        });
        let ended = monitor.watch(&mut child, &mut sources, true);
        drop(child);
        ended
    })
}

/// What the end of the hook says about the build.
fn judge(
    job: &Job,
    attempt: &Attempt,
    status: ExitStatus,
    missing: &BTreeSet<StorePath>,
) -> Result<Outcome, BuildError> {
    let message = format!(
        "builder for `{}' {}",
        job.path,
        signal::describe_exit(status)
    );
    match status.code() {
        Some(0) => succeeded(job, attempt, status, missing),
        Some(100) => {
            let full = files::is_full(job.engine.store.dir().as_path());
            let transient = full || job.is_fixed_output();
            let failure = if transient {
                Failure::Transient
            } else {
                Failure::Permanent
            };
            job.failed(attempt, failure, &message).map(Outcome::Failed)
        }
        Some(101) => {
            attempt.trace(Trace::BuildFailed {
                derivation: job.path.as_str(),
                failure: BuildFailure::Timeout,
            });
            Ok(Outcome::Failed(Failure::TimedOut))
        }
        _ => Ok(failed(job, attempt, status, &message)),
    }
}

/// The hook itself failed, which says nothing about the build.
fn failed(job: &Job, attempt: &Attempt, status: ExitStatus, message: &str) -> Outcome {
    attempt.trace(Trace::HookFailed {
        derivation: job.path.as_str(),
        status: status.into_raw(),
        message,
    });
    Outcome::HookFailed
}

fn succeeded(
    job: &Job,
    attempt: &Attempt,
    status: ExitStatus,
    missing: &BTreeSet<StorePath>,
) -> Result<Outcome, BuildError> {
    let valid = job.engine.store.query_valid_paths(missing)?;
    let rest: BTreeSet<StorePath> = missing.difference(&valid).cloned().collect();
    for path in &rest {
        if !files::exists(path.as_path())? {
            let message = format!(
                "builder for `{}' failed to produce output path `{path}'",
                job.path
            );
            return Ok(failed(job, attempt, status, &message));
        }
    }
    if !rest.is_empty() {
        // It has brought them but not registered them.
        let place = |path: &StorePath| path.as_path().to_owned();
        let round = Round {
            last: true,
            previous: None,
        };
        match outputs::take(job, attempt, &rest, &place, None, &round) {
            Ok(_) => {}
            Err(Trouble::General(error)) => return Err(error),
            Err(Trouble::Failed(_, message)) => return Ok(failed(job, attempt, status, &message)),
        }
    }
    attempt.trace(Trace::BuildSucceeded {
        derivation: job.path.as_str(),
    });
    Ok(Outcome::Done)
}
