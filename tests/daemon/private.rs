//! Files that other users must not be able to open: a user who can read a file can lock it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use protocol::client::Connection;

use crate::only_ours;
use crate::support::*;

/// Opens each file for reading, takes a read lock on the byte given after its name, prints which
/// files it could lock, and keeps the locks until it ends.
const LOCK: &str = r#"
    use Fcntl;
    $| = 1;
    while (my ($name, $byte) = splice(@ARGV, 0, 2)) {
        open(my $file, '<', $name) or next;
        fcntl($file, F_SETLK, pack('s s x4 q q i x4', F_RDLCK, SEEK_SET, $byte, 1, 0)) or next;
        push @locked, $file;
        print "$name\n";
    }
    print "\n";
    sleep 1000;
"#;

/// Locks bytes of files as another user; returns which could be locked, and the process that holds
/// the locks.
fn lock_as_nobody<'a>(files: impl IntoIterator<Item = (&'a Path, u64)>) -> (Vec<PathBuf>, Process) {
    let mut command = Command::new("perl");
    command.arg("-e").arg(LOCK).uid(NOBODY).gid(NOBODY);
    for (file, byte) in files {
        command.arg(file).arg(byte.to_string());
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    let locked = said
        .map(|line| line.unwrap())
        .take_while(|line| !line.is_empty())
        .map(PathBuf::from)
        .collect();
    (locked, Process(child))
}

/// The database and the files that SQLite keeps next to it.
fn database_files(fixture: &Fixture) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(fixture.site.state().join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("db.sqlite"))
        .collect();
    files.sort();
    files
}

/// The bytes that SQLite locks: in the index of the log, and in the database.
fn locks_of(files: &[PathBuf]) -> Vec<(&Path, u64)> {
    let bytes = |file: &PathBuf| match file.to_str().unwrap().ends_with("-shm") {
        true => 120..129,
        false => 0x4000_0000..0x4000_0003,
    };
    files
        .iter()
        .flat_map(|file| bytes(file).map(|byte| (file.as_path(), byte)))
        .collect()
}

/// Adds a text, in less time than the busy timeout.
#[track_caller]
fn assert_writes(fixture: &Fixture, name: &str) {
    let stream = fixture.daemon.connect();
    let timeout = Some(Duration::from_secs(8));
    stream.set_read_timeout(timeout).unwrap();
    let mut client: Connection = fixture.greet(stream);
    add_text(&mut client, name, "x", &[]);
}

#[test]
fn no_other_user_can_hold_up_writing() {
    only_ours!();
    let fixture = Fixture::new();
    assert_writes(&fixture, "one");
    let files = database_files(&fixture);
    assert_eq!(files.len(), 3, "{files:?}");
    let (locked, _attacker) = lock_as_nobody(locks_of(&files));
    assert!(locked.is_empty(), "{locked:?}");
    assert_writes(&fixture, "two");
}

#[test]
fn a_database_that_was_readable_becomes_private() {
    only_ours!();
    let fixture = Fixture::new();
    assert_writes(&fixture, "one");
    fixture.kill();
    let files = database_files(&fixture);
    for file in &files {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    // Another user opens and locks them before they become private.
    let (locked, _attacker) = lock_as_nobody(locks_of(&files));
    assert_eq!(locked.len(), locks_of(&files).len());
    let fixture = fixture.restart(&["--no-substitutes"]);
    assert_writes(&fixture, "two");
    for file in database_files(&fixture) {
        assert_eq!(
            fs::metadata(&file).unwrap().mode() & 0o777,
            0o600,
            "{file:?}"
        );
    }
    let names: Vec<_> = fixture
        .client()
        .query_all_valid_paths()
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(names.len(), 2, "nothing is lost: {names:?}");
}

#[test]
fn no_other_user_can_open_what_the_daemon_locks() {
    only_ours!();
    let fixture = Fixture::new();
    let mut client = fixture.client();
    add_text(&mut client, "x", "x", &[]);
    let state = fixture.site.state();
    let mut pending = vec![state.clone()];
    let mut files = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => pending.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    for name in ["gc.lock", "db/big-lock", "db/reserved", "db/db.sqlite"] {
        assert!(files.contains(&state.join(name)), "{name}: {files:?}");
    }
    assert!(
        files
            .iter()
            .any(|file| file.starts_with(state.join("temproots")))
    );
    let (locked, _attacker) = lock_as_nobody(files.iter().map(|file| (file.as_path(), 0)));
    // It is read, but never locked.
    assert_eq!(locked, [state.join("db/schema")]);
}
