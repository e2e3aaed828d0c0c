//! The database: its schema is the known one, SQLite finds no corruption, and its valid items are
//! in the store.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use rusqlite::{Connection, OpenFlags};
use store::Directories;
use system::process::find_program;

use super::advice;
use super::findings::Findings;

/// Characters that end a file name or begin an escape in SQLite's URIs.
const URI_DELIMITERS: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');

/// The only schema version that Guix's and our daemon support.
const SCHEMA: &str = "7";

pub fn check(directories: &Directories, findings: &mut Findings) {
    let file = directories.database.join("db.sqlite");
    if let Err(error) = fs::File::open(&file) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return findings.note(
                "only the daemon's user can look into the database",
                Some(advice::as_root("guix-daemon --check-setup")),
            );
        }
    }
    if schema(&directories.database, findings) {
        if let Err(error) = contents(&directories.database, findings) {
            findings.wrong(
                format!("the database `{}' cannot be read: {error}", file.display()),
                recovery(&file),
            );
        }
    }
}

/// The command that makes a new database from what can be read of a damaged one. (`.recover` fails
/// where SQLite was built without the virtual table that it needs, as in Debian 12.)
fn recovery(file: &Path) -> String {
    let command = format!(
        "sqlite3 {} .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 recovered.sqlite",
        file.display()
    );
    match find_program("sqlite3") {
        Some(_) => command,
        None => format!("{}; {command}", advice::install("sqlite3")),
    }
}

/// Checks the schema's version. Returns whether there is a database that can be opened.
fn schema(directory: &Path, findings: &mut Findings) -> bool {
    let file = directory.join("schema");
    match fs::read_to_string(&file) {
        Ok(version) if version.trim() == SCHEMA => {
            findings.right(format!("the database's schema is version {SCHEMA}"));
            true
        }
        Ok(version) => {
            findings.wrong(
                format!(
                    "current Guix store schema is version {}, but I only support {SCHEMA}",
                    version.trim()
                ),
                "use the daemon that wrote it; nothing was changed",
            );
            false
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            findings.note("there is no database yet; the daemon will make it", None);
            false
        }
        Err(error) => {
            findings.wrong(
                format!("cannot read `{}': {error}", file.display()),
                format!("chmod 644 {}", file.display()),
            );
            false
        }
    }
}

fn contents(directory: &Path, findings: &mut Findings) -> rusqlite::Result<()> {
    let file = directory.join("db.sqlite");
    // Without a write-ahead log, no process has the database open; SQLite would create a log.
    let immutable = if directory.join("db.sqlite-wal").exists() {
        ""
    } else {
        "&immutable=1"
    };
    let name = percent_encode(file.as_os_str().as_bytes(), URI_DELIMITERS);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let database = Connection::open_with_flags(format!("file:{name}?mode=ro{immutable}"), flags)?;

    let verdict: String = database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        findings.right("the database is sound");
    } else {
        findings.wrong(
            format!("the database is damaged: {verdict}"),
            recovery(&file),
        );
    }
    let mut statement = database.prepare("SELECT path FROM ValidPaths")?;
    let mut rows = statement.query([])?;
    let (mut valid, mut missing) = (0_u64, 0_u64);
    while let Some(row) = rows.next()? {
        let path: String = row.get(0)?;
        valid += 1;
        if fs::symlink_metadata(&path).is_err() {
            missing += 1;
        }
    }
    if missing == 0 {
        findings.right(match valid {
            1 => "the only valid item is in the store".to_owned(),
            _ => format!("all of the {valid} valid items are in the store"),
        });
    } else {
        findings.wrong(
            format!("{missing} of {valid} valid items are not in the store"),
            "guix-client gc --verify=repair",
        );
    }
    Ok(())
}
