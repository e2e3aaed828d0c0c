//! Executing the builder.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::trace::Trace;
use system::{errno, personality};

use super::plan::{Plan, Program};
use crate::platform::{is_32_bit_counterpart, runs_natively};

/// The subcommand of `guix` that stands behind all builtin builders.
const PERFORM_DOWNLOAD: &str = "perform-download";
/// The builtin builders.
const BUILTINS: [&str; 2] = ["builtin:download", "builtin:git-download"];

/// The execution domain in which the builder runs.
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

/// The file to execute, all symbolic links resolved. That of a derivation has to be in the
/// store: anything else (`/proc/self/exe`, say) could be used to change the daemon itself.
pub(super) fn find(plan: &Plan) -> io::Result<PathBuf> {
    match &plan.program {
        Program::Builtin { guix, .. } => Ok(guix.as_path().to_owned()),
        Program::Builder { file, .. } => {
            let resolved = file.as_path().canonicalize();
            match resolved {
                Ok(path) if !path.starts_with(plan.store.as_path()) => Err(io::Error::other(
                    format!("derivation builder `{file}' is outside the store"),
                )),
                Ok(path) => Ok(path),
                // For the build's log to tell.
                Err(_) => Ok(file.as_path().to_owned()),
            }
        }
    }
}

/// Becomes the builder; returns only why that was not possible.
pub(super) fn run(plan: &Plan, program: &Path) -> String {
    match &plan.program {
        Program::Builtin { name, output, .. } => {
            run_builtin(plan, program, name, output.as_os_str())
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
                    return format!("executing `{file}': {}", errno::message(&error));
                }
            }
            if plan.print_build_trace {
                let trace = Trace::UnsupportedPlatform {
                    derivation: &plan.derivation,
                    system: platform,
                };
                eprintln!("{trace}");
            }
            format!(
                "a `{platform}' is required to build `{}', but I am a `{}'",
                plan.derivation, plan.own_system
            )
        }
    }
}

fn run_builtin(plan: &Plan, guix: &Path, name: &str, output: &OsStr) -> String {
    if !BUILTINS.contains(&name) {
        let name = name.strip_prefix("builtin:").unwrap_or(name);
        return format!("unsupported builtin function '{name}'");
    }
    // The daemon's environment, and what the plan adds to it.
    let error = Command::new(guix)
        .arg0("guix")
        .arg(PERFORM_DOWNLOAD)
        .arg(&plan.derivation)
        .arg(output)
        .envs(environment(plan))
        .exec();
    format!(
        "failed to run download program '{}': {error}",
        guix.display()
    )
}

fn environment(plan: &Plan) -> impl Iterator<Item = (OsString, OsString)> + '_ {
    // A name that is empty or holds `=' can't be in an environment.
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
