//! Directories: they exist, belong to the daemon, are writable by nobody else, and are on a
//! suitable file system.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use bstr::{BStr, ByteSlice};
use nix::sys::statvfs::{FsFlags, statvfs};
use store::Directories;
use system::ids;

use super::advice;
use super::findings::Findings;

/// If less space than this is free, in bytes, that is noted.
const LITTLE_SPACE: u64 = 1 << 30;

pub fn check(directories: &Directories, group: &BStr, findings: &mut Findings) {
    store(directories.store.as_path(), group, findings);
    for (what, path) in [
        ("state directory", &directories.state),
        ("database directory", &directories.database),
        ("log directory", &directories.log),
    ] {
        own_directory(what, path, &[ids::effective_uid()], group, findings);
    }
    // The daemon only reads there.
    let path = &directories.configuration;
    let owners = [ids::effective_uid(), 0];
    own_directory("configuration directory", path, &owners, group, findings);
    socket(&directories.socket(), findings);
}

fn store(path: &Path, group: &BStr, findings: &mut Findings) {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return findings.note(
                format!("the store `{shown}' does not exist; the daemon will make it"),
                None,
            );
        }
        Err(error) => {
            return findings.wrong(
                format!("the store `{shown}': {error}"),
                format!("ls -ld {shown}"),
            );
        }
    };
    if metadata.is_symlink() {
        return findings.wrong(
            format!("the store `{shown}' is a symbolic link, which the daemon refuses"),
            format!("mount --bind $(readlink -f {shown}) {shown}  # after replacing the link by a directory"),
        );
    }
    if !metadata.is_dir() {
        return findings.wrong(
            format!("`{shown}' is not a directory"),
            format!("mv {shown} {shown}.old"),
        );
    }
    let before = findings.count();
    let own = is_private(
        "store",
        path,
        &metadata,
        &[ids::effective_uid()],
        group,
        findings,
    );
    if own && !group.is_empty() {
        if let Ok(Some(entry)) = ids::group_by_name(&group.to_str_lossy()) {
            if metadata.gid() != entry.gid || metadata.mode() & 0o7777 != 0o1775 {
                let text = format!(
                    "the store `{shown}' has group {} and mode {:04o}; builds need {group} and 1775",
                    metadata.gid(),
                    metadata.mode() & 0o7777
                );
                findings.wrong(text, format!("chgrp {group} {shown} && chmod 1775 {shown}"));
            }
        }
    }
    file_system(path, findings);
    if findings.count() == before {
        findings.right(format!("the store `{shown}'"));
    }
}

fn file_system(path: &Path, findings: &mut Findings) {
    let shown = path.display();
    let Ok(numbers) = statvfs(path) else { return };
    if numbers.flags().contains(FsFlags::ST_NOEXEC) {
        findings.wrong(
            format!("the file system of `{shown}' does not let programs be executed"),
            format!("mount -o remount,exec {shown}"),
        );
    }
    // As root, the daemon makes it writable for itself.
    if numbers.flags().contains(FsFlags::ST_RDONLY) && ids::effective_uid() != 0 {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if only_shown_read_only(&mounts, path) {
            findings.note(
                format!(
                    "`{shown}' is shown read-only here; guix-daemon-rs.service has a view of its own that \
                     is not, a daemon started by hand has none"
                ),
                None,
            );
        } else {
            findings.wrong(
                format!("the file system of `{shown}' is read-only"),
                format!("mount -o remount,rw {shown}"),
            );
        }
    }
    #[allow(clippy::unnecessary_cast)] // The types are narrower on 32-bit systems.
    let free = numbers.blocks_available() as u64 * numbers.fragment_size() as u64;
    if free < LITTLE_SPACE {
        findings.note(
            format!("`{shown}' has only {} MiB left", free >> 20),
            Some("guix-client gc".to_owned()),
        );
    }
    if numbers.files() > 0 && numbers.files_available() * 50 < numbers.files() {
        findings.note(
            format!("`{shown}' is nearly out of inodes"),
            Some("guix-client gc".to_owned()),
        );
    }
}

/// Whether a directory is a mount point whose file system can be written to, but not by this name, as
/// gnu-store.mount makes it (proc_pid_mountinfo(5)). Of several mounts, the last counts.
fn only_shown_read_only(mounts: &str, path: &Path) -> bool {
    let has =
        |options: Option<&str>, wanted| options.is_some_and(|o| o.split(',').any(|o| o == wanted));
    let last = mounts
        .lines()
        .rfind(|line| line.split(' ').nth(4).map(Path::new) == Some(path));
    last.is_some_and(|line| has(line.split(' ').nth(5), "ro") && has(line.rsplit(' ').next(), "rw"))
}

/// Checks a directory that has to belong to one of these users.
fn own_directory(what: &str, path: &Path, owners: &[u32], group: &BStr, findings: &mut Findings) {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            findings.wrong(
                format!("the {what} `{shown}' is not a directory"),
                format!("rm {shown}"),
            );
        }
        Ok(metadata) => {
            if is_private(what, path, &metadata, owners, group, findings) {
                findings.right(format!("the {what} `{shown}'"));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => findings.note(
            format!("the {what} `{shown}' does not exist; it is made when it is needed"),
            None,
        ),
        Err(error) => findings.wrong(
            format!("the {what} `{shown}': {error}"),
            format!("ls -ld {shown}"),
        ),
    }
}

/// Whether only these users can change the contents of the directory.
fn is_private(
    what: &str,
    path: &Path,
    metadata: &Metadata,
    owners: &[u32],
    group: &BStr,
    findings: &mut Findings,
) -> bool {
    let shown = path.display();
    if !owners.contains(&metadata.uid()) {
        let uid = ids::effective_uid();
        findings.wrong(
            format!(
                "the {what} `{shown}' belongs to {}, not to {}",
                ids::user_name(metadata.uid()),
                ids::user_name(uid)
            ),
            advice::change_owner(uid, group),
        );
        return false;
    }
    let mode = metadata.permissions().mode();
    if mode & 0o002 != 0 {
        findings.wrong(
            format!("the {what} `{shown}' can be written by everybody"),
            format!("chmod o-w {shown}"),
        );
        return false;
    }
    true
}

fn socket(path: &Path, findings: &mut Findings) {
    let shown = path.display();
    match system::socket::connect(path) {
        Ok(_) => findings.note(
            format!("a daemon serves `{shown}' now; its socket will not be taken away"),
            None,
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            findings.right(format!("nobody serves `{shown}' yet"));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => findings.right(format!(
            "`{shown}' is left from a daemon that is gone, and will be replaced"
        )),
        Err(error) => findings.wrong(
            format!("the socket `{shown}': {error}"),
            format!("ls -l {shown}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_that_only_show_something_read_only() {
        let mounts = "24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
            70 24 8:1 /gnu/store /gnu/store ro,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
            71 24 8:2 / /ro ro - iso9660 /dev/sr0 ro,x=rw\n\
            72 24 8:1 /a /twice ro - ext4 /dev/sda1 rw\n\
            73 24 8:1 /a /twice rw - ext4 /dev/sda1 rw\n";
        let shown = |path| only_shown_read_only(mounts, Path::new(path));
        assert!(shown("/gnu/store"));
        assert!(!shown("/gnu"));
        assert!(!shown("/ro"));
        assert!(!shown("/twice"));
        assert!(!only_shown_read_only("rubbish\n", Path::new("/gnu/store")));
    }
}
