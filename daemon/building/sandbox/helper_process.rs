//! The process that the [fork server](super::fork_server_process) has forked to become a
//! [helper](super::helper).
//!
//! It starts in the helper's namespaces, reads the plan to the end, gives up what the helper doesn't
//! need, and reports [`READY`] or [`ALONE`] just before it executes the program. Anything else that it
//! reports is an error, and one after those begins with [`CANNOT_EXECUTE`].

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, exit};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use system::{caps, landlock, limits, mount, pipe, seccomp, signal};

use super::error_context::context;
use super::fork_request::Isolation;
use super::helper_plan::HelperPlan;
use super::read_only;

/// The report that the program is about to be executed, restricted by Landlock.
pub(super) const READY: &str = "ready";
/// The report that it is about to be executed, without Landlock.
pub(super) const ALONE: &str = "ready without Landlock";
/// What an error begins with if the program can't be executed.
pub(super) const CANNOT_EXECUTE: &str = "cannot execute ";

/// What another error begins with if the same may succeed at another time.
pub(super) const TEMPORARY: &str = "at the moment: ";

/// Whether something has failed that may succeed at another time: for lack of memory or descriptors.
pub(super) fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock
    ) || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The descriptor that Guix's programs write replies to.
const REPLIES: i32 = 4;
/// Other descriptors are moved to this number or above.
const OTHERS: i32 = 10;

/// Becomes the helper, or reports an error. `ids` are the daemon's user and group.
pub(super) fn run(
    isolation: Isolation,
    ids: (u32, u32),
    descriptors: [OwnedFd; 3],
    control: File,
) -> ! {
    let control = pipe::renumber(control.into(), OTHERS).map(File::from);
    if let Ok(mut control) = control {
        let Err(error) = become_helper(isolation, ids, descriptors, &mut control);
        let start = if is_temporary(&error) { TEMPORARY } else { "" };
        let text = error.to_string().replace('\n', " ");
        let _ = writeln!(control, "{start}{text}");
    }
    exit(1)
}

fn become_helper(
    isolation: Isolation,
    ids: (u32, u32),
    descriptors: [OwnedFd; 3],
    control: &mut File,
) -> io::Result<Infallible> {
    limits::die_with_parent()?;
    if isolation == Isolation::UserNamespace {
        read_only::map_same(ids)?;
    }
    let mut text = Vec::new();
    control.read_to_end(&mut text)?;
    let plan: HelperPlan = serde_json::from_slice(&text)?;
    // The process may be the leader of a session already.
    let _ = setsid();
    let writable: Vec<&Path> = plan.writable.iter().map(|path| path.as_path()).collect();
    if isolation != Isolation::None {
        read_only::restrict_view(&writable)?;
        for file in &plan.hidden {
            let file = file.as_path();
            context(mount::hide_file(file), "hide", file)?;
        }
    }
    let program = plan.program.as_path();
    context(std::env::set_current_dir("/"), "change to", Path::new("/"))?;
    caps::drop_bounding();
    caps::drop_all()?;
    let devices = read_only::DEVICES.map(Path::new);
    let confined = landlock::confine(Some(&[&writable[..], &devices[..]].concat()))?;
    seccomp::restrict_downloader()?;
    signal::restore_broken_pipes()?;
    place(descriptors)?;
    writeln!(control, "{}", if confined { READY } else { ALONE })?;
    let error = Command::new(program)
        .args(plan.arguments.iter().map(|argument| argument.as_os_str()))
        .envs(plan.environment.iter().map(|(name, value)| {
            let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
            (text(&name.0), text(&value.0))
        }))
        .exec();
    let text = format!("{CANNOT_EXECUTE}`{}': {error}", program.display());
    Err(io::Error::new(error.kind(), text))
}

/// Gives the descriptors the numbers that the program expects.
fn place(descriptors: [OwnedFd; 3]) -> io::Result<()> {
    let [input, output, replies] = descriptors;
    let replies = pipe::renumber(replies, OTHERS)?;
    dup2_stdin(input)?;
    dup2_stdout(&output)?;
    dup2_stderr(output)?;
    pipe::pass_on(replies, REPLIES)
}
