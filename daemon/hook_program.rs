//! The build hook: the program that is asked to build derivations on other machines.
//!
//! Its name is in `NIX_BUILD_HOOK`, as in Guix of 2014. If that is unset, the hook is the installed
//! one, or in a development tree the one next to the daemon; if it is empty, there is none. The
//! file is checked before each use, so that a hook that is installed later is found; an unusable
//! hook is reported once.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use store::Directories;
use system::companion::Companion;
use system::errno;

/// The environment variable with the hook's file name.
pub const VARIABLE: &str = "NIX_BUILD_HOOK";

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
            program: HOOK.find(&directories.libexec),
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
