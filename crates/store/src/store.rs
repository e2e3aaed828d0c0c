//! The [`Store`]: opening it, and what all operations share.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use formats::derivation::ModuloHashes;
use formats::store_path::StoreDir;
use system::errno;
use system::lock::{LockFile, Mode};
use system::sync::Mutex;
use system::tree::Dir;

use crate::database::{Database, make_private};
use crate::directories::Directories;
use crate::error::{Context, Error, Result};
use crate::options::StoreOptions;
use crate::progress::{Level, Progress};

/// The version of the database schema.
const SCHEMA_VERSION: u32 = 7;

/// The cache of derivations' hashes is emptied after this many uses, to bound its size.
const MODULO_CACHE: usize = 200_000;

/// An open store. Clones share everything.
///
/// ```
/// use std::collections::BTreeSet;
/// use formats::StoreDir;
/// use store::{AddOptions, Directories, PathLocks, Quiet, Store, StoreOptions};
/// use system::companion::Installation;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let root = tempfile::tempdir()?;
/// let root = root.path().canonicalize()?;
/// let directories = Directories {
///     store: StoreDir::new(root.join("store").display().to_string())?,
///     state: root.join("state"),
///     database: root.join("state/db"),
///     log: root.join("log"),
///     configuration: root.join("etc"),
///     installation: Installation { bin: root.join("bin"), libexec: root.join("libexec") },
///     guix: root.join("bin/guix"),
/// };
/// let store = Store::open(directories, StoreOptions::default(), &Quiet)?;
///
/// let temp_roots = store.temp_roots();
/// let options = AddOptions { temp_roots: &temp_roots, repair: false, progress: &Quiet };
/// let path = store.add_text("hello", b"Hello, world!", &BTreeSet::new(), &options)?;
/// assert!(store.is_valid(&path)?);
/// assert!(store.path_info(&path)?.references.is_empty());
///
/// let _locks = PathLocks::try_acquire(&store, [&path])?.expect("nobody else has it");
/// assert!(PathLocks::try_acquire(&store, [&path])?.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) directories: Directories,
    pub(crate) options: StoreOptions,
    /// `None` if only the files are open.
    database: Option<Database>,
    /// The store directory.
    pub(crate) root: Dir,
    /// `.links`; `None` in a store opened read-only.
    pub(crate) links: Option<Dir>,
    /// The hashes of derivations modulo their inputs, and how often they were used.
    modulo: Mutex<(ModuloHashes, usize)>,
    /// A shared lock while the store is open, so that nobody upgrades the schema meanwhile.
    _big_lock: Option<LockFile>,
}

impl Store {
    /// Opens the store, and creates missing parts of it and of its state (unless
    /// [`StoreOptions::read_only`]).
    ///
    /// `progress` reports waiting for a schema upgrade. If the store may be mounted read-only, call
    /// [`make_writable`](crate::writable::make_writable) first.
    pub fn open(
        directories: Directories,
        options: StoreOptions,
        progress: &dyn Progress,
    ) -> Result<Store> {
        if !options.read_only {
            create_layout(&directories, &options)?;
        }
        let store = directories.store.as_path();
        if !options.ignore_symlink_store {
            check_not_symlink(store)?;
        }
        let mut big_lock = None;
        let mut create = false;
        if !options.read_only {
            reserve_space(&directories, &options, true);
            let lock = take_big_lock(&directories, progress)?;
            create = schema_version(&directories)? == 0;
            // Guix calls access(2), whose error is clearer than SQLite's.
            nix::unistd::access(
                &directories.database,
                nix::unistd::AccessFlags::R_OK | nix::unistd::AccessFlags::W_OK,
            )
            .context(|| {
                let directory = directories.database.display();
                format!("store database directory `{directory}' is not writable")
            })?;
            make_private(&directories.database.join("db.sqlite"), &lock);
            big_lock = Some(lock);
        }
        let database = Database::open(&directories.database, &options, create)?;
        if create {
            let schema = directories.database.join("schema");
            fs::write(&schema, SCHEMA_VERSION.to_string())
                .context(|| format!("writing file `{}'", schema.display()))?;
        }
        let root = open_root(store)?;
        let links = if options.read_only {
            None
        } else {
            Some(open_dir(&store.join(".links"))?)
        };
        Ok(Store {
            inner: Arc::new(Inner {
                directories,
                options,
                database: Some(database),
                root,
                links,
                modulo: Mutex::default(),
                _big_lock: big_lock,
            }),
        })
    }

