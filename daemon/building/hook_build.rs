//! A build that a hook has accepted (`doc/spec/hook-protocol.md`, sections 6 and 7).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use formats::printable::printable;
use formats::store_path::StorePath;
use protocol::builder_filter::BuilderFilter;
use protocol::hook_filter::HookFilter;
use protocol::trace::{BuildFailure, Trace};
use store::Closure;
use system::{pipe, signal};

use super::attempt::Attempt;
use super::attempt_error::{AttemptError, report_failure};
use super::deadline::Deadline;
use super::files;
use super::hook::{HookPipes, HookProcess};
use super::job::Job;
use super::log_file::LogFile;
use super::log_sink::LogRecord;
use super::monitor::{Carries, Ended, Limits, Monitor, Source};
use super::outcome::{Failure, Outcome};
use super::outputs::{self, Round};
use super::stage::Stage;
use crate::request_error::RequestError;

/// How many characters of a hook's verdict are passed on.
const VERDICT_LIMIT: usize = 1000;

/// Has the hook build the missing outputs. The caller holds the locks of all outputs.
pub(super) fn build(
    job: &Job,
    attempt: &Attempt,
    hook: HookProcess,
    missing: &BTreeSet<StorePath>,
) -> Result<Outcome, RequestError> {
    attempt.stage().enter(Stage::ByHook);
    let mut inputs = (*job.input_closure()?).clone();
    inputs.extend(
        job.engine
            .store
            .compute_closure([&job.path], Closure::default())?,
    );
    let lines = [line(&inputs), line(missing)].concat();
    let deadline = Deadline::start(job, attempt);
    let (ended, verdict) = supervise(job, &deadline, hook, &lines)?;
    match ended {
        Ended::Cancelled => Ok(Outcome::Failed(Failure::Misc)),
        Ended::TimedOut => {
            attempt.trace(Trace::BuildFailed {
                derivation: job.path.as_str(),
                failure: BuildFailure::Timeout,
            });
            Ok(Outcome::Failed(Failure::TimedOut))
        }
        Ended::Exited(status) => judge(job, &deadline, status, verdict.as_deref(), missing),
    }
}

/// A line of paths in the hook protocol: a space follows each.
fn line(paths: &BTreeSet<StorePath>) -> Vec<u8> {
    let mut text = Vec::new();
    for path in paths {
        text.extend_from_slice(path.as_str().as_bytes());
        text.push(b' ');
    }
    text.push(b'\n');
    text
}

/// Sends the paths to the hook, and watches it until it ends. Returns also what it says of a build that has failed.
fn supervise(
    job: &Job,
    deadline: &Deadline<'_>,
    hook: HookProcess,
    lines: &[u8],
) -> Result<(Ended, Option<String>), RequestError> {
    let (mut child, pipes) = hook.into_parts();
    let HookPipes {
        mut requests,
        output,
        log,
        rows: (rows_pipe, mut rows),
        unread,
    } = pipes;
    let attempt = deadline.attempt();
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
    let talking = |e: io::Error| RequestError::new(format!("talking to the build hook: {e}"));
    pipe::set_nonblocking(&requests, false).map_err(talking)?;
    let mut filter = HookFilter::default();
    if !unread.is_empty() {
        // The id was sent together with the reply.
        let pid = Some(pid.unsigned_abs());
        attempt.log(LogRecord::HelperOutput {
            pid,
            data: filter.filter(&unread).into(),
        });
    }
    let monitor = Monitor {
        attempt,
        name: job.description(),
        limits: Limits::of(&job.session),
        started: deadline.started(),
        log: log_file,
    };
    let mut sources = [
        Source::new(output, Carries::HelperOutput(filter)),
        Source::new(log, Carries::Log(BuilderFilter::default())),
        Source::new(
            rows_pipe,
            Carries::Rows(Box::new(|piece| {
                rows.take(piece, Some((&job.path, &job.derivation)))
            })),
        ),
    ];
    let ended = std::thread::scope(|scope| {
        // The lines may be longer than a pipe's capacity, and the hook may write before it reads
        // them. If it never reads them, this thread ends when it is killed.
        scope.spawn(move || {
            let _ = requests.write_all(lines);
        });
        let ended = monitor.watch(&mut child, &mut sources, true);
        drop(child);
        ended
    })?;
    let verdict = sources
        .iter()
        .find_map(|source| source.verdict(job.path.as_str()));
    Ok((ended, verdict.map(str::to_owned)))
}

