//! File locks, implemented as open-file-description locks.
//!
//! Guix takes its locks with `fcntl(F_SETLK)`. Open-file-description locks conflict with those, but
//! unlike them also exclude other threads of this process, and aren't dropped when another
//! descriptor of the same file is closed. A lock is released when its [`LockFile`] is dropped or
//! its process dies.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Whether others may hold the lock too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Any number of holders, all of them shared (a "read lock").
    Shared,
    /// One holder (a "write lock").
    Exclusive,
}

/// An open file for taking locks; it owns its descriptor.
///
/// ```
/// use system::lock::{LockFile, Mode};
///
/// let directory = tempfile::tempdir()?;
/// let first = LockFile::open(directory.path().join("lock"))?;
/// let second = LockFile::open(directory.path().join("lock"))?;
/// assert!(first.try_lock(Mode::Exclusive)?);
/// assert!(!second.try_lock(Mode::Shared)?);
/// drop(first);
/// assert!(second.try_lock(Mode::Shared)?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct LockFile {
    file: File,
    path: PathBuf,
}

impl LockFile {
    /// Opens the file, and creates it with mode 0600 if it doesn't exist. Takes no lock yet.
    pub fn open(path: impl AsRef<Path>) -> io::Result<LockFile> {
        let path = path.as_ref();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        Ok(LockFile {
            file,
            path: path.into(),
        })
    }

    /// Uses a file that is already open (for writing, if exclusive locks are needed).
    pub fn from_file(file: File, path: impl Into<PathBuf>) -> LockFile {
        LockFile {
            file,
            path: path.into(),
        }
    }

    /// Takes the lock unless another holder conflicts; returns whether it was taken. Changes the
    /// mode of a lock that is already held.
    pub fn try_lock(&self, mode: Mode) -> io::Result<bool> {
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&request(mode.into()))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lock, and waits for as long as necessary.
    pub fn lock(&self, mode: Mode) -> io::Result<()> {
        loop {
            match fcntl(&self.file, FcntlArg::F_OFD_SETLKW(&request(mode.into()))) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the lock until `give_up` says so, which is asked at least every 10 ms.
    /// Returns whether the lock was taken.
    ///
    /// It polls: no call waits for a lock and for something else together.
    pub fn lock_unless(&self, mode: Mode, give_up: impl Fn() -> bool) -> io::Result<bool> {
        let mut pause = Duration::from_millis(1);
        loop {
            if self.try_lock(mode)? {
                return Ok(true);
            }
            if give_up() {
                return Ok(false);
            }
            std::thread::sleep(pause);
            // Short, so that we get a lock that is held most of the time in one of the gaps.
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Whether another holder has a lock of either kind. Takes none.
    pub fn is_locked(&self) -> io::Result<bool> {
        let mut answer = request(libc::F_WRLCK);
        fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut answer))?;
        Ok(answer.l_type != libc::F_UNLCK as libc::c_short)
    }

    /// Releases the lock and keeps the file open.
    fn unlock(&self) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&request(libc::F_UNLCK)))?;
        Ok(())
    }

    /// Whether the file, which was just locked, was deleted by its previous holder: Guix writes to
    /// a lock file after unlinking it, so if it isn't empty, the file must be opened again.
    pub fn is_stale(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.size() != 0)
    }

    /// Deletes the lock file as Guix does: unlinks it, then writes `d` to inform processes that
    /// already opened it and are waiting. Requires the exclusive lock.
    pub fn delete(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        (&self.file).write_all(b"d")
    }

    /// The name under which the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, to read and write its contents.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread has just forked has a copy of the
        // descriptor until it executes its program. Does nothing if no lock is held.
        let _ = self.unlock();
    }
}

impl From<Mode> for libc::c_int {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Shared => libc::F_RDLCK,
            Mode::Exclusive => libc::F_WRLCK,
        }
    }
}