    /// Opens the files of a store whose database is somebody else's: items can be received
    /// ([`Store::receive`]) and [moved](crate::ReceivedItem::move_to) to their paths. Whatever needs
    /// the database fails.
    pub fn open_files(directories: Directories, options: StoreOptions) -> Result<Store> {
        let store = directories.store.as_path();
        if !options.ignore_symlink_store {
            check_not_symlink(store)?;
        }
        let root = open_root(store)?;
        let links = store.join(".links");
        fs::create_dir_all(&links)
            .context(|| format!("creating directory `{}'", links.display()))?;
        Ok(Store {
            inner: Arc::new(Inner {
                links: Some(open_dir(&links)?),
                directories,
                options,
                database: None,
                root,
                modulo: Mutex::default(),
                _big_lock: None,
            }),
        })
    }

    /// The database.
    pub(crate) fn database(&self) -> Result<&Database> {
        let missing = || Error::Other("the store was opened without its database".to_owned());
        self.inner.database.as_ref().ok_or_else(missing)
    }

    /// The names of all directories.
    pub fn directories(&self) -> &Directories {
        &self.inner.directories
    }

    /// The store directory.
    pub fn dir(&self) -> &StoreDir {
        &self.inner.directories.store
    }

    /// The options with which it was opened.
    pub fn options(&self) -> &StoreOptions {
        &self.inner.options
    }

    /// Keeps some disk space in reserve, or frees it so that garbage can be collected on a full
    /// disk (as requested in the handshake). As in Guix, a failure isn't an error.
    pub fn set_reserved_space(&self, reserve: bool) {
        reserve_space(&self.inner.directories, &self.inner.options, reserve);
    }

    /// Writes everything that is known to `db.sqlite`, so that it can be copied alone. This also
    /// happens [some time](StoreOptions::checkpoint_after) after the last change.
    pub fn checkpoint(&self) -> Result<()> {
        self.database()?.checkpoint()
    }

    /// Creates `profiles/per-user/NAME` for the user `uid`, if it doesn't exist.
    pub fn create_user(&self, name: &str, uid: u32, progress: &dyn Progress) -> Result<()> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(Error::Other(format!("invalid user name `{name}'")));
        }
        let directory = self
            .directories()
            .state
            .join("profiles/per-user")
            .join(name);
        match fs::DirBuilder::new().mode(0o755).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            result => result.context(|| format!("creating directory `{}'", directory.display()))?,
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).context(|| {
            format!(
                "changing permissions of directory '{}'",
                directory.display()
            )
        })?;
        // An unprivileged daemon can't do this; the administrator can.
        if let Err(error) = std::os::unix::fs::lchown(&directory, Some(uid), None) {
            let _ = fs::remove_dir(&directory);
            progress.message(
                Level::Info,
                &format!(
                    "failed to change owner of directory '{}' to {uid}: {}",
                    directory.display(),
                    errno::message(&error)
                ),
            );
        }
        Ok(())
    }

    /// A unique name in the store directory for a temporary file.
    pub(crate) fn unique_name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", unique())
    }

    /// `.links`.
    pub(crate) fn links_dir(&self) -> Result<&Dir> {
        self.inner.links.as_ref().ok_or_else(|| {
            Error::io(
                "opening `.links'",
                io::Error::from_raw_os_error(nix::libc::EROFS),
            )
        })
    }

    /// Runs `work` with the cache of derivations' hashes.
    pub(crate) fn with_modulo<T>(&self, work: impl FnOnce(&mut ModuloHashes) -> T) -> T {
        let mut modulo = self.inner.modulo.lock();
        let (hashes, uses) = &mut *modulo;
        *uses += 1;
        if *uses > MODULO_CACHE {
            (*hashes, *uses) = (ModuloHashes::new(), 0);
        }
        work(hashes)
    }
}

fn open_dir(path: &Path) -> Result<Dir> {
    Dir::open(path).context(|| format!("opening directory `{}'", path.display()))
}

fn open_root(store: &Path) -> Result<Dir> {
    open_dir(&fs::canonicalize(store).unwrap_or_else(|_| store.into()))
}

/// Creates the directories of a store.
fn create_layout(directories: &Directories, options: &StoreOptions) -> Result<()> {
    let create = |path: &Path| {
        fs::create_dir_all(path).context(|| format!("creating directory `{}'", path.display()))
    };
    let store = directories.store.as_path();
    let profiles = directories.state.join("profiles");
    let roots = directories.state.join("gcroots");
    create(store)?;
    create(&store.join(".links"))?;
    create(&profiles)?;
    create(&directories.state.join("temproots"))?;
    create(&directories.database)?;
    if !roots.exists() {
        create(&roots)?;
        let link = roots.join("profiles");
        std::os::unix::fs::symlink(&profiles, &link)
            .context(|| format!("creating symlink from `{}'", link.display()))?;
    }
    let per_user = profiles.join("per-user");
    create(&per_user)?;
    match &options.build_users_group {
        Some(group) if !group.is_empty() && nix::unistd::getuid().is_root() => {
            share_with_builders(store, &per_user, group)
        }
        _ => Ok(()),
    }
}

