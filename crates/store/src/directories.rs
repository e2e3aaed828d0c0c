//! The directories of the store and its state: those configured at build time, overridden by
//! environment variables (`doc/spec/store-formats.md`, section 7).

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use formats::store_path::StoreDir;
use system::companion::Installation;

use crate::error::{Error, Result};

/// The directories configured at build time.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The store: `/gnu/store`.
    pub store: &'static str,
    /// The state: `/var/guix`.
    pub state: &'static str,
    /// Build logs: `/var/log/guix`.
    pub log: &'static str,
    /// Keys, the ACL and the machine file: `/etc/guix`.
    pub configuration: &'static str,
    /// The programs.
    pub bin: &'static str,
    /// The programs' helpers.
    pub libexec: &'static str,
}

/// The [`Defaults`] that `build.rs` gave to the crate in which this is expanded.
#[macro_export]
macro_rules! compiled_directories {
    () => {
        $crate::Defaults {
            store: env!("GUIX_STORE_DIR"),
            state: env!("GUIX_STATE_DIR"),
            log: env!("GUIX_LOG_DIR"),
            configuration: env!("GUIX_CONFIGURATION_DIR"),
            bin: env!("GUIX_BIN_DIR"),
            libexec: env!("GUIX_LIBEXEC_DIR"),
        }
    };
}

/// All directories, as absolute, normalised names.
#[derive(Clone, Debug)]
pub struct Directories {
    /// The store.
    pub store: StoreDir,
    /// The state directory.
    pub state: PathBuf,
    /// The directory of `db.sqlite`.
    pub database: PathBuf,
    /// The directory of build logs (they are under `drvs/`).
    pub log: PathBuf,
    /// Keys, the ACL and the machine file.
    pub configuration: PathBuf,
    /// Where the programs and their helpers were to be installed.
    pub installation: Installation,
    /// The `guix` command, which implements `substitute`, `offload`, ….
    pub guix: PathBuf,
}

impl Directories {
    /// The directory of the hook's state and the history: `<state>/offload`.
    pub fn offload(&self) -> PathBuf {
        self.state.join("offload")
    }

    /// The directories from `defaults` and this process's environment.
    pub fn from_environment(defaults: &Defaults) -> Result<Directories> {
        Directories::from_variables(defaults, |name| std::env::var_os(name))
    }

    /// The directories from `defaults` and `variable`, which returns the value of a variable if it
    /// is set.
    pub fn from_variables(
        defaults: &Defaults,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Directories> {
        let directory = |names: &[&str], default: &OsStr| {
            let value = names.iter().find_map(|name| variable(name));
            canonical(Path::new(value.as_deref().unwrap_or(default)))
        };
        let store = directory(&["NIX_STORE_DIR", "NIX_STORE"], defaults.store.as_ref())?;
        let store = store.to_str().map(StoreDir::new).ok_or_else(|| {
            Error::Other(format!(
                "store directory `{}' is not UTF-8",
                store.display()
            ))
        })?;
        let store = store.map_err(|error| Error::Other(error.to_string()))?;
        let state = directory(&["GUIX_STATE_DIRECTORY"], defaults.state.as_ref())?;
        let installation = Installation {
            bin: canonical(Path::new(defaults.bin))?,
            libexec: canonical(Path::new(defaults.libexec))?,
        };
        let guix = match variable("NIX_BIN_DIR") {
            Some(bin) => canonical(Path::new(&bin))?.join("guix"),
            None => installation.in_bin("guix"),
        };
        Ok(Directories {
            store,
            // Guix doesn't normalise this one.
            database: variable("GUIX_DATABASE_DIRECTORY")
                .map_or_else(|| state.join("db"), PathBuf::from),
            log: directory(&["GUIX_LOG_DIRECTORY"], defaults.log.as_ref())?,
            configuration: directory(
                &["GUIX_CONFIGURATION_DIRECTORY"],
                defaults.configuration.as_ref(),
            )?,
            guix: directory(&["GUIX"], guix.as_os_str())?,
            installation,
            state,
        })
    }

    /// The daemon's own socket.
    pub fn socket(&self) -> PathBuf {
        self.state.join("daemon-socket/socket")
    }
}

/// Normalises a path lexically: removes `.`, `..`, repeated and trailing slashes.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(Error::Other(format!(
            "not an absolute path: `{}'",
            path.display()
        )));
    }
    let mut result = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults {
        store: "/gnu/store",
        state: "/var/guix",
        log: "/var/log/guix",
        configuration: "/etc/guix",
        bin: "/usr/local/bin",
        libexec: "/usr/local/libexec",
    };

    fn with(variables: &[(&str, &str)]) -> Result<Directories> {
        Directories::from_variables(&DEFAULTS, |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        })
    }

    #[test]
    fn defaults_hold_without_variables() {
        let directories = with(&[]).unwrap();
        assert_eq!(directories.store.as_str(), "/gnu/store");
        assert_eq!(directories.database, Path::new("/var/guix/db"));
        assert_eq!(directories.guix, Path::new("/usr/local/bin/guix"));
        assert_eq!(
            directories.socket(),
            Path::new("/var/guix/daemon-socket/socket")
        );
    }

    #[test]
    fn variables_override_and_are_made_canonical() {
        let directories = with(&[
            ("NIX_STORE", "/b//store/"),
            ("GUIX_STATE_DIRECTORY", "/s/../t/./state"),
            ("GUIX_DATABASE_DIRECTORY", "/x/../db"),
            ("NIX_BIN_DIR", "/bin"),
        ])
        .unwrap();
        assert_eq!(directories.store.as_str(), "/b/store");
        assert_eq!(directories.state, Path::new("/t/state"));
        assert_eq!(
            directories.database,
            Path::new("/x/../db"),
            "taken as it is"
        );
        assert_eq!(directories.guix, Path::new("/bin/guix"));
        let both = with(&[("NIX_STORE", "/b"), ("NIX_STORE_DIR", "/a")]).unwrap();
        assert_eq!(both.store.as_str(), "/a");
    }

    #[test]
    fn relative_directories_are_refused() {
        let error = with(&[("NIX_STORE_DIR", "store")]).unwrap_err();
        assert_eq!(error.to_string(), "not an absolute path: `store'");
    }
}
