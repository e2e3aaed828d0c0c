//! Users and groups, as the files `/etc/passwd` and `/etc/group` have them (`passwd(5)`, `group(5)`).
//!
//! This is where a static program looks them up. The C library would load parts of itself for that,
//! which must be of the same version as what the program was linked with, and may not be there at all.
//! So a static program doesn't know users that are in no file, such as those of LDAP.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::account::{Account, GroupEntry};

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// A line of such a file is not longer than this, in bytes; nothing after a longer one is read.
const LONGEST_LINE: u64 = 1 << 20;

/// The user with this name.
pub(crate) fn user_by_name(name: &str) -> io::Result<Option<Account>> {
    find(Path::new(USERS), |line| {
        account(line).filter(|account| account.name == name)
    })
}

/// The user with this id.
pub(crate) fn user_by_id(uid: u32) -> io::Result<Option<Account>> {
    find(Path::new(USERS), |line| {
        account(line).filter(|account| account.uid == uid)
    })
}

/// The group with this name.
pub(crate) fn group_by_name(name: &str) -> io::Result<Option<GroupEntry>> {
    find(Path::new(GROUPS), |line| {
        group(line).filter(|group| group.name == name)
    })
}

/// All groups of a user: the primary group, and those that name the user as a member.
pub(crate) fn groups_of(user: &str, primary: u32) -> io::Result<Vec<u32>> {
    groups_in(Path::new(GROUPS), user, primary)
}

fn groups_in(file: &Path, user: &str, primary: u32) -> io::Result<Vec<u32>> {
    let mut groups = vec![primary];
    find(file, |line| -> Option<()> {
        let group = group(line)?;
        let is_new = !groups.contains(&group.gid);
        if is_new && group.members.iter().any(|member| member == user) {
            groups.push(group.gid);
        }
        None
    })?;
    Ok(groups)
}

/// The first answer to a line of a file. A file that doesn't exist has no lines.
fn find<T>(file: &Path, mut answer: impl FnMut(&str) -> Option<T>) -> io::Result<Option<T>> {
    let file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = file
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(None);
        }
        if length as u64 == LONGEST_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"));
        }
        // Lines that are not understood, among them comments and NIS's, are left out.
        let text = std::str::from_utf8(&line).map(str::trim_end);
        if let Some(found) = text.ok().and_then(&mut answer) {
            return Ok(Some(found));
        }
    }
}

/// `name:password:uid:gid:comment:home:shell`
fn account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    Some(Account {
        name: name.to_owned(),
        uid,
        gid,
        home: home.into(),
    })
}

/// `name:password:gid:member,member...`
fn group(line: &str) -> Option<GroupEntry> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields.next()?.split(',').filter(|name| !name.is_empty());
    Some(GroupEntry {
        name: name.to_owned(),
        gid,
        members: members.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_files_are_understood() {
        let alice = account("alice:x:1000:100:Alice,,,:/home/alice:/bin/sh").unwrap();
        assert_eq!((alice.uid, alice.gid), (1000, 100));
        assert_eq!(
            (alice.name.as_str(), alice.home),
            ("alice", "/home/alice".into())
        );
        assert!(account("nobody::65534:65534::/:").is_some());
        for line in [
            "",
            "#alice:x:1000",
            "+::::::",
            "a:x:-1:0::/:",
            "a:x:1",
            ":x:1:1::/:",
        ] {
            assert_eq!(account(line), None, "{line}");
        }
        let build = group("guixbuild:x:30000:guixbuilder1,guixbuilder2").unwrap();
        assert_eq!((build.name.as_str(), build.gid), ("guixbuild", 30000));
        assert_eq!(build.members, ["guixbuilder1", "guixbuilder2"]);
        assert_eq!(group("empty:*:7:").unwrap().members, [""; 0]);
        for line in ["", "+:::", "a:x:y:b", "a:x:1"] {
            assert_eq!(group(line), None, "{line}");
        }
    }

    #[test]
    fn files_are_read_line_by_line() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("group");
        assert_eq!(groups_in(&file, "alice", 100).unwrap(), [100]);
        let rubbish = b"# a comment\n\xff\xff:x:5:alice\n".as_slice();
        let groups = b"users:x:100:alice\nkvm:x:36:bob,alice\nroot:x:0:malice\ngames:x:60:alice";
        std::fs::write(&file, [rubbish, groups].concat()).unwrap();
        assert_eq!(groups_in(&file, "alice", 100).unwrap(), [100, 36, 60]);
        std::fs::write(&file, vec![b'x'; 2 << 20]).unwrap();
        assert!(groups_in(&file, "alice", 100).is_err());
    }
}
