//! As whom the check is made. A daemon without build users runs as the owner of the store. Root, who installs
//! it, need not think of that: the check is then made by that user.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use system::again;
use system::ids::{self, Account};

use crate::output;
use crate::settings::Settings;

/// Starts this program again as the owner of the store, if root has started it without build users and the
/// store belongs to somebody else. Returns if not.
pub fn become_owner(settings: &Settings) -> Result<()> {
    let Some(owner) = owner(settings)? else {
        return Ok(());
    };
    output::print(&format!(
        "The store `{}' belongs to {}: this is checked as that user.\n",
        settings.directories.store.as_path().display(),
        owner.name
    ))?;
    let error = again::as_user(&owner);
    Err(error).with_context(|| format!("cannot be started as {}", owner.name))
}

/// The account that has to check instead of this process.
fn owner(settings: &Settings) -> Result<Option<Account>> {
    if ids::effective_uid() != 0 || !settings.session.build_users_group.is_empty() {
        return Ok(None);
    }
    let Ok(store) = fs::symlink_metadata(settings.directories.store.as_path()) else {
        return Ok(None); // That is a finding
    };
    if store.uid() == 0 {
        return Ok(None);
    }
    ids::user_by_id(store.uid()).with_context(|| format!("cannot look up the user {}", store.uid()))
}
