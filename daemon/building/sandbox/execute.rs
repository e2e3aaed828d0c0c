//! Executing the builder.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::trace::Trace;
use system::process::execute_file;
use system::{errno, landlock, personality, seccomp};

use super::build_log::log;
use super::identity::Identity;
use super::plan::{Plan, Program};
use super::read_only;
use crate::platform::{is_32_bit_counterpart, runs_natively};

/// The subcommand of `guix-fetch` and `guix` that implements all builtin builders.
const PERFORM_DOWNLOAD: &str = "perform-download";
/// The builtin builders.
const BUILTINS: [&str; 2] = ["builtin:download", "builtin:git-download"];

/// Sets the execution domain of the builder (`personality(2)`).
pub(super) fn set_personality(plan: &Plan) -> io::Result<()> {
    let Program::Builder { platform, .. } = &plan.program else {
        return Ok(());
    };
    let mut bits = 0;
    if is_32_bit_counterpart(platform, &plan.own_system) {
        bits |= personality::LINUX32;
    }
    if plan.impersonate_linux_26 && ["i686-linux", "x86_64-linux"].contains(&platform.as_str()) {
        bits |= personality::UNAME26;
    }
    personality::set(bits | personality::NO_RANDOMIZE)
}

/// The file to execute, with all symbolic links resolved, or an error for the build's log: as in
/// Guix, it is the build's failure, and other builds go on.
pub(super) type Executable = Result<PathBuf, String>;

/// Finds the file to execute. A derivation's builder has to be in the store: anything else (such as
/// `/proc/self/exe`, which is the daemon) could be used to modify the daemon itself, whose owner
/// may be the builder, or to run it with libraries chosen by the derivation.
pub(super) fn find(plan: &Plan) -> Executable {
    let file = match &plan.program {
        Program::Builtin { program, .. } => return Ok(program.as_path().to_owned()),
        Program::Builder { file, .. } => file,
    };
    let store = plan.store.as_path();
    let elsewhere = || Err(format!("derivation builder `{file}' is outside the store"));
    match system::tree::locate(file.as_path()) {
        Ok(path) if path.starts_with(store) && path != store => Ok(path),
        Ok(_) => elsewhere(),
        // A magic link or a loop.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => elsewhere(),
        Err(error) => Err(cannot_execute(plan, &error)),
    }
}

/// Opens the program of a builtin builder. Its file may be where the build's user can't look it up:
/// in a home directory, or below a private temporary one.
pub(super) fn open_downloader(plan: &Plan) -> Option<File> {
    match &plan.program {
        Program::Builtin { program, .. } => File::open(program.as_path()).ok(),
        Program::Builder { .. } => None,
    }
}

/// Executes the builder. Only returns if that fails, with the reason.
pub(super) fn run(plan: &Plan, program: Executable, downloader: Option<File>) -> String {
    let program = match &program {
        Ok(program) => program,
        Err(error) => return error.clone(),
    };
    match &plan.program {
        Program::Builtin { name, output, .. } => {
            run_builtin(plan, program, downloader, name, output.as_os_str())
        }
        Program::Builder {
            file,
            arguments,
            platform,
        } => {
            let kernel = |system: &str| system.split_once('-').map(|(_, kernel)| kernel.to_owned());
            if kernel(platform) == kernel(&plan.own_system) {
                let name = file.as_path().file_name().unwrap_or(OsStr::new(""));
                let error = Command::new(program)
                    .arg0(name)
                    .args(arguments.iter().map(|argument| argument.as_os_str()))
                    .env_clear()
                    .envs(environment(plan))
                    .exec();
                let not_executable = error.raw_os_error() == Some(libc::ENOEXEC);
                if !not_executable || runs_natively(platform, &plan.own_system) {
                    return cannot_execute(plan, &error);
                }
            }
            if plan.print_build_trace {
                let trace = Trace::UnsupportedPlatform {
                    derivation: &plan.derivation,
                    system: platform,
                };
                log(format_args!("{trace}"));
            }
            format!(
                "a `{platform}' is required to build `{}', but I am a `{}'",
                plan.derivation, plan.own_system
            )
        }
    }
}

fn cannot_execute(plan: &Plan, error: &io::Error) -> String {
    let file = match &plan.program {
        Program::Builder { file, .. } => file,
        Program::Builtin { program, .. } => program,
    };
    format!("executing `{file}': {}", errno::message(error))
}

/// Restricts the builder: it can't use dangerous system calls (see [`seccomp`]) or, without
/// namespaces, access other processes (see [`landlock`]). A builtin can only write to its own
/// directories, and so neither to the store nor to the daemon's state, and uses no local sockets, as
/// the daemon's is one.
pub(super) fn restrict(plan: &Plan) -> io::Result<()> {
    match (&plan.program, &plan.chroot) {
        (_, Some(_)) => {}
        (Program::Builder { .. }, None) => _ = landlock::confine(None)?,
        (Program::Builtin { output, .. }, None) => {
            let around = output.as_path().parent().unwrap_or(Path::new("/"));
            let own = [around, plan.directory.as_path(), Path::new("/dev")];
            let _ = landlock::confine(Some(&own))?;
        }
    }
    match &plan.program {
        Program::Builder { platform, .. } => {
            seccomp::restrict_builder(!is_32_bit_counterpart(platform, &plan.own_system))
        }
        Program::Builtin { .. } => seccomp::restrict_downloader(),
    }
}

/// Makes everything read-only for a builtin that runs as the daemon's own user, but its own
/// directories: it could otherwise change the modes and times of what the daemon has. Where that
/// isn't permitted, Landlock has to suffice.
pub(super) fn restrict_view(plan: &Plan) {
    let (Program::Builtin { output, .. }, Identity::Own) = (&plan.program, &plan.identity) else {
        return;
    };
    let around = output.as_path().parent().unwrap_or(Path::new("/"));
    let writable = [around, plan.directory.as_path()];
    let _ = read_only::enter_namespaces().and_then(|()| read_only::restrict_view(&writable));
}

fn run_builtin(
    plan: &Plan,
    program: &Path,
    opened: Option<File>,
    name: &str,
    output: &OsStr,
) -> String {
    if !BUILTINS.contains(&name) {
        let name = name.strip_prefix("builtin:").unwrap_or(name);
        return format!("unsupported builtin function '{name}'");
    }
    let arguments = [
        OsStr::new("guix"),
        OsStr::new(PERFORM_DOWNLOAD),
        OsStr::new(&plan.derivation),
        output,
    ];
    // In the daemon's environment, with the plan's variables added.
    let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    variables.extend(environment(plan));
    if let Some(file) = opened {
        // A script, as Guix's own program can be, has to be executed by its name.
        let _ = execute_file(&file, &arguments, variables.clone());
    }
    let error = Command::new(program)
        .arg0(arguments[0])
        .args(&arguments[1..])
        .env_clear()
        .envs(variables)
        .exec();
    format!(
        "failed to run download program '{}': {error}",
        program.display()
    )
}

fn environment(plan: &Plan) -> impl Iterator<Item = (OsString, OsString)> + '_ {
    // `execve' can't pass a name that is empty or contains `='.
    plan.environment
        .iter()
        .filter(|(name, _)| !name.0.is_empty() && !name.0[1..].contains(&b'='))
        .map(|(name, value)| {
            (
                OsStr::from_bytes(&name.0).to_owned(),
                OsStr::from_bytes(&value.0).to_owned(),
            )
        })
}
