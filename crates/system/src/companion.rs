//! Programs that are installed with the daemon and its client: the hook, and what touches the network.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A program that is installed with this one.
#[derive(Clone, Copy, Debug)]
pub struct Companion {
    /// The environment variable that names another.
    pub variable: &'static str,
    /// Its name in a development tree, where it is next to this program.
    pub built: &'static str,
    /// Its name below `libexec`.
    pub installed: &'static str,
}

impl Companion {
    /// Whether the environment names a file.
    pub fn is_named(&self) -> bool {
        env::var_os(self.variable).is_some_and(|name| !name.is_empty())
    }

    /// The file that the environment names, or else the installed one, or in a development tree the
    /// one next to this program. `None` if the environment names none. The file may not exist.
    pub fn find(&self, libexec: &Path) -> Option<PathBuf> {
        match env::var_os(self.variable) {
            Some(name) if name.is_empty() => None,
            Some(name) => Some(absolute(name)),
            None => Some(
                self.beside_this()
                    .unwrap_or_else(|| self.in_libexec(libexec)),
            ),
        }
    }

    /// The installed program. If the whole installation was moved (`make install prefix=…`), the one
    /// at the same place relative to this program.
    fn in_libexec(&self, libexec: &Path) -> PathBuf {
        let program = libexec.join(self.installed);
        let moved = || {
            let prefix = env::current_exe().ok()?.parent()?.parent()?.to_owned();
            let moved = prefix.join("libexec").join(self.installed);
            Some(moved).filter(|program| program.exists())
        };
        if program.exists() {
            program
        } else {
            moved().unwrap_or(program)
        }
    }

    /// The program in the same directory as this one, in a development tree.
    fn beside_this(&self) -> Option<PathBuf> {
        let this = env::current_exe().ok()?;
        let directory = this.parent()?;
        let built = directory
            .parent()
            .is_some_and(|parent| parent.join("CACHEDIR.TAG").exists());
        let program = directory.join(self.built);
        (built && program.exists()).then_some(program)
    }
}

/// Makes a name absolute: this program may leave the directory in which it was started.
fn absolute(name: OsString) -> PathBuf {
    let path = PathBuf::from(name);
    std::path::absolute(&path).unwrap_or(path)
}
