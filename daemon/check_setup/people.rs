//! Build users, keys, and whose signatures are accepted.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use bstr::{BStr, ByteSlice};
use store::Directories;
use system::ids;

use super::Findings;

pub fn check(group: &BStr, findings: &mut Findings) {
    let root = ids::effective_uid() == 0;
    if group.is_empty() {
        if root {
            findings.note(
                "no build users: builds would run as the daemon itself",
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
            "sudo guix-daemon --check-setup, or leave out --build-users-group",
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
    let before = findings.0.len();
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
    if findings.0.len() == before {
        findings.right(format!("{} build users in `{group}'", entry.members.len()));
    }
}

pub fn check_keys(directories: &Directories, findings: &mut Findings) {
    let directory = &directories.configuration;
    let secret = directory.join("signing-key.sec");
    match fs::metadata(&secret) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => findings.note(
            "no key: nothing can be exported, and nothing offloaded",
            Some("guix-client archive --generate-key".to_owned()),
        ),
        Err(error) => findings.wrong(
            format!("the key `{}': {error}", secret.display()),
            format!("ls -l {}", secret.display()),
        ),
        Ok(metadata) => {
            if metadata.permissions().mode() & 0o077 != 0 {
                findings.wrong(
                    format!("others can read the key `{}'", secret.display()),
                    format!("chmod 400 {}", secret.display()),
                );
            } else {
                pair(directory, findings);
            }
        }
    }
    acl(directory, findings);
}

fn pair(directory: &Path, findings: &mut Findings) {
    match gcrypt::KeyPair::load(directory) {
        Ok(_) => findings.right("the keys for signing"),
        Err(error) => findings.wrong(
            format!("the keys for signing: {error}"),
            format!(
                "rm {0}/signing-key.* && guix-client archive --generate-key  # a new key, to be \
                 authorized anew elsewhere",
                directory.display()
            ),
        ),
    }
}

fn acl(directory: &Path, findings: &mut Findings) {
    let file = directory.join("acl");
    let Ok(metadata) = fs::metadata(&file) else {
        return findings.note(
            "no ACL: only what is signed by this machine is imported",
            Some("guix-client archive --authorize < KEY.pub".to_owned()),
        );
    };
    if metadata.mode() & 0o022 != 0 {
        findings.wrong(
            format!(
                "others can change whose signatures are accepted, `{}'",
                file.display()
            ),
            format!("chmod 644 {}", file.display()),
        );
    }
    match gcrypt::Acl::load(directory) {
        Ok(acl) => findings.right(format!("the ACL accepts {} keys", acl.len())),
        Err(error) => findings.wrong(
            format!("the ACL `{}': {error}", file.display()),
            format!(
                "mv {0} {0}.old && guix-client archive --authorize < KEY.pub",
                file.display()
            ),
        ),
    }
}
