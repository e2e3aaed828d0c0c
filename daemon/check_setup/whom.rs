//! As whom the check is made. A daemon without build users runs as the owner of the store. Root, who installs
//! it, need not think of that: the check is then made by that user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
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
    let program = std::env::current_exe().context("cannot find this program")?;
    let groups = ids::groups_of(&owner.name, owner.gid);
    groups
        .and_then(|groups| ids::set_groups(&groups))
        .and_then(|()| ids::set_gid(owner.gid))
        .and_then(|()| ids::set_uid(owner.uid))
        .with_context(|| format!("cannot become {}", owner.name))?;
    let mut again = Command::new(&program);
    let error = again.args(std::env::args_os().skip(1)).exec();
    Err(error).with_context(|| format!("{} cannot run `{}'", owner.name, program.display()))
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
