//! `guix-daemon --change-owner=USER`: gives store, state and logs to another user, so that a daemon
//! that is this user can serve them: from root to a user of its own, or back.
//!
//! Ownership is all that changes, and only of what is in those directories, of the key pair and, when it
//! goes back to root, of the ACL: no link is followed, and users keep their profiles
//! ([`tree`]). The store directory itself changes last. It tells who may serve, so a run that was
//! interrupted can be repeated, and until then the former owner's daemon is the one that works or fails.
//! Nothing happens while a daemon runs, and none can open the store meanwhile ([`idle`]).
//! Documented in the manual, "Running as a User of Its Own".

mod directory;
mod idle;
mod tree;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use bstr::{BStr, ByteSlice};
use system::ids::{self, Account};
use system::tree::{Kind, look_up};

use self::tree::Giver;
use crate::output;
use crate::settings::Settings;

/// The mode of a store in which build users create their outputs.
const SHARED_MODE: u32 = 0o1775;

/// Gives the directories of these settings to `user`, and says what was done.
pub fn run(settings: &Settings, user: &OsStr) -> Result<ExitCode> {
    let directories = &settings.directories;
    let group = settings.session.build_users_group.as_ref();
    let account = check(group, user)?;
    let store_group = store_group(&account, group)?;
    let state = trusted(&directories.state)?;
    let database = match directories.database.strip_prefix(&directories.state) {
        Ok(inside) => state.as_ref().map(|state| state.join(inside)),
        Err(_) => trusted(&directories.database)?,
    };
    let log = trusted(&directories.log)?;
    let configuration = trusted(&directories.configuration)?;
    let _locked = idle::lock(&directories.socket(), database.as_deref())?;
    store::writable::make_writable(directories)?;
    let store = directory::open(directories.store.as_path())?;
    let former = match &store {
        Some(store) => store.stat()?.uid(),
        None => 0,
    };
    let mut giver = Giver::new(&account, former);
    if let Some(configuration) = &configuration {
        keys(configuration, &account, former)?;
    }
    let profiles = state.as_ref().map(|state| state.join("profiles/per-user"));
    let private = [log, state, database];
    for directory in private.iter().flatten() {
        giver.give_private(directory, profiles.as_deref())?;
    }
    if let Some(store) = &store {
        giver.give_store(store, directories.store.as_path())?;
        let shown = directories.store.as_path().display();
        if store_group != account.gid {
            store
                .chmod(SHARED_MODE)
                .with_context(|| format!("cannot change the mode of `{shown}'"))?;
        }
        store
            .chown(Some(account.uid), Some(store_group))
            .with_context(|| format!("cannot change the owner of `{shown}'"))?;
        parent(directories.store.as_path(), account.uid, &mut giver)?;
    }
    output::print(&giver.report(&account.name))?;
    Ok(ExitCode::SUCCESS)
}

/// Checks all that can be known before anything is changed.
fn check(group: &BStr, user: &OsStr) -> Result<Account> {
    let name = user.to_string_lossy();
    let account = ids::user_by_name(&name)
        .with_context(|| format!("cannot look up the user `{name}'"))?
        .ok_or_else(|| {
            anyhow!("the user `{name}' does not exist; `systemd-sysusers' or `useradd --system' makes it")
        })?;
    if ids::effective_uid() != 0 {
        bail!("only root can change the owner of the store");
    }
    if account.uid != 0 && !group.is_empty() {
        bail!(
            "only root can build as members of `{group}': leave out --build-users-group, or give the \
             store to root"
        );
    }
    Ok(account)
}

/// The group of the store directory: that of the build users, if there are any.
fn store_group(account: &Account, group: &BStr) -> Result<u32> {
    if group.is_empty() {
        return Ok(account.gid);
    }
    let group = group.to_str_lossy();
    let entry = ids::group_by_name(&group)
        .with_context(|| format!("cannot look up the group `{group}'"))?
        .ok_or_else(|| anyhow!("the group `{group}' does not exist"))?;
    Ok(entry.gid)
}

/// Tells of a directory around the store that is neither root's nor the new owner's, as Guix's installer
/// leaves it: who owns it can put another store there.
fn parent(store: &Path, new: u32, giver: &mut Giver) -> Result<()> {
    let Some(above) = store.parent() else {
        return Ok(());
    };
    let owner = fs::symlink_metadata(above)?.uid();
    if owner != 0 && owner != new {
        let owner = ids::user_name(owner);
        giver.leave_alone(
            above,
            &format!(
                "which belongs to {owner}; chown root:root {}",
                above.display()
            ),
        );
    }
    Ok(())
}

/// The directory that a name leads to, if it exists. Links on the way count if only root could make them.
fn trusted(path: &Path) -> Result<Option<PathBuf>> {
    let found = match fs::canonicalize(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    for above in found.ancestors().skip(1).chain(path.ancestors().skip(1)) {
        let owner = fs::metadata(above)
            .with_context(|| above.display().to_string())?
            .uid();
        if owner != 0 {
            bail!(
                "`{}' belongs to {}, who can move `{}' away; give it to root",
                above.display(),
                ids::user_name(owner),
                path.display()
            );
        }
    }
    // A link can lead to others.  The directory itself is the last that is searched for this name.
    let mut owners = Vec::new();
    look_up(&path.join("-"), |directory| owners.push(directory.uid()))
        .with_context(|| path.display().to_string())?;
    owners.pop();
    if let Some(owner) = owners.into_iter().find(|owner| *owner != 0) {
        bail!(
            "`{}' leads through a directory of {}, who can have it lead elsewhere; name `{}' instead",
            path.display(),
            ids::user_name(owner),
            found.display()
        );
    }
    Ok(Some(found))
}

/// Gives away the key pair, which the daemon reads. A user's daemon needs to own nothing else in the
/// configuration directory; root's daemon must be the owner of all that tells it whom to believe.
fn keys(configuration: &Path, account: &Account, former: u32) -> Result<()> {
    let Some(directory) = directory::open(configuration)? else {
        return Ok(());
    };
    let cannot = |name: &str| {
        format!(
            "cannot change the owner of `{}'",
            configuration.join(name).display()
        )
    };
    let names: &[&str] = match account.uid {
        0 => &["acl", "signing-key.pub", "signing-key.sec"],
        _ => &["signing-key.pub", "signing-key.sec"],
    };
    for name in names {
        let held = match directory.hold(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            held => held.with_context(|| cannot(name))?,
        };
        let stat = held.stat().with_context(|| cannot(name))?;
        if stat.kind() == Kind::Regular && stat.links() == 1 && [0, former].contains(&stat.uid()) {
            (held.chown(account.uid, account.gid)).with_context(|| cannot(name))?;
        }
    }
    if account.uid == 0 && directory.stat()?.uid() == former {
        directory
            .chown(Some(account.uid), Some(account.gid))
            .with_context(|| cannot(""))?;
    }
    Ok(())
}
