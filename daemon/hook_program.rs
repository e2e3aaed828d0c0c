//! The build hook: the program that is asked to build derivations on other machines.
//!
//! Its name is in `NIX_BUILD_HOOK`, as in Guix of 2014. If that is unset, the hook is the installed
//! one, or in a development tree the one next to the daemon; if it is empty, there is none. The
//! file is checked before each use, so that a hook that is installed later is found; an unusable
//! hook is reported once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use store::Directories;
use system::companion::Companion;
use system::errno;

/// The environment variable with the hook's file name.
pub const VARIABLE: &str = "NIX_BUILD_HOOK";

/// The environment variable with the seconds for a hook's reply.
const TIMEOUT_VARIABLE: &str = "GUIX_BUILD_HOOK_TIMEOUT";
/// The timeout for a hook's reply, unless the environment names another. Probing many slow machines
/// takes less time.
const REPLY_TIMEOUT: Duration = Duration::from_secs(300);

/// The timeout for a hook's reply, and a warning if what the environment says of it means nothing.
pub fn reply_timeout() -> (Duration, Option<String>) {
    timeout_from(std::env::var_os(TIMEOUT_VARIABLE).as_deref())
}

fn timeout_from(value: Option<&OsStr>) -> (Duration, Option<String>) {
    let Some(value) = value else {
        return (REPLY_TIMEOUT, None);
    };
    match value.to_str().map(str::parse::<u32>) {
        Some(Ok(seconds)) if seconds > 0 => (Duration::from_secs(seconds.into()), None),
        _ => {
            let (value, seconds) = (value.to_string_lossy(), REPLY_TIMEOUT.as_secs());
            let warning = format!(
                "`{TIMEOUT_VARIABLE}' is `{value}', not a number of seconds from 1 to {}; {seconds} counts",
                u32::MAX
            );
            (REPLY_TIMEOUT, Some(warning))
        }
    }
}

const HOOK: Companion = Companion {
    variable: VARIABLE,
    built: "guix-offload",
    installed: "guix/offload",
};

/// How a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// `HOOK SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE BUILD-TIMEOUT`.
    Plain,
    /// `guix offload SYSTEM …`: the program is `guix`, of which the hook is a subcommand.
    GuixOffload,
}

/// The hook's program, if any.
#[derive(Debug)]
pub struct HookProgram {
    program: Option<PathBuf>,
    reported: AtomicBool,
}

impl HookProgram {
    /// No hook.
    pub fn none() -> HookProgram {
        HookProgram {
            program: None,
            reported: AtomicBool::new(false),
        }
    }

    /// The hook in the environment, or else the installed one.
    pub fn from_environment(directories: &Directories) -> HookProgram {
        HookProgram {
            program: HOOK.find(&directories.installation),
            reported: AtomicBool::new(false),
        }
    }

    /// The program and its calling convention, if it is executable. If not, a warning is logged
    /// once.
    pub fn usable(&self) -> Option<(&Path, Convention)> {
        let program = self.program.as_deref()?;
        match check(program) {
            Ok(()) => {
                let guix = program.file_name().is_some_and(|name| name == "guix");
                Some((
                    program,
                    if guix {
                        Convention::GuixOffload
                    } else {
                        Convention::Plain
                    },
                ))
            }
            Err(reason) => {
                if !self.reported.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "warning: cannot use build hook `{}': {reason}; building locally",
                        program.display()
                    );
                }
                None
            }
        }
    }
}

fn check(program: &Path) -> Result<(), String> {
    let metadata = program.metadata().map_err(|error| errno::message(&error))?;
    if metadata.is_dir() {
        return Err(errno::message(&Errno::EISDIR.into()));
    }
    access(program, AccessFlags::X_OK).map_err(|error| errno::message(&error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(program: &str) -> HookProgram {
        HookProgram {
            program: Some(program.into()),
            reported: AtomicBool::new(false),
        }
    }

    #[test]
    fn timeouts_are_whole_seconds() {
        let of = |value: &str| timeout_from(Some(value.as_ref()));
        assert_eq!(of("7"), (Duration::from_secs(7), None));
        assert_eq!(timeout_from(None), (REPLY_TIMEOUT, None));
        for bad in ["", "0", "-1", "1.5", "5s", "4294967296"] {
            let (timeout, warning) = of(bad);
            assert_eq!(timeout, REPLY_TIMEOUT, "{bad}");
            assert!(
                warning
                    .unwrap()
                    .contains(&format!("is `{bad}', not a number"))
            );
        }
    }

    #[test]
    fn unusable_hooks_are_declined() {
        for program in ["/nonexistent/hook", "/etc/passwd", "/etc"] {
            let hook = hook(program);
            assert_eq!(hook.usable(), None, "{program}");
            assert!(hook.reported.load(Ordering::Relaxed));
        }
        assert_eq!(HookProgram::none().usable(), None);
    }

    #[test]
    fn guix_is_called_as_guix_offload() {
        let hook = hook("/bin/sh");
        assert_eq!(
            hook.usable(),
            Some((Path::new("/bin/sh"), Convention::Plain))
        );
    }
}
