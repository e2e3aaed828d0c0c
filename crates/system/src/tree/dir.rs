//! An open directory, and operations on the names in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fchmod, fstat, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use super::listing;

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, a pipe or a device.
    Other,
}

/// The result of `lstat`.
#[derive(Clone, Copy, Debug)]
pub struct Stat(FileStat);

impl Stat {
    pub(super) fn of(stat: FileStat) -> Stat {
        Stat(stat)
    }

    /// The type of the file.
    pub fn kind(&self) -> Kind {
        match self.0.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::Regular,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink,
            _ => Kind::Other,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == Kind::Directory
    }

    /// The permission bits, with setuid, setgid and sticky.
    pub fn mode(&self) -> u32 {
        self.0.st_mode & 0o7777
    }

    /// The owner.
    pub fn uid(&self) -> u32 {
        self.0.st_uid
    }

    /// The group.
    pub fn gid(&self) -> u32 {
        self.0.st_gid
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.0.st_size.max(0) as u64
    }

    /// The 512-byte blocks in use.
    pub fn blocks(&self) -> u64 {
        self.0.st_blocks.max(0) as u64
    }

    /// The number of hard links.
    #[allow(
        clippy::unnecessary_cast,
        reason = "the type differs between architectures"
    )]
    pub fn links(&self) -> u64 {
        self.0.st_nlink as u64
    }

    /// Device and inode number, which identify a file.
    pub fn identity(&self) -> (u64, u64) {
        (self.0.st_dev, self.0.st_ino)
    }

    /// The time of the last modification: seconds and nanoseconds.
    pub fn mtime(&self) -> (i64, i64) {
        (self.0.st_mtime, self.0.st_mtime_nsec)
    }

    /// The time of the last access: seconds and nanoseconds.
    pub fn atime(&self) -> (i64, i64) {
        (self.0.st_atime, self.0.st_atime_nsec)
    }

    /// The underlying structure.
    pub fn raw(&self) -> &FileStat {
        &self.0
    }
}

/// One name in a directory, as read from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// The inode number.
    pub inode: u64,
}

/// An open directory. Names passed to its methods are single names in it: those with a `/` or NUL,
/// `.` and `..` are refused. Symbolic links are never followed, except in [`Dir::open`] and as
/// described in [`Dir::open_beneath`].
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

const OPEN_DIR: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NOFOLLOW);

