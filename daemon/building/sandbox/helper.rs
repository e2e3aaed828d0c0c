//! The daemon's side: starting a program of Guix that fetches, so that it can write to little.
//!
//! It is one of many things to distrust: what it unpacks comes from the network, and it runs as the
//! daemon's user. It gets a view of this machine in which everything is read-only but the
//! directories that it needs, in namespaces of its own, with whose first process all others end.
//! Where the kernel permits no namespaces, it is restricted by Landlock only, and where there is no
//! Landlock either, not at all; that is said once.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use system::ids;
use system::pipe;
use system::process::Child;

use super::fork_request::Isolation;
use super::fork_server::{ForkServer, retry_if_ended};
use super::helper_plan::HelperPlan;
use super::helper_process::{ALONE, CANNOT_EXECUTE, READY, TEMPORARY, is_temporary};

/// The maximum length of a report, in bytes.
const REPORT_LIMIT: u64 = 64 << 10;

/// A helper that was started.
#[derive(Debug)]
pub struct Helper {
    /// The program. It leads its own session and process group, and is killed on drop.
    pub child: Child,
    /// Why it is restricted less than it could be.
    pub weakness: Option<Weakness>,
}

/// Why a helper is restricted less than it could be.
#[derive(Debug, thiserror::Error)]
pub enum Weakness {
    /// There are no namespaces.
    #[error(
        "it has no read-only view of this machine ({0}); Landlock keeps it from writing elsewhere"
    )]
    Landlock(io::Error),
    /// Nor Landlock.
    #[error(
        "it can write to whatever the daemon can write to: no namespaces ({0}), and no Landlock"
    )]
    Nothing(io::Error),
}

/// Starts a helper with these descriptors 0, 1 (and 2), and 4.
pub fn start_helper(
    plan: &HelperPlan,
    descriptors: [&OwnedFd; 3],
    fork_server: &ForkServer,
) -> io::Result<Helper> {
    let mut refused = None;
    for isolation in isolations() {
        let attempt = retry_if_ended(|| attempt(plan, *isolation, descriptors, fork_server))?;
        match (attempt, refused.take()) {
            (Attempt::Refused(error), first) => refused = Some(first.unwrap_or(error)),
            (Attempt::Started(child, has_landlock), reason) => {
                let weakness = match (isolation, reason) {
                    (Isolation::None, Some(reason)) if has_landlock => {
                        Some(Weakness::Landlock(reason))
                    }
                    (Isolation::None, Some(reason)) => Some(Weakness::Nothing(reason)),
                    _ => None,
                };
                return Ok(Helper { child, weakness });
            }
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::Unsupported.into()))
}

/// What is tried, in order.
fn isolations() -> &'static [Isolation] {
    match ids::effective_uid() {
        0 => &[
            Isolation::Namespaces,
            Isolation::UserNamespace,
            Isolation::None,
        ],
        _ => &[Isolation::UserNamespace, Isolation::None],
    }
}

/// What became of an attempt, if the program could be executed.
enum Attempt {
    /// It runs, with Landlock or not.
    Started(Child, bool),
    /// The kernel doesn't permit that.
    Refused(io::Error),
}

fn attempt(
    plan: &HelperPlan,
    isolation: Isolation,
    [input, output, replies]: [&OwnedFd; 3],
    fork_server: &ForkServer,
) -> io::Result<Attempt> {
    let (mut control, other) = pipe::socket_pair()?;
    let other = other.into();
    let forked = fork_server.helper(isolation, &[input, output, replies, &other]);
    drop(other);
    let child = match forked {
        Ok(child) => child,
        Err(error) => return refused_or_failed(error),
    };
    let text = serde_json::to_vec(plan)?;
    // If the process has ended, its report says why.
    let sent = control.write_all(&text);
    let _ = sent.and_then(|()| control.shutdown(Shutdown::Write));
    let mut report = String::new();
    // The end of the report is that the program is executed, or the process has ended.
    let _ = control.take(REPORT_LIMIT).read_to_string(&mut report);
    let mut lines = report.lines();
    match (lines.next(), lines.next()) {
        (Some(READY), None) => Ok(Attempt::Started(child, true)),
        (Some(ALONE), None) => Ok(Attempt::Started(child, false)),
        (Some(READY | ALONE), Some(error)) => {
            let reason = error.strip_prefix(CANNOT_EXECUTE).unwrap_or(error);
            Err(io::Error::other(reason.to_owned()))
        }
        (Some(error), _) => match error.strip_prefix(TEMPORARY) {
            Some(reason) => Err(io::Error::other(reason.to_owned())),
            None => Ok(Attempt::Refused(io::Error::other(error.to_owned()))),
        },
        (None, _) => Err(io::Error::other("the process ended without saying why")),
    }
}

/// Whether less is tried after an error: not if the same could have succeeded at another time, or
/// whoever takes all memory would have the next helper less restricted.
fn refused_or_failed(error: io::Error) -> io::Result<Attempt> {
    let is_temporary = is_temporary(&error) || error.kind() == io::ErrorKind::UnexpectedEof;
    match is_temporary {
        true => Err(error),
        false => Ok(Attempt::Refused(error)),
    }
}

/// Says once what a program is not kept from.
#[derive(Debug, Default)]
pub struct WeaknessLog(AtomicBool);

impl WeaknessLog {
    /// Logs the weakness of `program`, unless that was done before.
    pub fn log(&self, program: &str, weakness: &Weakness) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!("warning: `{program}' is not confined as it should be: {weakness}");
        }
    }
}
