//! The users that builds run as.

use bstr::{BStr, ByteSlice};
use system::ids;

use super::advice;
use super::findings::Findings;

pub fn check(group: &BStr, findings: &mut Findings) {
    let root = ids::effective_uid() == 0;
    if group.is_empty() {
        if root {
            findings.note(
                "no build users: each build gets a user id of its own, and none can start without a chroot",
                Some(
                    "guix-daemon --build-users-group=guixbuild (see `Setting Up the Daemon')"
                        .into(),
                ),
            );
        } else {
            findings.right("builds run as the daemon's own user, in user namespaces");
        }
        return;
    }
    let group = group.to_str_lossy();
    if !root {
        findings.wrong(
            format!("only root can build as members of `{group}'"),
            format!(
                "{}, or leave out --build-users-group",
                advice::as_root("guix-daemon --check-setup")
            ),
        );
    }
    let entry = match ids::group_by_name(&group) {
        Ok(Some(entry)) => entry,
        Ok(None) => {
            return findings.wrong(
                format!("the group `{group}' specified in `build-users-group' does not exist"),
                format!("groupadd --system {group}"),
            );
        }
        Err(error) => {
            return findings.wrong(
                format!("cannot look up the group `{group}': {error}"),
                format!("getent group {group}"),
            );
        }
    };
    if entry.members.is_empty() {
        return findings.wrong(
            format!("the build users group `{group}' has no members"),
            format!(
                "useradd -g {group} -G {group} -d /var/empty -s $(command -v nologin) --system guixbuilder1"
            ),
        );
    }
    let before = findings.count();
    for member in &entry.members {
        match ids::user_by_name(member) {
            Ok(Some(account)) if account.uid == 0 => findings.wrong(
                format!("`{member}' in `{group}' is root"),
                format!("gpasswd -d {member} {group}"),
            ),
            Ok(Some(_)) => {}
            _ => findings.wrong(
                format!("the user `{member}' in the group `{group}' does not exist"),
                format!("gpasswd -d {member} {group}"),
            ),
        }
    }
    if findings.count() == before {
        let users = advice::number(entry.members.len(), "build user");
        findings.right(format!("{users} in `{group}'"));
    }
}
