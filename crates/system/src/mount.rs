//! Mounts, and changing the root directory, for processes in their own mount namespace.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub use nix::mount::{MntFlags, MsFlags};
use nix::mount::{mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::statvfs::{FsFlags, statvfs};

const NO_PATH: Option<&Path> = None;

/// Makes a mount and everything below it private: mount events don't propagate in or out.
pub fn make_private(target: &Path) -> io::Result<()> {
    Ok(mount(
        NO_PATH,
        target,
        NO_PATH,
        MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        NO_PATH,
    )?)
}

/// Bind-mounts a file or directory at `target`, with the mounts below it.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(
        Some(source),
        target,
        NO_PATH,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NO_PATH,
    )?)
}

/// Makes a bind mount read-only and keeps its other restrictions (which must not be dropped in a
/// user namespace).
pub fn remount_read_only(target: &Path) -> io::Result<()> {
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let now = statvfs(target)?.flags();
    for (has, keep) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if now.contains(has) {
            flags |= keep;
        }
    }
    Ok(mount(NO_PATH, target, NO_PATH, flags, NO_PATH)?)
}

/// `struct mount_attr` of `<linux/mount.h>`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const OPEN_TREE_CLONE: libc::c_int = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_int = 4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_int = 0x40;

/// Does the same as [`bind`], at an open file or directory, and [`remount_read_only`] if `read_only`:
/// in fewer steps, and nobody sees a mount that isn't read-only yet.
///
/// Requires Linux 5.12, and a security module or filter of system calls may permit only the older
/// way. If this fails, nothing was mounted.
pub fn attach_copy(source: &Path, target: impl AsFd, read_only: bool) -> io::Result<()> {
    let copy = copy(source)?;
    if read_only {
        set_attributes(&copy, MOUNT_ATTR_RDONLY, 0)?;
    }
    attach(&copy, target)
}

/// Makes everything read-only that this process's mount namespace, which must be its own, has, and
/// takes away its devices and set-user-id programs; but `writable` files and directories can still be
/// written to, and `devices` be used. What of these doesn't exist is ignored.
///
/// Requires Linux 5.12.
pub fn make_read_only(writable: &[&Path], devices: &[&Path]) -> io::Result<()> {
    let exceptions = [
        (writable, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID),
        (devices, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID),
    ];
    let mut copies = Vec::new();
    for (paths, attributes) in exceptions {
        for path in paths.iter().copied() {
            let found = copy(path);
            if matches!(&found, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                continue;
            }
            let copy = found?;
            set_attributes(&copy, attributes, libc::AT_RECURSIVE)?;
            copies.push((copy, open_place(path)?));
        }
    }
    make_private(Path::new("/"))?;
    let root = open_place(Path::new("/"))?;
    let restrictions = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID;
    set_attributes(&root, restrictions, libc::AT_RECURSIVE)?;
    for (copy, target) in copies {
        attach(&copy, target)?;
    }
    Ok(())
}

/// Has a file of this process's mount namespace, which must be its own, read as empty. Does nothing if
/// there is no such file.
pub fn hide_file(path: &Path) -> io::Result<()> {
    match open_place(path) {
        Ok(place) => attach(&copy(Path::new("/dev/null"))?, place),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A copy of what is mounted at `source` and below it, which is attached nowhere yet.
fn copy(source: &Path) -> io::Result<OwnedFd> {
    let source = CString::new(source.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_RECURSIVE;
    // SAFETY: the path ends with NUL.
    let copy = check(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags)
    })?;
    // SAFETY: the kernel has just created this descriptor. Closing it removes a copy that was not
    // attached.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as i32) })
}

/// Sets attributes of an open mount, and with `AT_RECURSIVE` as `flags` of all below it.
fn set_attributes(mount: impl AsFd, set: u64, flags: libc::c_int) -> io::Result<()> {
    let attributes = Attributes {
        set,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the path ends with NUL, and the structure has the size that is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    })?;
    Ok(())
}

/// Mounts a copy on an open file or directory.
fn attach(copy: &OwnedFd, target: impl AsFd) -> io::Result<()> {
    // SAFETY: both paths end with NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            copy.as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// Opens a file or directory for nothing but being named.
fn open_place(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    File::options().read(true).custom_flags(flags).open(path)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Mounts a new file system.
pub fn mount_new(kind: &str, target: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    let options = (!options.is_empty()).then_some(options);
    Ok(mount(Some(kind), target, Some(kind), flags, options)?)
}

/// Changes the flags of an existing mount.
pub fn remount(target: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(
        NO_PATH,
        target,
        NO_PATH,
        flags | MsFlags::MS_REMOUNT,
        NO_PATH,
    )?)
}

/// Unmounts a file system.
pub fn unmount(target: &Path, flags: MntFlags) -> io::Result<()> {
    Ok(umount2(target, flags)?)
}

/// Makes `new_root` (a mount point) the root of this mount namespace; the old root becomes visible
/// at `old_root`, below it.
pub fn pivot_root(new_root: &Path, old_root: &Path) -> io::Result<()> {
    Ok(nix::unistd::pivot_root(new_root, old_root)?)
}

/// Changes this process's root directory.
pub fn chroot(directory: &Path) -> io::Result<()> {
    Ok(nix::unistd::chroot(directory)?)
}

/// Makes what a `chroot` has left of the file system all that there is of it in this process's mount
/// namespace, which must be its own: the root directory becomes a private mount at the root of the
/// namespace. Otherwise, where root is an ordinary directory, its mounts could not be made private,
/// [`pivot_root`] would be refused, and the rest of the file system would be in reach of whoever may
/// enter the namespace.
///
/// Does nothing where the root directory is that of the namespace. The process must have a single
/// thread, and be privileged in the namespace; without the privilege, nothing is done either. The
/// working directory becomes the root directory.
pub fn make_chroot_the_root() -> io::Result<()> {
    let root = File::open("/")?;
    let Ok(namespace) = File::open("/proc/self/ns/mnt") else {
        return Ok(());
    };
    // Entering the namespace that it is in leads a process to the root of the namespace.
    if setns(namespace, CloneFlags::CLONE_NEWNS).is_err() {
        return Ok(());
    }
    let top = std::fs::metadata("/")?;
    let inside = root.metadata()?;
    nix::unistd::fchdir(&root)?;
    if (top.dev(), top.ino()) == (inside.dev(), inside.ino()) {
        return chroot(Path::new("."));
    }
    let name = std::env::current_dir()?;
    make_private(Path::new("/"))?;
    bind(&name, &name)?;
    // The same name leads to the new mount.
    std::env::set_current_dir(&name)?;
    pivot_root(Path::new("."), Path::new("."))?;
    // The old root lies on the new one; what is left of the namespace is seen when it has gone.
    unmount(Path::new("."), MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}
