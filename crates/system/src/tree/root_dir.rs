//! A directory that will be a process's root: names are resolved as in that process.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::symlinkat;

use super::dir::{Kind, Stat};

/// A directory that will be the root directory of a process.
///
/// Absolute names, `..` and symbolic links are all resolved inside it and never lead out, since its
/// contents may come from directories that other users can change.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let scratch = tempfile::tempdir()?;
/// std::os::unix::fs::symlink("/", scratch.path().join("up"))?;
/// let root = system::tree::RootDir::open(scratch.path())?;
/// root.make_file("/up/up/etc/motd".as_ref())?;
/// assert!(scratch.path().join("etc/motd").exists());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
}

/// A file in a [`RootDir`], held by a descriptor that can't read or write.
#[derive(Debug)]
pub struct Found {
    fd: OwnedFd,
    kind: Kind,
}

impl Found {
    /// The type of the file.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A path of exactly this file, valid as long as this value lives, for system calls that only
    /// take paths.
    pub fn path(&self) -> PathBuf {
        crate::pipe::proc_path(&self.fd)
    }

    fn new(fd: OwnedFd) -> io::Result<Found> {
        let kind = Stat::of(fstat(&fd)?).kind();
        Ok(Found { fd, kind })
    }
}

impl AsFd for Found {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

impl RootDir {
    /// Opens the directory by its path outside.
    pub fn open(path: &Path) -> io::Result<RootDir> {
        let flags = LOOK | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let fd = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(RootDir { fd })
    }

    /// Finds a file by its path inside.
    pub fn find(&self, inside: &Path) -> io::Result<Found> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        match openat2(
            &self.fd,
            inside,
            OpenHow::new().flags(LOOK).resolve(resolve),
        ) {
            Ok(fd) => Found::new(fd),
            Err(Errno::ENOSYS) => self.find_step_by_step(inside),
            Err(error) => Err(error.into()),
        }
    }

    /// [`RootDir::find`] for kernels (and seccomp filters) without `openat2`: links are refused.
    fn find_step_by_step(&self, inside: &Path) -> io::Result<Found> {
        let mut at = self.fd.try_clone()?;
        for component in inside.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    at = openat(&at, name, LOOK | OFlag::O_NOFOLLOW, Mode::empty())?;
                    if Stat::of(fstat(&at)?).kind() == Kind::Symlink {
                        return Err(Errno::ELOOP.into());
                    }
                }
                _ => return Err(Errno::EXDEV.into()),
            }
        }
        Found::new(at)
    }

    /// Finds a directory.
    fn find_directory(&self, inside: &Path) -> io::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(LOOK | OFlag::O_DIRECTORY);
        match openat2(&self.fd, inside, how.resolve(resolve)) {
            Ok(fd) => Ok(fd),
            Err(Errno::ENOSYS) => match self.find_step_by_step(inside)? {
                found if found.kind == Kind::Directory => Ok(found.fd),
                _ => Err(Errno::ENOTDIR.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Finds a directory, after creating it and its missing parents (mode 0755, subject to the
    /// umask).
    pub fn make_directories(&self, inside: &Path) -> io::Result<Found> {
        let inside = Path::new("/").join(inside);
        // Usually just the last one is missing, so they are looked for from that end.
        let (mut existing, mut missing) = (inside.as_path(), Vec::new());
        if let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) {
            missing.push(name);
            existing = parent;
        }
        let mut fd = loop {
            let found = self.find_directory(existing);
            match (found, existing.parent(), existing.file_name()) {
                (Err(error), Some(parent), Some(name))
                    if error.kind() == io::ErrorKind::NotFound =>
                {
                    missing.push(name);
                    existing = parent;
                }
                (found, ..) => break found?,
            }
        };
        let mut so_far = existing.to_owned();
        while let Some(name) = missing.pop() {
            so_far.push(name);
            fd = match mkdirat(&fd, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) => {
                    let flags = LOOK | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
                    openat(&fd, name, flags, Mode::empty())?
                }
                Err(Errno::EEXIST) => match self.find_directory(&so_far) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Err(dangling(&so_far));
                    }
                    found => found?,
                },
                Err(error) => return Err(error.into()),
            };
        }
        let kind = Kind::Directory;
        Ok(Found { fd, kind })
    }

    /// Finds a file, after creating an empty one (mode 0644, subject to the umask) if it doesn't
    /// exist. An existing file of any type is left as it is.
    pub fn make_file(&self, inside: &Path) -> io::Result<Found> {
        let (around, name) = self.around(inside)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o644);
        match openat(&around, name, flags, mode) {
            Ok(fd) => {
                let kind = Kind::Regular;
                Ok(Found { fd, kind })
            }
            Err(Errno::EEXIST) => self.find(inside),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a symbolic link, which must not exist, and its missing parent directories.
    pub fn symlink(&self, target: &OsStr, inside: &Path) -> io::Result<()> {
        let (around, name) = self.around(inside)?;
        Ok(symlinkat(target, around.as_fd(), name)?)
    }

    /// The parent directory of a path, created if missing, and the last component of the path.
    fn around<'a>(&self, inside: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
            let text = format!("`{}' is not the name of a file", inside.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        let around = match self.find_directory(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_directories(parent)?.fd
            }
            found => found?,
        };
        Ok((around, name))
    }
}

