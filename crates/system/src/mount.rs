//! Mounts, and changing the root directory, for processes in their own mount namespace.

use std::io;
use std::path::Path;

pub use nix::mount::{MntFlags, MsFlags};
use nix::mount::{mount, umount2};
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
