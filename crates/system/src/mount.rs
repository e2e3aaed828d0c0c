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
const OPEN_TREE_CLONE: libc::c_int = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_int = 4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_int = 0x40;

/// Does the same as [`bind`], at an open file or directory, and [`remount_read_only`] if `read_only`:
/// in fewer steps, and nobody sees a mount that isn't read-only yet.
///
/// Requires Linux 5.12, and a security module or filter of system calls may permit only the older
/// way. If this fails, nothing was mounted.
pub fn attach_copy(source: &Path, target: impl AsFd, read_only: bool) -> io::Result<()> {
    let source = CString::new(source.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_RECURSIVE;
    // SAFETY: the path ends with NUL.
    let copy = check(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags)
    })?;
    // SAFETY: the kernel has just created this descriptor. Closing it removes a copy that was not
    // attached.
    let copy = unsafe { OwnedFd::from_raw_fd(copy as i32) };
    if read_only {
        let attributes = Attributes {
            set: MOUNT_ATTR_RDONLY,
            clear: 0,
            propagation: 0,
            user_namespace: 0,
        };
        // SAFETY: the path ends with NUL, and the structure has the size that is passed.
        check(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                copy.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<Attributes>(),
            )
        })?;
    }
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
