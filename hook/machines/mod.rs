//! The build machines: what is known of them, and the files that say it.
//!
//! Three forms are read: Guix's `machines.scm` (see `scheme`), our `machines.toml`
//! (see `plain`) and the lines of Nix's `machines` (see `nix_lines`). They all come down to
//! entries of fields, checked in one place (`entry`), so that a mistake is reported the same
//! way everywhere: file, line, column, field. A mistake in one entry leaves the other machines
//! in use; a file that cannot be read at all is an error.

mod entry;
mod guile;
mod nix_lines;
mod plain;
mod scheme;
pub mod sexp;

use std::fmt;
use std::path::{Path, PathBuf};

use sexp::Position;

/// The environment variable that names a machine file to use instead of the usual ones.
pub const FILE_VARIABLE: &str = "GUIX_OFFLOAD_MACHINES";

/// Which way the build machine's daemon is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// Forward its socket; where that is forbidden, run commands.
    #[default]
    Auto,
    /// The daemon's socket, forwarded by sshd.
    Socket,
    /// `guix archive` and `guix build`, run over SSH.
    Commands,
}

/// One build machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Host name, as written.
    pub name: String,
    /// Port of its SSH server.
    pub port: u16,
    /// System types that it builds for.
    pub systems: Vec<String>,
    /// Account to log in to.
    pub user: String,
    /// Private key; without one, `~/.ssh/id_rsa` as in Guix, or another usual name.
    pub private_key: Option<PathBuf>,
    /// `TYPE BASE64`: the only host key that is accepted.
    pub host_key: String,
    /// Its daemon's socket.
    pub daemon_socket: String,
    /// Load (1 is all processors busy) from which on it gets no builds; `None`: any load will do.
    pub overload_threshold: Option<f64>,
    /// How many builds it gets at once.
    pub parallel_builds: u32,
    /// Relative speed.
    pub speed: f64,
    /// What it offers beyond its system types.
    pub features: Vec<String>,
    /// Features that a derivation must ask for to be built here (Nix's field; ours in TOML).
    pub mandatory_features: Vec<String>,
    /// Way to its daemon.
    pub transport: TransportChoice,
    /// An `ssh_config` of this machine's own, for jump hosts and the like.
    pub ssh_config: Option<PathBuf>,
    /// zstd level of the data sent by [`TransportChoice::Commands`]; `None`: not compressed.
    pub transfer_compression: Option<i32>,
    /// Cores per build (`build-cores`) asked of its daemon; `None`: its own default.
    pub cores: Option<u32>,
    /// The Guix program to run there with [`TransportChoice::Commands`].
    pub program: Option<String>,
    /// Where its entry starts.
    pub place: Place,
}

impl Machine {
    /// `NAME:PORT`: what its directory of locks is called, as in Guix.
    pub fn key(&self) -> String {
        format!("{}:{}", self.name, self.port)
    }
}

/// A place in a machine file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line and column in it.
    pub position: Position,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}",
            self.file.display(),
            self.position.line,
            self.position.column
        )
    }
}

/// Something wrong with (part of) a machine file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {}{message}", .field.as_ref().map(|f| format!("field `{f}': ")).unwrap_or_default())]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// In which field.
    pub field: Option<String>,
    /// What.
    pub message: String,
}

/// What the machine files say.
#[derive(Debug, Clone, Default)]
pub struct Machines {
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// The machines of all sound entries, in order.
    pub machines: Vec<Machine>,
    /// What is wrong with the others.
    pub problems: Vec<Problem>,
}

/// Why a machine file is of no use at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("failed to open machine file '{}': {source}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It makes no sense as a whole.
    #[error("failed to load machine file: {0}")]
    Syntax(Problem),
    /// Guile says so.
    #[error("failed to load machine file '{}': {message}", file.display())]
    Guile {
        /// The file.
        file: PathBuf,
        /// Its words.
        message: String,
    },
}

/// Files larger than this are not machine files.
const MAX_FILE_SIZE: u64 = 64 << 20;

/// The machines of one file; its name says which form it has (`.scm`, `.toml`, else Nix's lines).
pub fn load_file(file: &Path) -> Result<Machines, Error> {
    let open = |source| Error::Open {
        file: file.into(),
        source,
    };
    let size = std::fs::metadata(file).map_err(open)?.len();
    if size > MAX_FILE_SIZE {
        return Err(open(std::io::Error::other(
            "too large to be a machine file",
        )));
    }
    let text = std::fs::read_to_string(file).map_err(open)?;
    let mut loaded = match file.extension().and_then(|e| e.to_str()) {
        Some("scm") => scheme::load(file, &text)?,
        Some("toml") => plain::load(file, &text)?,
        _ => nix_lines::load(file, &text),
    };
    loaded.files.push(file.into());
    Ok(loaded)
}

/// The machines configured under `configuration` (`/etc/guix`): `machines.scm`,
/// `machines.toml` and `machines` (Nix's lines), each if it exists; or only the file that
/// [`FILE_VARIABLE`] names.
pub fn load(configuration: &Path) -> Result<Machines, Error> {
    if let Some(file) = std::env::var_os(FILE_VARIABLE).filter(|f| !f.is_empty()) {
        return load_file(Path::new(&file));
    }
    let mut all = Machines::default();
    for name in ["machines.scm", "machines.toml", "machines"] {
        match load_file(&configuration.join(name)) {
            Ok(loaded) => {
                all.files.extend(loaded.files);
                all.machines.extend(loaded.machines);
                all.problems.extend(loaded.problems);
            }
            Err(Error::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_files_are_read_and_none_is_required() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load(directory.path()).unwrap().machines.is_empty());

        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write(
            "machines.scm",
            "(list (build-machine (name \"a\") (systems '(\"x\")) (user \"u\") (host-key \"t k\")))",
        );
        write(
            "machines.toml",
            "[[machine]]\nname = \"b\"\nsystems = [\"x\"]\nuser = \"u\"\nhost-key = \"t k\"\n",
        );
        write("machines", "ssh://u@c x /key 1 1 - - dCBr\n");
        let loaded = load(directory.path()).unwrap();
        let names: Vec<_> = loaded.machines.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(loaded.problems, []);
        assert_eq!(loaded.files.len(), 3);
    }
}
