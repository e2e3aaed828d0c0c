//! Which program touches the network for the daemon: `guix-fetch`, which comes with it, or Guix's
//! own `guix` (`--fetcher`).

use std::env;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use store::Directories;
use substitutes::network::GUIX_FETCH;
use system::errno;

/// The environment variable that names Guix's own program.
const GUIX: &str = "GUIX";

/// Whose program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours, which is confined and decides nothing.
    GuixFetch,
    /// Guix's, for substitutes and downloads.
    Guix,
}

/// The program that touches the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetcher {
    kind: Kind,
    program: PathBuf,
    /// The option or variable that the administrator has chosen it by.
    chosen_by: Option<&'static str>,
    /// Ours, which was looked for first and is not there, if nothing was chosen.
    instead_of: Option<PathBuf>,
    /// Whether the administrator can do without: there is to be none of ours, and Guix's isn't asked for.
    is_dispensable: bool,
}

impl Fetcher {
    /// The one that the environment names, or else ours, if it is there, or else Guix's.
    pub fn new(directories: &Directories) -> Fetcher {
        let guix = Fetcher::guix(directories);
        match GUIX_FETCH.find(&directories.installation) {
            Some(program) if GUIX_FETCH.is_named() => {
                Fetcher::of(Kind::GuixFetch, program, Some(GUIX_FETCH.variable))
            }
            Some(program) if is_program(&program) => Fetcher::of(Kind::GuixFetch, program, None),
            Some(program) => Fetcher {
                instead_of: Some(program),
                ..guix
            },
            None => Fetcher {
                is_dispensable: true,
                ..guix
            },
        }
    }

    /// The one with this name, as an argument of `--fetcher`.
    ///
    /// # Errors
    /// There is no such fetcher, or it is ours and not there.
    pub fn named(name: &[u8], directories: &Directories) -> Result<Fetcher, String> {
        match name {
            b"guix" => {
                let guix = Fetcher::guix(directories);
                let chosen_by = guix
                    .chosen_by
                    .or(Some("--fetcher=guix; GUIX can name another"));
                Ok(Fetcher { chosen_by, ..guix })
            }
            b"guix-fetch" => {
                let none = || format!("`{}' is empty", GUIX_FETCH.variable);
                let program = GUIX_FETCH
                    .find(&directories.installation)
                    .ok_or_else(none)?;
                let chosen_by = match GUIX_FETCH.is_named() {
                    true => GUIX_FETCH.variable,
                    false => "--fetcher=guix-fetch; GUIX_FETCH can name another",
                };
                let fetcher = Fetcher::of(Kind::GuixFetch, program, Some(chosen_by));
                match fetcher.lack() {
                    Some(lack) => Err(lack),
                    None => Ok(fetcher),
                }
            }
            other => Err(format!(
                "'{}': unknown fetcher",
                String::from_utf8_lossy(other)
            )),
        }
    }

    fn of(kind: Kind, program: PathBuf, chosen_by: Option<&'static str>) -> Fetcher {
        Fetcher {
            kind,
            program,
            chosen_by,
            instead_of: None,
            is_dispensable: false,
        }
    }

    /// Guix's.
    fn guix(directories: &Directories) -> Fetcher {
        let chosen_by = env::var_os(GUIX).map(|_| GUIX);
        Fetcher::of(Kind::Guix, directories.guix.clone(), chosen_by)
    }

    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        self.kind == Kind::GuixFetch
    }

    /// The program's file.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Whether the administrator has chosen it.
    pub fn is_chosen(&self) -> bool {
        self.chosen_by.is_some() && !self.is_dispensable
    }

    /// Whether nobody misses it if it isn't there.
    pub fn is_dispensable(&self) -> bool {
        self.is_dispensable
    }

    /// Why the program can't be used, if it can't.
    pub fn lack(&self) -> Option<String> {
        let reason = check(&self.program).err()?;
        let program = self.program.display();
        let chosen_by = match self.chosen_by {
            Some(name) => format!(" ({name})"),
            None => String::new(),
        };
        let mut lack = format!("cannot use `{program}'{chosen_by}: {reason}");
        if let Some(ours) = &self.instead_of {
            lack += &format!("; and there is no `{}'", ours.display());
        }
        Some(lack)
    }
}

/// Whether there is a program of this name.
pub fn is_program(program: &Path) -> bool {
    check(program).is_ok()
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
        assert!(!guix.is_ours() && guix.is_chosen() && !guix.is_dispensable());
        assert_eq!(guix.program(), directories().guix);
        let refused = Fetcher::named(b"wget", &directories()).unwrap_err();
        assert_eq!(refused, "'wget': unknown fetcher");
    }

    #[test]
    fn what_cannot_be_executed_is_named_with_the_reason() {
        let lack =
            |program: &str| Fetcher::of(Kind::GuixFetch, program.into(), Some("GUIX_FETCH")).lack();
        for (program, reason) in [
            ("/nonexistent/fetch", "No such file or directory"),
            ("/etc/passwd", "Permission denied"),
            ("/etc", "Is a directory"),
        ] {
            let expected = format!("cannot use `{program}' (GUIX_FETCH): {reason}");
            assert_eq!(lack(program), Some(expected));
        }
        assert_eq!(lack("/bin/sh"), None);
        let fetcher = Fetcher {
            instead_of: Some("/x/fetch".into()),
            ..Fetcher::of(Kind::Guix, "/nonexistent/guix".into(), None)
        };
        assert_eq!(
            fetcher.lack().unwrap(),
            "cannot use `/nonexistent/guix': No such file or directory; and there is no `/x/fetch'"
        );
    }
}