/// Why a build has failed on a machine, as it would be said of one that has failed here. A machine, or a builder
/// there, has chosen the words.
fn verdict_in_words(path: &StorePath, verdict: &str) -> String {
    let shown: String = verdict.chars().take(VERDICT_LIMIT).collect();
    let shown = printable(&shown);
    let subject = format!("builder for `{path}' ");
    match shown.starts_with(&subject) {
        true => shown.into_owned(),
        false => format!("{subject}failed: {shown}"),
    }
}

/// The outcome that corresponds to the hook's exit status.
fn judge(
    job: &Job,
    deadline: &Deadline<'_>,
    status: ExitStatus,
    verdict: Option<&str>,
    missing: &BTreeSet<StorePath>,
) -> Result<Outcome, RequestError> {
    let attempt = deadline.attempt();
    let message = format!(
        "builder for `{}' {}",
        job.path,
        signal::describe_exit(status)
    );
    match status.code() {
        Some(0) => succeeded(job, deadline, status, missing),
        Some(100) => {
            let full = files::is_full(job.engine.store.dir().as_path());
            let transient = full || job.is_fixed_output();
            let failure = if transient {
                Failure::Transient
            } else {
                Failure::Permanent
            };
            // The exit code is the hook's; the builder's is better.
            let message = verdict.map_or(message, |verdict| verdict_in_words(&job.path, verdict));
            report_failure(job, attempt, failure, &message).map(Outcome::Failed)
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

/// The hook itself failed. The build may be retried.
fn failed(job: &Job, attempt: &Attempt, status: ExitStatus, message: &str) -> Outcome {
    attempt.fails(message);
    attempt.trace(Trace::HookFailed {
        derivation: job.path.as_str(),
        status: status.into_raw(),
        message,
    });
    Outcome::HookFailed
}

fn succeeded(
    job: &Job,
    deadline: &Deadline<'_>,
    status: ExitStatus,
    missing: &BTreeSet<StorePath>,
) -> Result<Outcome, RequestError> {
    let attempt = deadline.attempt();
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
        // The hook has copied the outputs here but not registered them.
        let place = |path: &StorePath| path.as_path().to_owned();
        let round = Round {
            last: true,
            previous: None,
        };
        let taken = outputs::take(job, deadline, &rest, &place, None, &round);
        match taken.map_err(|error| deadline.explain(error)) {
            Ok(_) => {}
            Err(AttemptError::Failed(_, message)) => {
                return Ok(failed(job, attempt, status, &message));
            }
            Err(error) => return error.outcome(job, attempt),
        }
    }
    attempt.trace(Trace::BuildSucceeded {
        derivation: job.path.as_str(),
    });
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_said_as_of_a_build_here() {
        let store = formats::StoreDir::new("/gnu/store").unwrap();
        let path = store
            .parse("/gnu/store/0mgxsakkancy2iry6pj8hwcmlbmjbamn-x.drv")
            .unwrap();
        let same = format!("builder for `{path}' failed with exit code 9");
        assert_eq!(verdict_in_words(&path, &same), same);
        assert_eq!(
            verdict_in_words(&path, "its output\u{1b}[2J cannot be taken"),
            format!("builder for `{path}' failed: its output\\u{{1b}}[2J cannot be taken")
        );
        assert!(verdict_in_words(&path, &"x".repeat(5000)).len() < 1200);
    }

    /// The two lines that Guix's daemon wrote after `# accept` (`hook/vectors/README.md`).
    #[test]
    fn lines_of_paths_are_those_of_guix() {
        let recorded = include_str!("../../hook/vectors/accept");
        let store = formats::StoreDir::new("/gnu/store").unwrap();
        for recorded in recorded.split_inclusive('\n').skip(1) {
            let words = recorded.split_ascii_whitespace();
            let paths = words.map(|word| store.parse(word).unwrap()).collect();
            assert_eq!(line(&paths), recorded.as_bytes());
        }
    }
}