impl Dir {
    /// Opens a directory by its path. Symbolic links in the path are followed, except as the last
    /// component.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Dir> {
        let fd = nix::fcntl::open(path.as_ref(), OPEN_DIR, Mode::empty())?;
        Ok(Dir { fd })
    }

    /// Opens the directory `name` in this one.
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> io::Result<Dir> {
        let fd = openat(&self.fd, check(name.as_ref())?, OPEN_DIR, Mode::empty())?;
        Ok(Dir { fd })
    }

    /// Opens a directory by a relative path, of which no component may be a symbolic link or lead
    /// out of this directory.
    pub fn open_beneath(&self, path: impl AsRef<Path>) -> io::Result<Dir> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(OPEN_DIR).resolve(resolve);
        match openat2(&self.fd, path.as_ref(), how) {
            Ok(fd) => Ok(Dir { fd }),
            Err(nix::errno::Errno::ENOSYS) => self.open_step_by_step(path.as_ref()),
            Err(error) => Err(error.into()),
        }
    }

    /// [`Dir::open_beneath`] for kernels (and seccomp filters) without openat2.
    fn open_step_by_step(&self, path: &Path) -> io::Result<Dir> {
        let mut at = self.try_clone()?;
        for component in path.components() {
            match component {
                std::path::Component::CurDir => {}
                std::path::Component::Normal(name) => at = at.open_dir(name)?,
                _ => return Err(io::Error::from_raw_os_error(libc::EXDEV)),
            }
        }
        Ok(at)
    }

    /// Opens the parent directory. A process that can rename this directory chooses what that is,
    /// so compare identities.
    pub(super) fn open_parent(&self) -> io::Result<Dir> {
        Ok(Dir {
            fd: openat(&self.fd, "..", OPEN_DIR, Mode::empty())?,
        })
    }

    /// Another descriptor of the same open directory.
    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir {
            fd: self.fd.try_clone()?,
        })
    }

    /// The entries of the directory, without `.` and `..`, in the order of the file system.
    pub fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<Entry>> + use<>> {
        // A separate open file description, so that each listing starts at the beginning.
        let fd = openat(&self.fd, ".", OPEN_DIR, Mode::empty())?;
        let iterator = nix::dir::Dir::from_fd(fd)?.into_iter();
        Ok(iterator.filter_map(|entry| match entry {
            Ok(entry) => {
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    return None;
                }
                Some(Ok(Entry {
                    name: OsString::from_vec(name.to_vec()),
                    inode: entry.ino(),
                }))
            }
            Err(error) => Some(Err(error.into())),
        }))
    }

    /// The names in the directory, sorted bytewise.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        // As for `entries`.
        let fd = openat(&self.fd, ".", OPEN_DIR, Mode::empty())?;
        Dir { fd }.names_once()
    }

    /// Like [`Dir::names`], for a directory that was just opened: it can be listed only once, which
    /// saves opening it again.
    pub(super) fn names_once(&mut self) -> io::Result<Vec<OsString>> {
        let mut names = listing::names(self.fd.as_fd())?;
        names.sort_unstable();
        Ok(names)
    }

    /// The metadata of the directory itself.
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(Stat(fstat(&self.fd)?))
    }

    /// The metadata of `name` (not of the file that it points to).
    pub fn stat_at(&self, name: impl AsRef<OsStr>) -> io::Result<Stat> {
        let name = check(name.as_ref())?;
        Ok(Stat(fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?))
    }

    /// Like [`Dir::stat_at`]; `None` if the name doesn't exist.
    pub fn try_stat_at(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Stat>> {
        match self.stat_at(name) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the regular file `name` for reading. Never blocks on a pipe or opens a device: other
    /// types of files are refused.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY;
        let file = File::from(openat(
            &self.fd,
            check(name.as_ref())?,
            flags,
            Mode::empty(),
        )?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(file)
    }

    /// Like [`Dir::open_file`], by a relative path as for [`Dir::open_beneath`].
    pub fn open_file_beneath(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or_default();
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                self.open_beneath(parent)?.open_file(name)
            }
            _ => self.open_file(path),
        }
    }

    /// Creates the file `name`, which must not exist, and opens it for reading and writing.
    pub fn create_new(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.fd, check(name.as_ref())?, flags, bits(mode))?.into())
    }

    /// Creates the directory `name` (`mode` is subject to the umask).
    pub fn create_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<()> {
        Ok(mkdirat(&self.fd, check(name.as_ref())?, bits(mode))?)
    }

    /// Creates the symbolic link `name`.
    pub fn symlink(&self, target: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(symlinkat(target.as_ref(), &self.fd, check(name.as_ref())?)?)
    }

    /// The target of the symbolic link `name`.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> io::Result<OsString> {
        Ok(nix::fcntl::readlinkat(&self.fd, check(name.as_ref())?)?)
    }

    /// Creates `new_name` in `new_dir` as another hard link to `name` (to a symbolic link itself,
    /// if it is one).
    pub fn hard_link(
        &self,
        name: impl AsRef<OsStr>,
        new_dir: &Dir,
        new_name: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let (name, new_name) = (check(name.as_ref())?, check(new_name.as_ref())?);
        Ok(linkat(
            &self.fd,
            name,
            &new_dir.fd,
            new_name,
            AtFlags::empty(),
        )?)
    }

    /// Renames `name` to `new_name` in `new_dir`, replacing an existing file as `rename` does.
    pub fn rename(
        &self,
        name: impl AsRef<OsStr>,
        new_dir: &Dir,
        new_name: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        self.rename_with(
            name.as_ref(),
            new_dir,
            new_name.as_ref(),
            RenameFlags::empty(),
        )
    }

    /// Like [`Dir::rename`], but fails if `new_name` exists.
    pub fn rename_new(
        &self,
        name: impl AsRef<OsStr>,
        new_dir: &Dir,
        new_name: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        self.rename_with(
            name.as_ref(),
            new_dir,
            new_name.as_ref(),
            RenameFlags::RENAME_NOREPLACE,
        )
    }

    /// Exchanges two names atomically.
    pub fn exchange(
        &self,
        name: impl AsRef<OsStr>,
        new_dir: &Dir,
        new_name: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        self.rename_with(
            name.as_ref(),
            new_dir,
            new_name.as_ref(),
            RenameFlags::RENAME_EXCHANGE,
        )
    }

    fn rename_with(
        &self,
        name: &OsStr,
        new_dir: &Dir,
        new_name: &OsStr,
        flags: RenameFlags,
    ) -> io::Result<()> {
        let (name, new_name) = (check(name)?, check(new_name)?);
        let done = if flags.is_empty() {
            nix::fcntl::renameat(&self.fd, name, &new_dir.fd, new_name)
        } else {
            nix::fcntl::renameat2(&self.fd, name, &new_dir.fd, new_name, flags)
        };
        Ok(done?)
    }

    /// Removes `name`, which is not a directory.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(unlinkat(
            &self.fd,
            check(name.as_ref())?,
            UnlinkatFlags::NoRemoveDir,
        )?)
    }

    /// Removes the empty directory `name`.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(unlinkat(
            &self.fd,
            check(name.as_ref())?,
            UnlinkatFlags::RemoveDir,
        )?)
    }

    /// Sets the mode of the directory itself.
    pub fn chmod(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(&self.fd, bits(mode))?)
    }

    /// Sets owner and group of the directory itself; `None` leaves one unchanged.
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        Ok(fchown(
            &self.fd,
            uid.map(Uid::from_raw),
            gid.map(Gid::from_raw),
        )?)
    }

    /// Sets owner and group of `name` (of a symbolic link itself); `None` leaves one unchanged.
    pub fn chown_at(
        &self,
        name: impl AsRef<OsStr>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> io::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        let name = check(name.as_ref())?;
        Ok(fchownat(
            &self.fd,
            name,
            uid,
            gid,
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?)
    }

    /// Sets the times of last access and modification of `name` (of a symbolic link itself), in
    /// seconds since the epoch; `None` leaves the access time unchanged.
    pub fn set_times_at(
        &self,
        name: impl AsRef<OsStr>,
        atime: Option<i64>,
        mtime: i64,
    ) -> io::Result<()> {
        let atime = atime.map_or(TimeSpec::UTIME_OMIT, |seconds| TimeSpec::new(seconds, 0));
        let mtime = TimeSpec::new(mtime, 0);
        let name = check(name.as_ref())?;
        Ok(utimensat(
            &self.fd,
            name,
            &atime,
            &mtime,
            UtimensatFlags::NoFollowSymlink,
        )?)
    }

    /// Syncs the directory (its names) to disk.
    pub fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(&self.fd)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Dir {
        Dir { fd }
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> OwnedFd {
        dir.fd
    }
}

/// Refuses anything but a single name in a directory.
pub(super) fn check(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        let message = format!(
            "`{}' is not the name of a directory entry",
            Path::new(name).display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(name)
}

pub(super) fn bits(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}
