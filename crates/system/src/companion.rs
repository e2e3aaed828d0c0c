//! Programs that are installed with the daemon and its client: the hook, and what touches the network.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where `configure` has put the programs. `make install prefix=…` may have put them elsewhere.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The directory of programs that people run.
    pub bin: PathBuf,
    /// The directory of their helpers.
    pub libexec: PathBuf,
}

impl Installation {
    /// The directory of this program, if that is not the configured one.
    fn moved_bin(&self) -> Option<PathBuf> {
        let this = env::current_exe().ok()?;
        let directory = this.parent()?;
        // Either name may be a symbolic link.
        let configured = self.bin.canonicalize();
        let stayed = configured.is_ok_and(|configured| configured == directory);
        (!stayed).then(|| directory.to_owned())
    }

    /// A program of this name beside this one if that was moved and is there, or else in the configured directory.
    pub fn in_bin(&self, name: &str) -> PathBuf {
        let moved = self.moved_bin().map(|directory| directory.join(name));
        let moved = moved.filter(|program| program.exists());
        moved.unwrap_or_else(|| self.bin.join(name))
    }

    /// A helper of this name. If this program was moved, it is the one that was moved with it, so that the
    /// programs of two installations don't get mixed; or the configured one, if that is missing.
    fn in_libexec(&self, name: &str) -> PathBuf {
        let moved = self.moved_bin();
        let prefix = moved.as_deref().and_then(Path::parent);
        let moved = prefix.map(|prefix| prefix.join("libexec").join(name));
        let moved = moved.filter(|program| program.exists());
        moved.unwrap_or_else(|| self.libexec.join(name))
    }
}

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
    pub fn find(&self, installation: &Installation) -> Option<PathBuf> {
        match env::var_os(self.variable) {
            Some(name) if name.is_empty() => None,
            Some(name) => Some(absolute(name)),
            None => Some(
                self.beside_this()
                    .unwrap_or_else(|| installation.in_libexec(self.installed)),
            ),
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
