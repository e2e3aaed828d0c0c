//! Making a store that is mounted read-only writable for this process.

use nix::mount::MsFlags;
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::directories::Directories;
use crate::error::{Context, Result};

/// If this process is root and the store is on a read-only mount, moves the process to its own
/// mount namespace in which the store is writable. Has to be called before threads are started,
/// since those would stay in the old namespace.
pub fn make_writable(directories: &Directories) -> Result<()> {
    let store = directories.store.as_path();
    if !nix::unistd::getuid().is_root() || !store.exists() {
        return Ok(());
    }
    let status = statvfs(store).context(|| "getting info about the store mount point")?;
    if !status.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
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
