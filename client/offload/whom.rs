//! As whom `guix-client offload` looks after build machines: as the user as whom hooks run. What root makes in the
//! hook's directory, hooks of a daemon that isn't root's could not use.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use store::Directories;
use system::{again, ids};

/// Starts this program again as the user to whom the daemon's state belongs, if root has started it and the state
/// is another user's. Returns if not.
pub fn become_owner(directories: &Directories) -> Result<()> {
    if ids::effective_uid() != 0 {
        return Ok(());
    }
    let owner = fs::metadata(&directories.state).map_or(0, |state| state.uid());
    if owner == 0 {
        return Ok(());
    }
    let Some(account) = ids::user_by_id(owner)? else {
        return Ok(()); // It is nobody as whom a hook could run
    };
    let error = again::as_user(&account);
    Err(error).with_context(|| {
        let state = directories.state.display();
        format!(
            "cannot be started as {}, to whom `{state}' belongs",
            account.name
        )
    })
}
