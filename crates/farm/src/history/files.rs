//! The files of the history: opening the database so that nobody else can interfere, and beginning
//! anew when it is damaged.
//!
//! The directory is the daemon's alone, and so are the files (mode 0600): who could read the database
//! could hold up its writers with a lock.
//!
//! SQLite finds the journal of a database by its name. So a database must not be replaced while
//! somebody writes to it: writers hold `history.lock` shared, and who replaces the database has it
//! exclusively. Under the lock, a writer makes sure that its open file is still the one with this name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use system::lock::{LockFile, Mode};

use super::{Error, VERSION};

const DATABASE: &str = "history.sqlite";
const MODE: u32 = 0o600;
/// "guxh", which the `file` command can tell from other databases.
const APPLICATION: i64 = 0x6775_7868;
const SCHEMA: &str = include_str!("schema.sql");

/// Where the files are, and how long to wait for others who use them.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// Without symbolic links.
    file: PathBuf,
    patience: Duration,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Files {
    /// The files in a directory, which is created, with mode 0700, if only it is missing.
    pub(super) fn in_directory(directory: &Path, patience: Duration) -> Result<Files, Error> {
        let failed = |source| Error::File {
            file: directory.to_owned(),
            source,
        };
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error))?,
            _ => {}
        }
        Files::existing(directory, patience)
    }

    /// The files in a directory that must exist.
    pub(super) fn existing(directory: &Path, patience: Duration) -> Result<Files, Error> {
        let directory = directory.canonicalize().map_err(|source| Error::File {
            file: directory.to_owned(),
            source,
        })?;
        Ok(Files {
            file: directory.join(DATABASE),
            patience,
        })
    }

    /// The database's file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Opens the database for writing; creates it if it is missing, and replaces it if it is damaged:
    /// then there is a message about that.
    pub(super) fn open(&self) -> Result<(Connection, Identity, Option<String>), Error> {
        match self.try_open() {
            Err(Error::Damaged { source, .. }) => {
                let message = self.replace(&source)?;
                let (connection, identity) = self.try_open()?;
                Ok((connection, identity, message))
            }
            opened => opened.map(|(connection, identity)| (connection, identity, None)),
        }
    }

    fn try_open(&self) -> Result<(Connection, Identity), Error> {
        let _lock = self.lock(Mode::Shared)?;
        let created = File::options()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&self.file);
        match created {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(self.failed(error));
            }
            _ => {}
        }
        let Some(identity) = self.identity()? else {
            return Err(self.failed(io::ErrorKind::NotFound.into()));
        };
        let connection = self.connect()?;
        self.make_tables(&connection)?;
        // The cheapest journal that needs no other files. Not before we know that the database is ours.
        let set = connection.pragma_update_and_check(None, "journal_mode", "truncate", |_| Ok(()));
        set.map_err(|error| self.explain(error))?;
        Ok((connection, identity))
    }

    /// Opens the database for reading; nothing if there is none.
    pub(super) fn open_to_read(&self) -> Result<Option<Connection>, Error> {
        if self.identity()?.is_none() {
            return Ok(None);
        }
        // Not read-only: what an interrupted writer has left must perhaps be undone first.
        let connection = self.connect()?;
        let set = connection.pragma_update(None, "query_only", 1);
        set.map_err(|error| self.explain(error))?;
        match self.version(&connection)? {
            0 => Ok(None),
            _ => Ok(Some(connection)),
        }
    }

    /// Which file has the database's name now; nothing if none has.
    pub(super) fn identity(&self) -> Result<Option<Identity>, Error> {
        let metadata = match fs::symlink_metadata(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(|error| self.failed(error))?,
        };
        if !metadata.is_file() {
            return Err(Error::NotAFile(self.file.clone()));
        }
        if metadata.mode() & 0o777 & !MODE != 0 {
            // Somebody has copied it here. A reader that may not change that can still read.
            let _ = fs::set_permissions(&self.file, fs::Permissions::from_mode(MODE));
        }
        Ok(Some(Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
        }))
    }

    /// Takes the lock, or gives up soon. Creates its file.
    pub(super) fn lock(&self, mode: Mode) -> Result<LockFile, Error> {
        let path = self.beside("lock");
        match LockFile::open(&path) {
            Ok(lock) => self.take(lock, mode),
            Err(source) => Err(Error::File { file: path, source }),
        }
    }

    /// Takes the lock shared, to read, if its file exists: who reads may be another user than who writes,
    /// and must not create what those who write can't open.
    pub(super) fn lock_to_read(&self) -> Result<Option<LockFile>, Error> {
        let path = self.beside("lock");
        let opened = File::options()
            .read(true)
            // A FIFO would have us wait for a writer.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let is_file = |file: &File| file.metadata().is_ok_and(|metadata| metadata.is_file());
        match opened {
            Ok(file) if !is_file(&file) => Err(Error::NotAFile(path)),
            Ok(file) => {
                let lock = self.take(LockFile::from_file(file, path), Mode::Shared);
                lock.map(Some)
            }
            Err(_) => Ok(None),
        }
    }

    fn take(&self, lock: LockFile, mode: Mode) -> Result<LockFile, Error> {
        let deadline = Instant::now() + self.patience;
        let taken = lock.lock_unless(mode, || Instant::now() >= deadline);
        match taken {
            Ok(true) => Ok(lock),
            Ok(false) => Err(Error::Busy(self.file.clone())),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn connect(&self) -> Result<Connection, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(&self.file, flags);
        let connection = connection.map_err(|error| self.explain(error))?;
        let set_up = || {
            // This pragma returns a row.
            let patience = i64::try_from(self.patience.as_millis()).unwrap_or(i64::MAX);
            connection.pragma_update_and_check(None, "busy_timeout", patience, |_| Ok(()))?;
            // Rows may be lost when the machine fails, but no build waits for a disk.
            connection.pragma_update(None, "synchronous", "off")?;
            // Nothing in the file may make us run anything.
            connection.pragma_update(None, "trusted_schema", 0)?;
            connection.pragma_update(None, "cell_size_check", 1)
        };
        set_up().map_err(|error| self.explain(error))?;
        Ok(connection)
    }

    /// Creates the tables in a new file.
    fn make_tables(&self, connection: &Connection) -> Result<(), Error> {
        if self.version(connection)? == VERSION {
            return Ok(());
        }
        let explain = |error| self.explain(error);
        connection
            .execute_batch("begin immediate")
            .map_err(explain)?;
        // Another process may have created them a moment ago. Without a commit, nothing happens.
        if self.version(connection)? == 0 {
            let set =
                format!("pragma application_id = {APPLICATION}; pragma user_version = {VERSION}");
            connection.execute_batch(SCHEMA).map_err(explain)?;
            connection.execute_batch(&set).map_err(explain)?;
        }
        connection.execute_batch("commit").map_err(explain)
    }

    /// The format's version; 0 if the file is empty.
    fn version(&self, connection: &Connection) -> Result<i64, Error> {
        let read = || {
            let number = |name| connection.pragma_query_value(None, name, |row| row.get(0));
            let version: i64 = number("user_version")?;
            let application: i64 = number("application_id")?;
            let tables = "select count(*) from sqlite_master";
            let tables: i64 = connection.query_row(tables, [], |row| row.get(0))?;
            Ok((version, application, tables))
        };
        // At one point in time: another process may be creating the tables.
        let at_once = || {
            connection.execute_batch("savepoint version")?;
            let read = read();
            let released = connection.execute_batch("release version");
            read.and_then(|read| released.map(|()| read))
        };
        let (version, application, tables) = at_once().map_err(|error| self.explain(error))?;
        match version {
            0 if tables == 0 => Ok(0),
            _ if application != APPLICATION => Err(Error::Foreign(self.file.clone())),
            VERSION => Ok(VERSION),
            _ => Err(Error::Newer {
                file: self.file.clone(),
                version,
            }),
        }
    }

    /// Puts a damaged database aside, so that a new one can be begun; says so, unless another process
    /// has just done it.
    fn replace(&self, damage: &rusqlite::Error) -> Result<Option<String>, Error> {
        let _lock = self.lock(Mode::Exclusive)?;
        let is_still_damaged = match self.connect() {
            Ok(connection) => matches!(self.version(&connection), Err(Error::Damaged { .. })),
            Err(error) => matches!(error, Error::Damaged { .. }),
        };
        if !is_still_damaged {
            return Ok(None);
        }
        self.put_aside(damage).map(Some)
    }

    /// The same where a writer has found the damage in a file of this identity.
    pub(super) fn replace_damaged(
        &self,
        identity: Identity,
        damage: &rusqlite::Error,
    ) -> Result<Option<String>, Error> {
        let _lock = self.lock(Mode::Exclusive)?;
        match self.identity()? {
            Some(current) if current == identity => self.put_aside(damage).map(Some),
            _ => Ok(None),
        }
    }

    /// Requires the exclusive lock.
    fn put_aside(&self, damage: &rusqlite::Error) -> Result<String, Error> {
        // A journal of the old database would be taken for the new one's.
        match fs::remove_file(self.beside("sqlite-journal")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error))?,
            _ => {}
        }
        let aside = self.beside("sqlite.corrupt");
        fs::rename(&self.file, &aside).map_err(|error| self.failed(error))?;
        Ok(format!(
            "the history is damaged ({damage}), and begun anew; {} has the old one",
            aside.display()
        ))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        self.file.with_extension(ending)
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File {
            file: self.file.clone(),
            source,
        }
    }

    /// What an error of SQLite means.
    pub(super) fn explain(&self, source: rusqlite::Error) -> Error {
        let file = self.file.clone();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed) => {
                Error::Busy(file)
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Error::Damaged { file, source }
            }
            _ => Error::Database { file, source },
        }
    }
}
