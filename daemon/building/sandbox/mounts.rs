//! Changing to the builder's root directory, in its mount namespace.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use system::mount::{self, MntFlags, MsFlags};
use system::namespace::{self, Namespaces};
use system::tree::{Kind, RootDir};

use super::error_context::context;
use super::phase::{SetUpError, phase};
use super::plan::{Chroot, Mount};

/// Makes the plan's directory the root directory, with all mounts.
pub(super) fn change_root(chroot: &Chroot) -> Result<(), SetUpError> {
    let root = chroot.root.as_path();
    // The daemon may have been started in a chroot.
    phase("makeFilesystemsPrivate", mount::make_chroot_the_root())?;
    phase(
        "makeFilesystemsPrivate",
        mount::make_private(Path::new("/")),
    )?;
    phase("makeChrootSeparateFilesystem", mount::bind(root, root))?;
    let inside = phase("mountIntoChroot", RootDir::open(root))?;
    for mount in &chroot.mounts {
        phase("mountIntoChroot", mount_from_host(mount, &inside))?;
    }
    drop(inside);
    phase("mountProc", mount_proc(root))?;
    let shared_memory = root.join("dev/shm");
    if shared_memory.is_dir() {
        let mounted = mount::mount_new("tmpfs", &shared_memory, MsFlags::empty(), "");
        phase("mountDevshm", mounted)?;
    }
    if chroot.terminals && Path::new("/dev/pts/ptmx").exists() {
        phase("mountDevpts", mount_terminals(root))?;
    }
    phase("chroot", enter(root))?;
    let read_only = fs::set_permissions("/", Permissions::from_mode(0o555));
    phase("clearRootWritePerms", read_only)
}

/// Mounts a file or directory of the host in the new root.
///
/// Other users may be able to write to directories that are already mounted. So names are resolved
/// as the builder will resolve them, where links can't lead out of the root, and an existing file
/// is never opened for writing.
fn mount_from_host(seen: &Mount, root: &RootDir) -> io::Result<()> {
    let (inside, outside) = (seen.inside.as_path(), seen.outside.as_path());
    let metadata = context(fs::symlink_metadata(outside), "get the status of", outside)?;
    if metadata.is_symlink() {
        let link = context(fs::read_link(outside), "read", outside)?;
        return context(root.symlink(link.as_os_str(), inside), "create", inside);
    }
    let target = match metadata.is_dir() {
        true => context(root.make_directories(inside), "create", inside)?,
        false => context(root.make_file(inside), "create", inside)?,
    };
    if !metadata.is_dir() && target.kind() != Kind::Regular {
        return Err(io::Error::other(format!(
            "mount target `{}' exists but is not a regular file",
            inside.display()
        )));
    }
    if mount::attach_copy(outside, &target, seen.read_only).is_ok() {
        return Ok(());
    }
    context(mount::bind(outside, &target.path()), "mount", outside)?;
    if seen.read_only {
        // The name now leads to the new mount.
        let mounted = root.find(inside);
        let changed = mounted.and_then(|mounted| mount::remount_read_only(&mounted.path()));
        context(changed, "make read-only", inside)?;
    }
    Ok(())
}

fn mount_proc(root: &Path) -> io::Result<()> {
    let proc = root.join("proc");
    fs::create_dir_all(&proc)?;
    mount::mount_new("proc", &proc, MsFlags::empty(), "")
}

/// Mounts the builder's own pseudo-terminals.
fn mount_terminals(root: &Path) -> io::Result<()> {
    let terminals = root.join("dev/pts");
    mount::mount_new(
        "devpts",
        &terminals,
        MsFlags::empty(),
        "newinstance,mode=0620",
    )?;
    symlink("/dev/pts/ptmx", root.join("dev/ptmx"))?;
    // The option ptmxmode doesn't do this on all kernels.
    fs::set_permissions(terminals.join("ptmx"), Permissions::from_mode(0o666))
}

fn enter(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    fs::create_dir("real-root")?;
    mount::pivot_root(Path::new("."), Path::new("real-root"))?;
    mount::chroot(Path::new("."))?;
    mount::unmount(Path::new("real-root"), MntFlags::MNT_DETACH)?;
    fs::remove_dir("real-root")
}

/// Enters another user and mount namespace, in which the existing mounts are locked: otherwise, a
/// builder that owns its user namespace could unmount them.
pub(super) fn lock() -> Result<(), SetUpError> {
    let locked = namespace::enter_with_same_ids(Namespaces::CLONE_NEWNS);
    phase("lockMounts", locked)?;
    match mount::unmount(Path::new("/proc"), MntFlags::empty()) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        Err(error) => phase("lockMounts", Err(error)),
        Ok(()) => phase(
            "lockMounts",
            Err(io::Error::other("mounts were not locked")),
        ),
    }
}