/// Sets permissions for an installation with build users.
fn share_with_builders(store: &Path, per_user: &Path, group: &str) -> Result<()> {
    const MODE: u32 = 0o1775;
    fs::set_permissions(per_user, fs::Permissions::from_mode(0o755)).context(|| {
        format!(
            "could not set permissions on '{}' to 755",
            per_user.display()
        )
    })?;
    let entry = system::ids::group_by_name(group)
        .context(|| format!("looking up the group `{group}'"))?
        .ok_or_else(|| {
            Error::Other(format!(
                "the group `{group}' specified in `build-users-group' does not exist"
            ))
        })?;
    let attributes = fs::metadata(store)
        .context(|| format!("getting attributes of path '{}'", store.display()))?;
    let mode = attributes.mode() & 0o7777;
    if (attributes.uid(), attributes.gid(), mode) != (0, entry.gid, MODE) {
        std::os::unix::fs::chown(store, Some(0), Some(entry.gid))
            .context(|| format!("changing ownership of path '{}'", store.display()))?;
        fs::set_permissions(store, fs::Permissions::from_mode(MODE))
            .context(|| format!("changing permissions on path '{}'", store.display()))?;
    }
    Ok(())
}

/// Refuses a store directory that is a symbolic link, or whose name contains one.
fn check_not_symlink(store: &Path) -> Result<()> {
    for path in store.ancestors() {
        let attributes = fs::symlink_metadata(path)
            .context(|| format!("getting status of `{}'", path.display()))?;
        if attributes.is_symlink() {
            return Err(Error::Other(format!(
                "the path `{}' is a symlink; this is not allowed for the store and its parent \
                 directories",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Creates or removes the file that keeps disk space in reserve; errors are ignored.
fn reserve_space(directories: &Directories, options: &StoreOptions, reserve: bool) {
    let path = directories.database.join("reserved");
    let fill = || -> io::Result<()> {
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == options.reserved_space) {
            return Ok(());
        }
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        let length = options
            .reserved_space
            .try_into()
            .map_err(io::Error::other)?;
        if nix::fcntl::posix_fallocate(&file, 0, length).is_err() {
            io::copy(
                &mut io::Read::take(io::repeat(b'X'), options.reserved_space),
                &mut file,
            )?;
            file.flush()?;
        }
        file.set_len(options.reserved_space)
    };
    let result = if reserve {
        fill()
    } else {
        fs::remove_file(&path)
    };
    if let Err(error) = result {
        tracing::debug!(path = %path.display(), %error, reserve, "reserved space");
    }
}

/// Makes sure that no schema upgrade is running for as long as the result lives.
fn take_big_lock(directories: &Directories, progress: &dyn Progress) -> Result<LockFile> {
    let path = directories.database.join("big-lock");
    let file =
        LockFile::open(&path).context(|| format!("opening lock file `{}'", path.display()))?;
    let failed = || format!("acquiring/releasing lock `{}'", path.display());
    if !file.try_lock(Mode::Shared).context(failed)? {
        progress.message(Level::Error, "waiting for the big store lock...");
        let taken = file
            .lock_unless(Mode::Shared, || progress.interrupted())
            .context(failed)?;
        if !taken {
            return Err(Error::Interrupted);
        }
    }
    Ok(file)
}

/// The version in the file `schema`; 0 if it doesn't exist.
fn schema_version(directories: &Directories) -> Result<u32> {
    let path = directories.database.join("schema");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        text => text.context(|| format!("reading file `{}'", path.display()))?,
    };
    let version = text
        .trim()
        .parse()
        .map_err(|_| Error::Other(format!("`{}' is corrupt", path.display())))?;
    if version > SCHEMA_VERSION {
        Err(Error::Other(format!(
            "current store schema is version {version}, but I only support {SCHEMA_VERSION}"
        )))
    } else if version != 0 && version < SCHEMA_VERSION {
        Err(Error::Other(format!(
            "Your store database uses an implausibly old schema, version {version}."
        )))
    } else {
        Ok(version)
    }
}

/// A unique string. It contains the process id for people's benefit; that alone isn't unique on a
/// store that is used by daemons in several PID namespaces.
pub(crate) fn unique() -> String {
    format!("{}-{:016x}", std::process::id(), rand::random::<u64>())
}
