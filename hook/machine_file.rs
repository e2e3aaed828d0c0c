//! Changing `machines.toml`: adding an entry and removing one, without touching anything else in it.
//!
//! An entry is added at the end. Removing one takes its lines out: from the comments directly above its
//! `[[machine]]` to those of the next table. The `toml` crate says where tables are, and reads the new
//! text before it is written: if it doesn't have the same machines as before, and those added or without those
//! removed, nothing is changed. The file is replaced at once, with its mode and owner, so that nobody reads
//! half of it; under a lock, so that no change is lost. The lock is a file beside it, `.NAME.lock`, that only
//! its owner can open: others, who may read the machine file, can't hold anybody up.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{AccessFlags, access};
use system::ids;
use system::lock::{LockFile, Mode};
use toml::de::{DeTable, DeValue};

use crate::machines::{self, Machine, MachineList, Place};

/// How long others who change the file are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine file; unless it was opened only to look, nobody else changes it by this program as long as this
/// value lives.
pub struct MachineFile {
    /// The name under which it was asked for.
    name: PathBuf,
    /// The file itself, if that is a symbolic link.
    path: PathBuf,
    /// Its text; empty if there is no such file.
    text: String,
    /// Its metadata, if there is such a file.
    metadata: Option<fs::Metadata>,
    /// `None` if it was opened only to look.
    lock: Option<LockFile>,
}

impl MachineFile {
    /// Whether this user could change the file, or create it; to be asked before anything is done for that.
    pub fn check_changeable(name: &Path) -> Result<()> {
        let path = fs::canonicalize(name).unwrap_or_else(|_| name.to_owned());
        let directory = path.parent().unwrap_or(Path::new("/"));
        let us = ids::effective_uid();
        let owner = fs::metadata(&path).map_or(us, |metadata| metadata.uid());
        if us != 0 && owner != us {
            bail!(
                "'{}' belongs to {}: only its owner can change it",
                name.display(),
                ids::user_name(owner)
            );
        }
        if directory.exists() {
            access(directory, AccessFlags::W_OK)
                .with_context(|| format!("'{}' cannot be changed", directory.display()))?;
        }
        Ok(())
    }

    /// Waits for the lock, and reads the file, which need not exist. It is an error if others have the lock for
    /// half a minute.
    pub fn open(name: &Path) -> Result<MachineFile> {
        MachineFile::open_within(name, Some(PATIENCE))
    }

    /// Reads the file, which need not exist, to see what a change would be. Nothing can be written.
    pub fn look(name: &Path) -> Result<MachineFile> {
        MachineFile::open_within(name, None)
    }

