//! What is logged at the start about options that will make builds fail, or unsafe, and about
//! substitutes that nobody will get.
//!
//! The daemon serves all the same: a group may become known, and a directory appear, later.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use authority::Keys;
use bstr::ByteSlice;
use substitutes::settings::{UNAUTHENTICATED_WARNING, is_unauthenticated};
use system::{errno, ids};

use crate::building::sandbox::group_of_build_users;
use crate::hook_program;
use crate::settings::Settings;

/// Logs the warnings.
pub fn log(settings: &Settings) {
    let session = &settings.session;
    let group = session.build_users_group.to_str_lossy();
    if group.is_empty() && ids::effective_uid() == 0 {
        tracing::warn!(
            "warning: daemon is running as root, so using `--build-users-group' is highly recommended"
        );
    }
    if !group.is_empty() && ids::effective_uid() != 0 {
        tracing::warn!(
            "warning: only root can build as members of `{group}'; builds run as {}",
            ids::user_name(ids::effective_uid())
        );
    } else if !group.is_empty() {
        if let Err(reason) = group_of_build_users(&group) {
            tracing::warn!("warning: {reason}");
        }
    }
    let store = settings.directories.store.as_path();
    if let Ok(metadata) = store.symlink_metadata() {
        let uid = ids::effective_uid();
        if metadata.uid() != uid {
            let (owner, user) = (ids::user_name(metadata.uid()), ids::user_name(uid));
            tracing::warn!(
                "warning: the store `{}' belongs to {owner}, and this daemon is {user}; \
                 `guix-daemon --check-setup' tells how to change either",
                store.display()
            );
        }
    }
    fetching(settings);
    if let (true, (_, Some(warning))) = (session.hook_allowed, hook_program::reply_timeout()) {
        tracing::warn!("warning: {warning}");
    }
    for word in session.words("build-extra-chroot-dirs") {
        let word = word.to_str_lossy();
        let outside = word.split_once('=').map_or(&*word, |(_, outside)| outside);
        match Path::new(outside).metadata() {
            Err(error) => {
                let reason = errno::message(&error);
                tracing::warn!(
                    "warning: no build can start: `--chroot-directory={word}': {reason}"
                );
            }
            Ok(metadata) if others_can_write(&metadata) => tracing::warn!(
                "warning: `--chroot-directory={word}': others can write there, and so can lead builders, \
                 which run as the daemon's user, to the store; see \"What is not promised\" in the manual"
            ),
            Ok(_) => {}
        }
    }
}

/// About the program that touches the network, and whom it makes believe.
fn fetching(settings: &Settings) {
    let fetcher = &settings.fetcher;
    let uses_substitutes = settings.session.use_substitutes;
    if let Some(lack) = fetcher.lack() {
        let missing = match uses_substitutes {
            true => "there are no substitutes and no downloads",
            false => "there are no downloads",
        };
        match fetcher.is_dispensable() {
            true => tracing::info!("`GUIX_FETCH' is empty, and {lack}; {missing}"),
            false => tracing::warn!("warning: {lack}; {missing}"),
        }
        return;
    }
    if !uses_substitutes {
        return;
    }
    if is_unauthenticated() {
        tracing::warn!("warning: {UNAUTHENTICATED_WARNING}");
    } else if fetcher.is_ours() {
        let keys = Keys::new(&settings.directories.configuration);
        let authorised = keys.authorised();
        if authorised.is_ok_and(|authorised| authorised.is_at_most_own()) {
            tracing::info!(
                "no substitute server is asked before `guix-client archive --authorize' has \
                 authorised its key"
            );
        }
    }
}

/// Whether this daemon isn't root's, and other users than its own can write to a directory. Sockets that
/// they make there lead builders, which run as the daemon's user, out of their sandboxes.
fn others_can_write(metadata: &Metadata) -> bool {
    let own = ids::effective_uid();
    let owners = [0, own];
    let group = metadata.mode() & 0o020 != 0 && metadata.gid() != ids::effective_gid();
    own != 0
        && metadata.is_dir()
        && (metadata.mode() & 0o002 != 0 || group || !owners.contains(&metadata.uid()))
}