/// The error of a symbolic link whose target doesn't exist in the root directory.
fn dangling(inside: &Path) -> io::Error {
    let text = format!(
        "the symbolic link `{}' leads nowhere inside",
        inside.display()
    );
    io::Error::new(io::ErrorKind::NotFound, text)
}

/// Opens a file in order to find its path and execute it: no access is needed, and magic links such
/// as `/proc/self/exe`, which lead to files without a path here, aren't followed.
pub fn locate(path: &Path) -> io::Result<PathBuf> {
    let how = OpenHow::new()
        .flags(LOOK)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = match openat2(nix::fcntl::AT_FDCWD, path, how) {
        Ok(fd) => fd,
        // Without `openat2`: after resolving all links, the path must still lead to the same file.
        Err(Errno::ENOSYS) => {
            let resolved = path.canonicalize()?;
            nix::fcntl::open(&resolved, LOOK | OFlag::O_NOFOLLOW, Mode::empty())?
        }
        Err(error) => return Err(error.into()),
    };
    let place = PathBuf::from(nix::fcntl::readlink(&crate::pipe::proc_path(&fd))?);
    // The kernel's path is only usable if it leads to the file.
    let named = nix::sys::stat::lstat(&place)?;
    let opened = fstat(&fd)?;
    match (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino) {
        true => Ok(place),
        false => Err(Errno::ENOENT.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_nowhere_else() {
        let scratch = tempfile::tempdir().unwrap();
        let (top, out) = (scratch.path().join("top"), scratch.path().join("out"));
        fs::create_dir(&top).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(out.join("file"), "precious").unwrap();
        symlink(&out, top.join("absolute")).unwrap();
        symlink("../out", top.join("relative")).unwrap();
        let root = RootDir::open(&top).unwrap();
        for name in ["/absolute/file", "/relative/file", "/../out/file"] {
            let error = root.find(Path::new(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}");
        }
        root.make_file(Path::new("/relative/x/file")).unwrap_err();
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "precious");
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("file"), "contents").unwrap();
        let root = RootDir::open(scratch.path()).unwrap();
        assert_eq!(
            root.make_file(Path::new("/file")).unwrap().kind(),
            Kind::Regular
        );
        assert_eq!(
            fs::read_to_string(scratch.path().join("file")).unwrap(),
            "contents"
        );
        root.make_file(Path::new("/new/file")).unwrap();
        assert_eq!(
            root.find(Path::new("/new")).unwrap().kind(),
            Kind::Directory
        );
        assert!(root.make_directories(Path::new("/file/below")).is_err());
    }

    #[test]
    fn magic_links_are_not_located() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("link");
        symlink("/proc/self/exe", &link).unwrap();
        assert_eq!(locate(&link).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        symlink("file", scratch.path().join("other")).unwrap();
        fs::write(scratch.path().join("file"), "").unwrap();
        assert_eq!(
            locate(&scratch.path().join("other")).unwrap(),
            scratch.path().canonicalize().unwrap().join("file")
        );
    }
}
