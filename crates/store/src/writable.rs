//! A store that is mounted read-only: root makes it writable for its process, others refuse it.
//! Documented in `doc/spec/store-formats.md`, section 6.

use nix::mount::MsFlags;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::getuid;

use crate::directories::Directories;
use crate::error::{Context, Error, Result};

/// If this process is root and the store is on a read-only mount, moves the process to its own
/// mount namespace in which the store is writable. Has to be called before threads are started,
/// since those would stay in the old namespace.
pub fn make_writable(directories: &Directories) -> Result<()> {
    if !getuid().is_root() || !is_read_only(directories)? {
        return Ok(());
    }
    let store = directories.store.as_path();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .context(|| "setting up a private mount namespace")?;
    nix::mount::mount(
        None::<&str>,
        store,
        Some("none"),
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND,
        None::<&str>,
    )
    .context(|| format!("remounting {} writable", store.display()))
}

/// An error if the store is on a read-only mount and this process isn't root, which could have made
/// it writable.
pub fn check(directories: &Directories) -> Result<()> {
    if getuid().is_root() || !is_read_only(directories)? {
        return Ok(());
    }
    Err(Error::Other(format!(
        "'{}' is read-only; make sure to mount it read-write for proper guix-daemon operation",
        directories.store
    )))
}

/// Whether the store exists and is on a read-only mount.
fn is_read_only(directories: &Directories) -> Result<bool> {
    let store = directories.store.as_path();
    if !store.exists() {
        return Ok(false);
    }
    let status = statvfs(store).context(|| "getting info about the store mount point")?;
    Ok(status.flags().contains(FsFlags::ST_RDONLY))
}
