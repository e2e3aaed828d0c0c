//! Looking a path up as the kernel does, one directory at a time.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat, fstatat};

use super::dir::{Kind, Stat};

/// How many symbolic links a path may lead through; the kernel's limit.
const LINKS: u32 = 40;

const LOOK: OFlag = OFlag::O_PATH
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NOFOLLOW);

/// A name in a directory, which is held by a descriptor that reads and writes nothing.
#[derive(Debug)]
pub struct Located {
    directory: OwnedFd,
    name: OsString,
}

impl Located {
    /// What it is like; a symbolic link is not followed.
    pub fn stat(&self) -> io::Result<Stat> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(Stat::of(fstatat(&self.directory, &*self.name, flags)?))
    }

    /// The target, if it is a symbolic link.
    pub fn read_link(&self) -> io::Result<OsString> {
        Ok(readlinkat(&self.directory, &*self.name)?)
    }
}

/// Looks up an absolute path. Symbolic links are followed, except for one that is the last name.
/// `search` is told of every directory in which a name is looked up, before that is done: what it
/// is told of is what the answer depends on, whatever others rename meanwhile.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let scratch = tempfile::tempdir()?;
/// std::os::unix::fs::symlink("nowhere", scratch.path().join("link"))?;
/// let mut searched = 0;
/// let located = system::tree::look_up(&scratch.path().join("link"), |_| searched += 1)?;
/// assert_eq!(located.read_link()?, "nowhere");
/// assert!(searched >= 2);
/// # Ok(())
/// # }
/// ```
pub fn look_up(path: &Path, mut search: impl FnMut(&Stat)) -> io::Result<Located> {
    let mut at = root()?;
    let mut left = names(path);
    let mut links = 0;
    loop {
        let Some(name) = left.pop_front() else {
            // The root directory, or what `..` has led to.
            let name = OsString::from(".");
            return Ok(Located {
                directory: at,
                name,
            });
        };
        if name == "/" {
            at = root()?;
            continue;
        }
        search(&Stat::of(fstat(&at)?));
        if left.is_empty() && name != ".." {
            return Ok(Located {
                directory: at,
                name,
            });
        }
        let next = openat(&at, &*name, LOOK, Mode::empty())?;
        match Stat::of(fstat(&next)?).kind() {
            Kind::Directory => at = next,
            Kind::Symlink => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let target = readlinkat(&next, OsStr::new(""))?;
                for name in names(Path::new(&target)).into_iter().rev() {
                    left.push_front(name);
                }
            }
            _ => return Err(Errno::ENOTDIR.into()),
        }
    }
}

fn root() -> io::Result<OwnedFd> {
    let flags = LOOK | OFlag::O_DIRECTORY;
    Ok(nix::fcntl::open("/", flags, Mode::empty())?)
}

/// The names in a path; `/` for a return to the root directory.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| !matches!(component, Component::CurDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_are_followed_as_the_kernel_does() {
        let scratch = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(scratch.path()).unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        symlink("target", top.join("a/b/link")).unwrap();
        symlink("a/./b", top.join("relative")).unwrap();
        symlink(top.join("relative"), top.join("absolute")).unwrap();
        symlink("../a", top.join("a/up")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        for path in [
            "a/b/link",
            "relative/link",
            "absolute/link",
            "a/up/up/b/link",
            "a/b/../b/link",
        ] {
            let located = look_up(&top.join(path), |_| ()).unwrap();
            assert_eq!(located.read_link().unwrap(), "target", "{path}");
            assert_eq!(located.stat().unwrap().kind(), Kind::Symlink);
        }
        let errno = |path| {
            let located = look_up(&top.join(path), |_| ());
            let stat = located.and_then(|located| located.stat());
            stat.err().and_then(|error| error.raw_os_error())
        };
        assert_eq!(errno("loop/x"), Some(libc::ELOOP));
        assert_eq!(errno("a/missing"), Some(libc::ENOENT));
        assert_eq!(errno("missing/x"), Some(libc::ENOENT));
        assert_eq!(errno("a/b/link/x"), Some(libc::ENOENT));
        fs::write(top.join("file"), "").unwrap();
        assert_eq!(errno("file/x"), Some(libc::ENOTDIR));
        assert_eq!(errno("a/b/.."), None);
        assert!(
            look_up(Path::new("/"), |_| ())
                .unwrap()
                .stat()
                .unwrap()
                .is_dir()
        );
    }

    #[test]
    fn every_directory_that_is_searched_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(scratch.path()).unwrap();
        fs::create_dir_all(top.join("private/open")).unwrap();
        fs::set_permissions(top.join("private"), fs::Permissions::from_mode(0o710)).unwrap();
        symlink(top.join("private/open"), top.join("link")).unwrap();
        for (path, passes) in [("link/x", true), ("link", false), ("private/x", true)] {
            let mut modes = Vec::new();
            drop(look_up(&top.join(path), |stat| {
                modes.push(stat.mode() & 0o777)
            }));
            assert_eq!(modes.contains(&0o710), passes, "{path}: {modes:?}");
        }
    }
}
