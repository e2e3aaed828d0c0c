//! Files that are held by a descriptor, so that what was looked at is what is changed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, Uid, fchownat};

use super::dir::{Dir, Stat, check};

/// A file of any type, which need not be readable; a symbolic link itself.
#[derive(Debug)]
pub struct Held(OwnedFd);

impl Dir {
    /// Holds the file `name`. Nothing is read, and no device or pipe is opened.
    pub fn hold(&self, name: impl AsRef<OsStr>) -> io::Result<Held> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let name = check(name.as_ref())?;
        Ok(Held(openat(self.as_fd(), name, flags, Mode::empty())?))
    }
}

impl Held {
    /// Its metadata.
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(Stat::of(fstat(&self.0)?))
    }

    /// Sets owner and group.
    pub fn chown(&self, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(fchownat(&self.0, "", uid, gid, AtFlags::AT_EMPTY_PATH)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn what_has_the_name_later_is_not_changed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        fs::write(path("mine"), "").unwrap();
        fs::write(path("precious"), "").unwrap();
        symlink("precious", path("link")).unwrap();
        let dir = Dir::open(scratch.path()).unwrap();
        let (held, link) = (dir.hold("mine").unwrap(), dir.hold("link").unwrap());
        let looked_at = held.stat().unwrap();
        fs::rename(path("mine"), path("elsewhere")).unwrap();
        fs::hard_link(path("precious"), path("mine")).unwrap();
        assert_eq!(held.stat().unwrap().identity(), looked_at.identity());
        let own = fs::metadata(path("mine")).unwrap();
        // Only root can change it to somebody else; giving a file to its owner is permitted.
        let other = if own.uid() == 0 { 4242 } else { own.uid() };
        held.chown(other, own.gid()).unwrap();
        link.chown(other, own.gid()).unwrap();
        let uid = |name: &str| fs::symlink_metadata(path(name)).unwrap().uid();
        assert_eq!([uid("elsewhere"), uid("link")], [other; 2]);
        assert_eq!([uid("mine"), uid("precious")], [own.uid(); 2]);
    }
}
