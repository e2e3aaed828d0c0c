//! Mounts, and changing the root directory. For processes in a mount namespace of their own.

use std::io;
use std::path::Path;

pub use nix::mount::{MntFlags, MsFlags};
use nix::mount::{mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

const NO_PATH: Option<&Path> = None;

/// Makes a mount and everything below it private: no mount events come in or go out.
pub fn make_private(target: &Path) -> io::Result<()> {
    Ok(mount(
        NO_PATH,
        target,
        NO_PATH,
        MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        NO_PATH,
    )?)
}

/// Makes a file or directory appear at `target` too, with what is mounted below it.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(
        Some(source),
        target,
        NO_PATH,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NO_PATH,
    )?)
}

/// Makes a bind mount read-only, keeping the restrictions that it already has (which a user
/// namespace may not drop).
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

/// Changes an existing mount's flags.
pub fn remount(target: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(
        NO_PATH,
        target,
        NO_PATH,
        flags | MsFlags::MS_REMOUNT,
        NO_PATH,
    )?)
}

/// Unmounts.
pub fn unmount(target: &Path, flags: MntFlags) -> io::Result<()> {
    Ok(umount2(target, flags)?)
}

/// Makes `new_root` (a mount point) the root of this mount namespace, and the old root
/// visible at `old_root` below it.
pub fn pivot_root(new_root: &Path, old_root: &Path) -> io::Result<()> {
    Ok(nix::unistd::pivot_root(new_root, old_root)?)
}

/// Changes this process's root directory.
pub fn chroot(directory: &Path) -> io::Result<()> {
    Ok(nix::unistd::chroot(directory)?)
}