/// A request for the whole file, whatever its length.
fn request(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Whether some process has a lock on the file `path`. It is only read: unlike [`LockFile::open`], this creates
/// nothing, and needs no permission to write.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let mut options = File::options();
    // A FIFO would have us wait for a writer.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match options.read(true).custom_flags(flags).open(path) {
        Ok(file) => LockFile::from_file(file, path).is_locked(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether some process has a lock on the file `path`, as far as `/proc/locks` tells. Unlike
/// [`is_locked`], this needs no permission to read or write it.
pub fn has_lock(path: &Path) -> io::Result<bool> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let (device, inode) = (file_system_of(&file)?, file.metadata()?.ino());
    let locks = std::fs::read_to_string("/proc/locks")?;
    Ok(tells_of(&locks, device, inode))
}

/// Whether `/proc/locks` tells of a lock on this inode of the file system with this device number; of any file
/// system, if that is not known.
fn tells_of(locks: &str, device: Option<(u32, u32)>, inode: u64) -> bool {
    // `1: OFDLCK ADVISORY WRITE -1 08:01:1234 0 EOF'; with `->' in front of those who wait.
    locks.lines().any(|line| {
        let file = line.split_whitespace().nth(5).unwrap_or_default();
        let mut numbers = file.split(':');
        let mut device_number = || u32::from_str_radix(numbers.next()?, 16).ok();
        let locked = device_number().zip(device_number());
        let is_there = device.is_none_or(|device| locked == Some(device));
        let is_it = numbers.next().and_then(|number| number.parse().ok()) == Some(inode);
        !line.contains("->") && is_there && is_it
    })
}

/// The device number, major and minor, of the file system that a file is on, which is not always what `stat`
/// tells: Btrfs has other numbers for subvolumes. `None` if this process does not see where it is mounted.
fn file_system_of(file: &File) -> io::Result<Option<(u32, u32)>> {
    let of_file = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let of_file = std::fs::read_to_string(of_file)?;
    let mut fields = of_file.lines().filter_map(|line| line.split_once(':'));
    let mount = fields.find(|(name, _)| *name == "mnt_id");
    let Some((_, mount)) = mount else {
        return Ok(None);
    };
    // Names of directories there need not be UTF-8.
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    let mounts = String::from_utf8_lossy(&mounts);
    // `36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw'
    let device = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let is_it = fields.next() == Some(mount.trim());
        fields.nth(1).filter(|_| is_it)
    });
    let numbers = device.and_then(|device| device.split_once(':'));
    let numbers = numbers.map(|(major, minor)| (major.parse().ok(), minor.parse().ok()));
    Ok(numbers.and_then(|(major, minor)| major.zip(minor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        (directory, path)
    }

    #[test]
    fn exclusive_locks_exclude_other_openings_of_this_process() {
        let (_directory, path) = scratch();
        let first = LockFile::open(&path).unwrap();
        let second = LockFile::open(&path).unwrap();
        assert!(first.try_lock(Mode::Exclusive).unwrap());
        assert!(!second.try_lock(Mode::Exclusive).unwrap());
        assert!(!second.try_lock(Mode::Shared).unwrap());
        assert!(!second.lock_unless(Mode::Shared, || true).unwrap());
        assert!(second.is_locked().unwrap() && !first.is_locked().unwrap());
        drop(first);
        assert!(!second.is_locked().unwrap());
        assert!(second.try_lock(Mode::Exclusive).unwrap());
    }

    #[test]
    fn a_lock_is_seen_by_reading_its_file_and_without_opening_it() {
        let (_directory, path) = scratch();
        let is_seen = || [has_lock(&path).unwrap(), is_locked(&path).unwrap()];
        assert_eq!((is_seen(), path.exists()), ([false; 2], false));
        let file = LockFile::open(&path).unwrap();
        assert_eq!(is_seen(), [false; 2]);
        for mode in [Mode::Exclusive, Mode::Shared] {
            assert!(file.try_lock(mode).unwrap());
            assert_eq!(is_seen(), [true; 2]);
        }
        drop(file);
        assert_eq!(is_seen(), [false; 2]);
    }

    #[test]
    fn another_file_systems_file_of_the_same_number_is_another() {
        let locks = "1: OFDLCK ADVISORY  WRITE -1 00:2a:77 0 EOF\n\
                     1: -> OFDLCK ADVISORY  WRITE -1 08:01:78 0 EOF\n\
                     2: POSIX  ADVISORY  READ  12 103:02:79 0 EOF\n";
        assert!(tells_of(locks, Some((0, 42)), 77));
        assert!(tells_of(locks, None, 77));
        assert!(!tells_of(locks, Some((8, 1)), 77));
        assert!(!tells_of(locks, Some((8, 1)), 78));
        assert!(tells_of(locks, Some((259, 2)), 79));
        assert!(!tells_of(locks, Some((259, 2)), 80));
    }

    #[test]
    fn a_lock_ends_with_its_value_even_if_a_child_has_the_descriptor() {
        let (_directory, path) = scratch();
        let first = LockFile::open(&path).unwrap();
        assert!(first.try_lock(Mode::Exclusive).unwrap());
        let of_child = first.file().try_clone().unwrap();
        drop(first);
        let second = LockFile::open(&path).unwrap();
        assert!(second.try_lock(Mode::Exclusive).unwrap());
        drop(of_child);
    }

    #[test]
    fn shared_locks_go_together_and_can_be_upgraded() {
        let (_directory, path) = scratch();
        let first = LockFile::open(&path).unwrap();
        let second = LockFile::open(&path).unwrap();
        assert!(first.try_lock(Mode::Shared).unwrap());
        assert!(second.try_lock(Mode::Shared).unwrap());
        assert!(!second.try_lock(Mode::Exclusive).unwrap());
        first.unlock().unwrap();
        assert!(second.try_lock(Mode::Exclusive).unwrap());
    }

    #[test]
    fn closing_another_descriptor_of_the_file_keeps_the_lock() {
        let (_directory, path) = scratch();
        let first = LockFile::open(&path).unwrap();
        first.lock(Mode::Exclusive).unwrap();
        drop(File::open(&path).unwrap());
        assert!(
            !LockFile::open(&path)
                .unwrap()
                .try_lock(Mode::Exclusive)
                .unwrap()
        );
    }

    #[test]
    fn fcntl_locks_of_other_processes_are_in_the_way_both_ways() {
        let (_directory, path) = scratch();
        let ours = LockFile::open(&path).unwrap();
        ours.lock(Mode::Exclusive).unwrap();
        let attempt = |path: &Path| {
            // Perl is on every Debian system; `lockf` is fcntl(F_SETLK) there.
            let script = "use Fcntl; open(F,'+<',$ARGV[0]) or die; \
                my $l=pack('s s l! l! i', F_WRLCK, 0, 0, 0, 0); \
                exit(fcntl(F,F_SETLK,$l) ? 0 : 3);";
            std::process::Command::new("perl")
                .arg("-e")
                .arg(script)
                .arg(path)
                .status()
                .unwrap()
        };
        assert_eq!(attempt(&path).code(), Some(3));
        ours.unlock().unwrap();
        assert_eq!(attempt(&path).code(), Some(0));
    }

    #[test]
    fn a_deleted_lock_file_is_stale_for_those_who_have_it_open() {
        let (_directory, path) = scratch();
        let first = LockFile::open(&path).unwrap();
        let second = LockFile::open(&path).unwrap();
        first.lock(Mode::Exclusive).unwrap();
        assert!(!first.is_stale().unwrap());
        first.delete().unwrap();
        drop(first);
        second.lock(Mode::Exclusive).unwrap();
        assert!(second.is_stale().unwrap());
        assert!(!path.exists());
    }
}