    fn open_within(name: &Path, patience: Option<Duration>) -> Result<MachineFile> {
        if name.extension().is_none_or(|extension| extension != "toml") {
            bail!(
                "'{}' is no TOML file, and only those can be changed",
                name.display()
            );
        }
        let path = match fs::canonicalize(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => name.to_owned(),
            path => path.with_context(|| format!("failed to open '{}'", name.display()))?,
        };
        let lock = patience.map(|patience| lock(&path, patience)).transpose()?;
        if lock.is_some() {
            // Its last writer may have died.
            let _ = fs::remove_file(beside(&path, "new"));
        }
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            metadata => Some(metadata.with_context(|| format!("'{}'", path.display()))?),
        };
        let text = match &metadata {
            Some(_) => machines::read(&path)?,
            None => String::new(),
        };
        Ok(MachineFile {
            name: name.to_owned(),
            path,
            text,
            metadata,
            lock,
        })
    }

    /// Its machines. It is an error if it cannot be read.
    pub fn machines(&self) -> Result<MachineList> {
        Ok(machines::load_text(&self.name, &self.text)?)
    }

    /// Adds the text of an entry.
    pub fn add(&self, entry: &str) -> Result<Change<'_>> {
        let before = self.machines()?;
        let mut text = self.text.clone();
        if !text.is_empty() {
            // (A last line need not have an end, and one may follow which is empty.)
            text += if text.ends_with('\n') { "\n" } else { "\n\n" };
            if text.ends_with("\n\n\n") {
                text.pop();
            }
        }
        text += entry;
        let added = machines::load_text(Path::new("entry.toml"), entry)?;
        let after = machines::load_text(&self.name, &text).map_err(|error| {
            anyhow!(
                "'{}' is not written as a list of `[[machine]]' tables, to which another can be added ({error})",
                self.name.display()
            )
        })?;
        let expected = [before.machines, added.machines].concat();
        self.change(text, &after, &expected, before.problems.len())
    }

    /// Removes the entries of the machines with these `NAME:PORT`s.
    pub fn remove(&self, keys: &[String]) -> Result<Change<'_>> {
        let before = self.machines()?;
        let starts = self.starts()?;
        let mut text = self.text.clone();
        let mut removed = Vec::new();
        let is_removed = |machine: &&Machine| keys.contains(&machine.key());
        for machine in before.machines.iter().filter(is_removed).rev() {
            let line = machine.place.position.line;
            let is_its = |start: &&usize| self.line_of(**start) == line;
            let start = *starts
                .iter()
                .find(is_its)
                .with_context(|| self.not_mine(machine))?;
            if !self.text[start..].trim_start().starts_with("[[") {
                bail!(self.not_mine(machine));
            }
            let end = starts.iter().copied().find(|next| *next > start);
            let end = end.unwrap_or(self.text.len());
            let lines = self.with_comments(start)..self.with_comments(end);
            removed.push(text[lines.clone()].to_owned());
            text.replace_range(lines, "");
        }
        let after = machines::load_text(&self.name, &text)?;
        let mut expected = before.machines;
        expected.retain(|machine| !keys.contains(&machine.key()));
        removed.reverse();
        Ok(Change {
            removed: removed.concat(),
            ..self.change(text, &after, &expected, before.problems.len())?
        })
    }

    fn not_mine(&self, machine: &Machine) -> String {
        format!(
            "the entry of '{}' in '{}' is not written as a `[[machine]]' table of its own",
            machine.name,
            self.name.display()
        )
    }

    /// Where tables and other things begin, in order: the beginnings of their lines.
    fn starts(&self) -> Result<Vec<usize>> {
        let document = DeTable::parse(&self.text).map_err(|error| anyhow!("{error}"))?;
        let mut starts = Vec::new();
        for (name, value) in document.get_ref() {
            match value.get_ref() {
                DeValue::Array(items) => starts.extend(items.iter().map(|item| item.span().start)),
                _ => starts.push(name.span().start),
            }
        }
        let of_line = |at: usize| self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let mut starts: Vec<usize> = starts.into_iter().map(of_line).collect();
        starts.sort_unstable();
        starts.dedup();
        Ok(starts)
    }

    fn line_of(&self, at: usize) -> u32 {
        self.text[..at].matches('\n').count() as u32 + 1
    }

    /// Where the comments begin that are directly above the line that begins there.
    fn with_comments(&self, start: usize) -> usize {
        let mut start = start;
        while let Some(above) = self.text[..start].strip_suffix('\n') {
            let line = above.rfind('\n').map_or(0, |newline| newline + 1);
            if !above[line..].trim_start().starts_with('#') {
                break;
            }
            start = line;
        }
        start
    }

    /// The change to a new text, if these are its machines, and there are no new mistakes.
    fn change(
        &self,
        text: String,
        after: &MachineList,
        expected: &[Machine],
        problems: usize,
    ) -> Result<Change<'_>> {
        let without_place = |machine: &Machine| Machine {
            place: Place::default(),
            ..machine.clone()
        };
        let is_same = after
            .machines
            .iter()
            .map(without_place)
            .eq(expected.iter().map(without_place));
        if !is_same || after.problems.len() != problems {
            bail!(
                "'{}' is written in a way that this program cannot change: edit it by hand",
                self.name.display()
            );
        }
        Ok(Change {
            file: self,
            text,
            removed: String::new(),
        })
    }

    fn write(&self, new: &Path, text: &str) -> io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(new)?;
        let mode = match &self.metadata {
            Some(metadata) => {
                let ours = file.metadata()?;
                if (ours.uid(), ours.gid()) != (metadata.uid(), metadata.gid()) {
                    fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
                }
                metadata.mode() & 0o7777
            }
            None => 0o644,
        };
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

/// A new version of the file, which is right.
pub struct Change<'a> {
    file: &'a MachineFile,
    text: String,
    /// The lines that are not in it any more.
    pub removed: String,
}

