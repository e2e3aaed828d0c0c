//! The names of jobs, which no other daemon's jobs have: a job is cancelled by its name. `<state>/offload/id`
//! has a word that was chosen at random, since heads that were set up alike have the same host name and
//! directories.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use formats::Hash;

use crate::directories::HookDirectories;
use crate::machines::Machine;

/// The most that is read of the word, in bytes.
const LIMIT: u64 = 64;

/// The name of the job of a slot.
pub fn of(machine: &Machine, directories: &HookDirectories, slot: u32) -> io::Result<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name = machine.name.replace(|c| !fine(c), "_");
    // A copy of a head has its word, too, but mostly another name.
    let host = nix::unistd::gethostname().unwrap_or_default();
    let word = word(&directories.state)?;
    let daemon = format!("{:?}", (host, word, &directories.state, machine.port));
    let hash = Hash::sha256(daemon).base32();
    Ok(format!("guix-{name}-{slot}-{}", &hash[..8]))
}

/// The word of this daemon, which is made if there is none.
fn word(state: &Path) -> io::Result<String> {
    let file = state.join("id");
    match read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    let word = format!("{:016x}", rand::random::<u64>());
    let new = state.join(format!("id.{word}"));
    let mut options = File::options();
    let mut writer = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let linked = writer
        .write_all(word.as_bytes())
        .and_then(|()| writer.sync_all())
        .and_then(|()| fs::hard_link(&new, &file));
    fs::remove_file(&new)?;
    match linked {
        // Another hook was faster.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read(&file),
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(file)?;
    let mut word = String::new();
    file.take(LIMIT).read_to_string(&mut word)?;
    Ok(word)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::test_data::{directories, machine};

    #[test]
    fn a_daemon_has_names_that_stay_and_that_no_other_has() {
        let (_one, ours) = directories();
        let name = of(&machine("a b"), &ours, 2).unwrap();
        assert!(name.starts_with("guix-a_b-2-"), "{name}");
        let again = std::thread::scope(|scope| {
            let name = || of(&machine("a b"), &ours, 2).unwrap();
            let all: Vec<_> = (0..8).map(|_| scope.spawn(name)).collect();
            all.into_iter().all(|one| one.join().unwrap() == name())
        });
        assert!(again);
        let id = ours.state.join("id");
        assert_eq!(fs::metadata(&id).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&ours.state).unwrap().count(), 1);
        // A head with the same host name and directories.
        fs::remove_file(&id).unwrap();
        assert_ne!(of(&machine("a b"), &ours, 2).unwrap(), name);
        fs::remove_file(&id).unwrap();
        symlink("elsewhere", &id).unwrap();
        of(&machine("a b"), &ours, 2).unwrap_err();
    }
}
