//! The build machines, and the files that describe them.
//!
//! Three formats are supported: Guix's `machines.scm` (`scheme.rs`), our `machines.toml`
//! (`toml_tables.rs`) and the lines of Nix's `machines` (`nix_lines.rs`). All are reduced to
//! entries of fields, which are checked in one place (`entry.rs`), so that mistakes are reported in
//! the same way for every format: file, line, column, field. After a mistake in one entry, the
//! other machines are still usable; a file that can't be read at all is an error.

mod entry;
mod generator;
mod guile;
mod machine;
mod machine_list;
mod nix_lines;
mod pool;
mod pool_fields;
mod problem;
mod scheme;
pub mod template;
mod toml_tables;
mod values;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use generator::Generator;
pub use machine::{Machine, TransportChoice};
pub use machine_list::MachineList;
pub use pool::{Pool, Queue, Scheduler, Trust};
pub use problem::{Error, Place, Problem};

/// The environment variable that names a machine file to use instead of the usual ones.
const FILE_VARIABLE: &str = "GUIX_OFFLOAD_MACHINES";

/// The machine files, in the configuration directory.
const FILES: [&str; 3] = ["machines.scm", "machines.toml", "machines"];

/// The largest machine file that is read, in bytes.
const MAX_FILE_SIZE: u64 = 64 << 20;

/// The machines of one file. The file name's extension determines the format: `.scm`, `.toml`, or
/// else Nix's lines.
pub fn load_file(file: &Path) -> Result<MachineList, Error> {
    let mut loaded = load_text(file, &read(file)?)?;
    loaded.files.push(file.into());
    Ok(loaded)
}

/// The text of a machine file.
pub fn read(file: &Path) -> Result<String, Error> {
    let open = |reason| Error::Open {
        file: file.into(),
        reason,
    };
    // It need not be a regular file, so its size says nothing.
    let mut text = String::new();
    File::open(file)
        .and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_string(&mut text))
        .map_err(open)?;
    if text.len() as u64 > MAX_FILE_SIZE {
        return Err(open(std::io::Error::other(
            "too large to be a machine file",
        )));
    }
    Ok(text)
}

/// The machines of a file with this text, in the format that `file`'s extension determines. Only
/// if Guile has to evaluate it, the file itself is read.
pub fn load_text(file: &Path, text: &str) -> Result<MachineList, Error> {
    match file.extension().and_then(|e| e.to_str()) {
        Some("scm") => scheme::load(file, text),
        Some("toml") => toml_tables::load(file, text),
        _ => Ok(nix_lines::load(file, text)),
    }
}

/// The only file that is read, if the environment names one.
fn named_file() -> Option<PathBuf> {
    let file = std::env::var_os(FILE_VARIABLE);
    file.filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// The machines configured under `configuration` (`/etc/guix`): `machines.scm`,
/// `machines.toml` and `machines` (Nix's lines), each if it exists; or only the file that
/// `GUIX_OFFLOAD_MACHINES` names.
pub fn load(configuration: &Path) -> Result<MachineList, Error> {
    if let Some(file) = named_file() {
        return load_file(&file);
    }
    let mut all = MachineList::default();
    for name in FILES {
        match load_file(&configuration.join(name)) {
            Ok(loaded) => {
                all.files.extend(loaded.files);
                all.machines.extend(loaded.machines);
                all.generators.extend(loaded.generators);
                all.problems.extend(loaded.problems);
                all.warnings.extend(loaded.warnings);
            }
            Err(Error::Open { reason, .. }) if reason.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The machine files under `configuration` that there can be, or the one that the environment names; and whether
/// another program, Guile, has to run to read one of them.
pub fn files(configuration: &Path) -> (Vec<PathBuf>, bool) {
    let files = candidates(configuration);
    let is_scheme = |file: &Path| file.extension().is_some_and(|extension| extension == "scm");
    let needs_guile =
        |file: &PathBuf| is_scheme(file) && read(file).is_ok_and(|text| scheme::needs_guile(&text));
    let needed = files.iter().any(needs_guile);
    (files, needed)
}

/// The machine files under `configuration` that there can be, or the one that the environment names.
fn candidates(configuration: &Path) -> Vec<PathBuf> {
    match named_file() {
        Some(file) => vec![file],
        None => FILES.iter().map(|name| configuration.join(name)).collect(),
    }
}

/// The file to which entries are added: `machines.toml`, or the one that `GUIX_OFFLOAD_MACHINES` names.
pub fn changeable_file(configuration: &Path) -> PathBuf {
    named_file().unwrap_or_else(|| configuration.join("machines.toml"))
}

/// Whether there is a machine file, in which there may be machines.
pub fn are_configured(configuration: &Path) -> bool {
    candidates(configuration).iter().any(|file| file.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_none() {
        let error = load_file(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }

    #[test]
    fn all_three_files_are_read_and_none_is_required() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load(directory.path()).unwrap().machines.is_empty());

        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write(
            "machines.scm",
            "(list (build-machine (name \"a\") (systems '(\"x\")) (user \"u\") (host-key \"t AAAAAXQAAAABaw==\")))",
        );
        write(
            "machines.toml",
            "[[machine]]\nname = \"b\"\nsystems = [\"x\"]\nuser = \"u\"\nhost-key = \"t AAAAAXQAAAABaw==\"\n",
        );
        write(
            "machines",
            "ssh://u@c x /key 1 1 - - dCBBQUFBQVhRQUFBQUJhdz09\n",
        );
        let loaded = load(directory.path()).unwrap();
        let names: Vec<_> = loaded.machines.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(loaded.problems, []);
        assert_eq!(loaded.files.len(), 3);
    }
}