impl Change<'_> {
    /// Replaces the file.
    pub fn write(&self) -> Result<()> {
        let path = &self.file.path;
        if self.file.lock.is_none() {
            bail!("'{}' was opened only to look", path.display());
        }
        let new = beside(path, "new");
        let written = self
            .file
            .write(&new, &self.text)
            .and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        let written = written.and_then(|()| File::open(directory(path))?.sync_all());
        written.with_context(|| format!("failed to write '{}'", path.display()))
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The file beside a machine file that has its name, and an ending: `lock`, or `new` for a new version.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

/// Waits for the lock of a machine file, whose directory is created if it is missing.
fn lock(path: &Path, patience: Duration) -> Result<LockFile> {
    let lock = beside(path, "lock");
    let take = || -> io::Result<Option<LockFile>> {
        fs::create_dir_all(directory(path))?;
        let file = LockFile::open(&lock)?;
        let deadline = Instant::now() + patience;
        let taken = file.lock_unless(Mode::Exclusive, || Instant::now() >= deadline)?;
        Ok(taken.then_some(file))
    };
    let taken = take().with_context(|| format!("failed to lock '{}'", lock.display()))?;
    taken.ok_or_else(|| {
        anyhow!(
            "'{}' is being changed by somebody else, who has had '{}' locked for {} s",
            path.display(),
            lock.display(),
            patience.as_secs()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> String {
        format!(
            "[[machine]]\nname = \"{name}\"\nsystems = [\"x\"]\nuser = \"u\"\n\
             host-key = \"t AAAAAXQAAAABaw==\"\n"
        )
    }

    struct Scratch(tempfile::TempDir);

    fn add(file: &Path, name: &str) -> Result<()> {
        MachineFile::open(file)?.add(&entry(name))?.write()
    }

    impl Scratch {
        fn new(text: &str) -> Scratch {
            let scratch = Scratch(tempfile::tempdir().unwrap());
            fs::write(scratch.file(), text).unwrap();
            scratch
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("machines.toml")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }

        fn remove(&self, names: &[&str]) -> Result<String> {
            let keys: Vec<String> = names.iter().map(|name| format!("{name}:22")).collect();
            let file = MachineFile::open(&self.file())?;
            let change = file.remove(&keys)?;
            change.write().map(|()| change.removed)
        }

        fn add(&self, name: &str) -> Result<()> {
            add(&self.file(), name)
        }
    }

    #[test]
    fn an_entry_is_added_at_the_end_and_nothing_else_changes() {
        let [a, b] = ["a", "b"].map(entry);
        for (before, after) in [
            (String::new(), b.clone()),
            ("# Ours.\n".to_owned(), format!("# Ours.\n\n{b}")),
            (a.clone(), format!("{a}\n{b}")),
            (format!("{a}\n"), format!("{a}\n{b}")),
            (a.trim_end().to_owned(), format!("{a}\n{b}")),
            (format!("{a}\r\n# x\r\n"), format!("{a}\r\n# x\r\n\n{b}")),
            (
                "[[generate]]\ncommand = ['x'] # y".to_owned(),
                format!("[[generate]]\ncommand = ['x'] # y\n\n{b}"),
            ),
        ] {
            let scratch = Scratch::new(&before);
            scratch.add("b").unwrap();
            assert_eq!(scratch.text(), after, "{before}");
        }
        // There need not be a file, and not even a directory.
        let scratch = Scratch::new("");
        let file = scratch.0.path().join("new/machines.toml");
        add(&file, "b").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), b);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o644);
    }

    #[test]
    fn an_entry_is_removed_with_its_comments() {
        let text = format!(
            "# The farm.\n\n# Rack 1.\n{}# fast = true\n\n# Rack 2,\n# upper half.\n{}port = 22\n\n\
             [machine.resources]\n\n# Rack 3.\n{}# The end.\n",
            entry("a"),
            entry("b").replace(
                "user",
                "transport = \"command\"\ncommand = [\"x\", \"{options}\"]\nuser"
            ),
            entry("c")
        );
        let scratch = Scratch::new(&text);
        let removed = scratch.remove(&["b"]).unwrap();
        assert!(removed.starts_with("# Rack 2,\n# upper half.\n[[machine]]\nname = \"b\"\n"));
        assert!(removed.ends_with("[machine.resources]\n\n"), "{removed}");
        let text = scratch.text();
        let left = format!(
            "# The farm.\n\n# Rack 1.\n{}# fast = true\n\n# Rack 3.\n{}# The end.\n",
            entry("a"),
            entry("c")
        );
        assert_eq!(text, left);
        scratch.remove(&["a", "c"]).unwrap();
        assert_eq!(scratch.text(), "# The farm.\n\n# The end.\n");
    }

    #[test]
    fn entries_with_mistakes_stay_and_one_given_twice_goes_twice() {
        let bad = "[[machine]]\nname = \"b c\"\n\n";
        let scratch = Scratch::new(&format!("{}{bad}{}{}", entry("a"), entry("d"), entry("a")));
        scratch.remove(&["a"]).unwrap();
        assert_eq!(scratch.text(), format!("{bad}{}", entry("d")));
    }

    #[test]
    fn what_cannot_be_changed_is_left_alone() {
        let inline = "machine = [ { name = \"a\", systems = [\"x\"], user = \"u\", \
                      host-key = \"t AAAAAXQAAAABaw==\" } ]\n";
        for (text, words) in [
            ("[[machine]\n", "failed to load machine file"),
            (inline, "not written as"),
            ("machine = 1\n", "not written as"),
        ] {
            let scratch = Scratch::new(text);
            let error = format!("{:#}", scratch.add("b").unwrap_err());
            assert!(error.contains(words), "{error}");
            if text != "machine = 1\n" {
                let error = format!("{:#}", scratch.remove(&["a"]).unwrap_err());
                assert!(error.contains(words), "{error}");
            }
            assert_eq!(scratch.text(), text);
        }
        let error = MachineFile::open(Path::new("/tmp/machines.scm"))
            .err()
            .unwrap();
        assert!(error.to_string().contains("is no TOML file"), "{error}");
    }

    #[test]
    fn mode_and_link_are_kept_and_a_dead_writers_file_is_replaced() {
        let scratch = Scratch::new(&entry("a"));
        let file = scratch.file();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let link = scratch.0.path().join("link.toml");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        fs::write(beside(&file, "new"), "half of it").unwrap();
        add(&link, "b").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(scratch.text(), format!("{}\n{}", entry("a"), entry("b")));
        assert!(!beside(&file, "new").exists());
    }

    #[test]
    fn only_the_lock_holds_others_up_and_not_for_ever() {
        let scratch = Scratch::new(&entry("a"));
        // Whoever can read the directory can do this.
        let directory = File::open(scratch.0.path()).unwrap();
        let flock = nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusive);
        scratch.add("b").unwrap();
        drop(flock);
        let file = MachineFile::open(&scratch.file()).unwrap();
        let lock = beside(&scratch.file(), "lock");
        assert_eq!(fs::metadata(&lock).unwrap().mode() & 0o7777, 0o600);
        let second = MachineFile::open_within(&scratch.file(), Some(Duration::ZERO));
        let error = second.err().unwrap().to_string();
        assert!(
            error.contains(lock.to_str().unwrap()) && error.contains("changed by somebody"),
            "{error}"
        );
        // Looking at it doesn't need the lock, and writes nothing.
        let other = MachineFile::look(&scratch.file()).unwrap();
        assert!(other.add(&entry("c")).unwrap().write().is_err());
        drop(file);
        scratch.add("c").unwrap();
    }

    #[test]
    fn nobody_is_forgotten_when_many_add_at_once() {
        let scratch = Scratch::new("");
        std::thread::scope(|scope| {
            for number in 0..16 {
                let scratch = &scratch;
                scope.spawn(move || scratch.add(&format!("m{number}")).unwrap());
            }
        });
        let list = machines::load_file(&scratch.file()).unwrap();
        assert_eq!((list.machines.len(), list.problems.len()), (16, 0));
    }

    proptest::proptest! {
        #[test]
        fn removing_leaves_the_others_as_they_are(
            parts in proptest::collection::vec(0..7_usize, 1..12),
            chosen in 0..12_usize,
        ) {
            let texts = ["# comment\n", "\n", "", "[[generate]]\ncommand = [\"[[machine]]\"]\n", "#\n\n"];
            let mut text = String::new();
            let mut names = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                match texts.get(*part) {
                    Some(part) => text += part,
                    None => {
                        names.push(format!("m{index}"));
                        text += &entry(&format!("m{index}"));
                        text += "program = \"\"\"\\\n[[machine]]\\\n x\"\"\" # [[machine]]\n";
                    }
                }
            }
            let scratch = Scratch::new(&text);
            if !names.is_empty() {
                let name = names.remove(chosen % names.len());
                scratch.remove(&[&name]).unwrap();
                let left = machines::load_file(&scratch.file()).unwrap();
                let left: Vec<_> = left.machines.into_iter().map(|machine| machine.name).collect();
                assert_eq!(left, names);
            }
        }
    }
}
