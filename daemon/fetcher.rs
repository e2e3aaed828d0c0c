//! Which program touches the network for the daemon: `guix-fetch`, which comes with it, or Guix's
//! own `guix` (`--fetcher`).

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use store::Directories;
use substitutes::network::GUIX_FETCH;
use system::errno;

/// The program that touches the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetcher {
    /// Ours, which is confined and decides nothing.
    GuixFetch(PathBuf),
    /// Guix's, for substitutes and downloads.
    Guix(PathBuf),
}

impl Fetcher {
    /// Ours, if it is there, or else Guix's.
    pub fn new(directories: &Directories) -> Fetcher {
        match GUIX_FETCH.find(&directories.libexec) {
            Some(program) if check(&program).is_ok() => Fetcher::GuixFetch(program),
            _ => Fetcher::Guix(directories.guix.clone()),
        }
    }

    /// The one with this name, as an argument of `--fetcher`.
    ///
    /// # Errors
    /// There is no such fetcher, or it is ours and not there.
    pub fn named(name: &[u8], directories: &Directories) -> Result<Fetcher, String> {
        match name {
            b"guix" => Ok(Fetcher::Guix(directories.guix.clone())),
            b"guix-fetch" => {
                let none = || format!("`{}' is empty", GUIX_FETCH.variable);
                let program = GUIX_FETCH.find(&directories.libexec).ok_or_else(none)?;
                let unusable = |reason| format!("cannot use `{}': {reason}", program.display());
                check(&program).map_err(unusable)?;
                Ok(Fetcher::GuixFetch(program))
            }
            other => Err(format!(
                "'{}': unknown fetcher",
                String::from_utf8_lossy(other)
            )),
        }
    }

    /// The program's file.
    pub fn program(&self) -> &Path {
        match self {
            Fetcher::GuixFetch(program) | Fetcher::Guix(program) => program,
        }
    }

    /// Whether the program is there.
    pub fn is_available(&self) -> bool {
        check(self.program()).is_ok()
    }
}

fn check(program: &Path) -> Result<(), String> {
    let reason = |error: std::io::Error| errno::message(&error);
    if program.metadata().map_err(reason)?.is_dir() {
        return Err(reason(nix::errno::Errno::EISDIR.into()));
    }
    access(program, AccessFlags::X_OK).map_err(|error| reason(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories() -> Directories {
        Directories::from_variables(&store::compiled_directories!(), |_| None).unwrap()
    }

    #[test]
    fn only_known_fetchers_can_be_named() {
        let guix = Fetcher::named(b"guix", &directories()).unwrap();
        assert_eq!(guix, Fetcher::Guix(directories().guix));
        let refused = Fetcher::named(b"wget", &directories()).unwrap_err();
        assert_eq!(refused, "'wget': unknown fetcher");
    }

    #[test]
    fn what_cannot_be_executed_is_no_program() {
        for program in ["/nonexistent/fetch", "/etc/passwd", "/etc"] {
            assert!(!Fetcher::GuixFetch(program.into()).is_available());
        }
        assert!(Fetcher::Guix("/bin/sh".into()).is_available());
    }
}
