//! As whom root works in directories of another user's daemon: as that user. What root makes in the hook's
//! directory, hooks of that daemon could not use; and who owns a directory could have root follow links,
//! or play back a database's journal that names any file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use system::{again, ids};

/// Starts this program again as the user to whom a directory belongs, if root has started it and the directory
/// is another user's. Returns if not.
pub fn become_owner(directory: &Path) -> Result<()> {
    if ids::effective_uid() != 0 {
        return Ok(());
    }
    let owner = fs::metadata(directory).map_or(0, |directory| directory.uid());
    if owner == 0 {
        return Ok(());
    }
    let Some(account) = ids::user_by_id(owner)? else {
        return Ok(()); // It is nobody as whom a hook could run
    };
    let error = again::as_user(&account);
    Err(error).with_context(|| {
        let directory = directory.display();
        format!(
            "cannot be started as {}, to whom `{directory}' belongs",
            account.name
        )
    })
}
