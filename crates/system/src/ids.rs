//! Users and groups, and dropping privileges.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Group, Uid, User};

/// A user in the system's user database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The home directory.
    pub home: std::path::PathBuf,
}

/// A group in the system's group database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// The group's name.
    pub name: String,
    /// The group id.
    pub gid: u32,
    /// The names of its members, in the order of the database.
    pub members: Vec<String>,
}

/// The user that owns nothing: the kernel's overflow id (`/proc/sys/kernel/overflowuid`).
pub const NOBODY: u32 = 65534;

/// The user with this name.
pub fn user_by_name(name: &str) -> io::Result<Option<Account>> {
    Ok(User::from_name(name)?.map(Into::into))
}

/// The user with this id.
pub fn user_by_id(uid: u32) -> io::Result<Option<Account>> {
    Ok(User::from_uid(Uid::from_raw(uid))?.map(Into::into))
}

/// The name of the user with this id, or the id where it has none, for messages.
pub fn user_name(uid: u32) -> String {
    match user_by_id(uid) {
        Ok(Some(account)) => account.name,
        _ => uid.to_string(),
    }
}

/// The group with this name.
pub fn group_by_name(name: &str) -> io::Result<Option<GroupEntry>> {
    Ok(Group::from_name(name)?.map(Into::into))
}

/// All groups of a user (including the given primary group), according to `getgrouplist`.
pub fn groups_of(user: &str, primary: u32) -> io::Result<Vec<u32>> {
    let name = CString::new(user).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let groups = nix::unistd::getgrouplist(&name, Gid::from_raw(primary))?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

/// The effective user id of this process.
pub fn effective_uid() -> u32 {
    Uid::effective().as_raw()
}

/// The effective group id of this process.
pub fn effective_gid() -> u32 {
    Gid::effective().as_raw()
}

/// Sets the supplementary groups of this process.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    Ok(nix::unistd::setgroups(&groups)?)
}

/// Makes `gid` the real, effective and saved group of this process, and verifies that it is.
pub fn set_gid(gid: u32) -> io::Result<()> {
    let wanted = Gid::from_raw(gid);
    nix::unistd::setresgid(wanted, wanted, wanted)?;
    let now = nix::unistd::getresgid()?;
    verify(now.real == wanted && now.effective == wanted && now.saved == wanted)
}

/// Makes `uid` the real, effective and saved user of this process, and verifies that it is.
pub fn set_uid(uid: u32) -> io::Result<()> {
    let wanted = Uid::from_raw(uid);
    nix::unistd::setresuid(wanted, wanted, wanted)?;
    let now = nix::unistd::getresuid()?;
    verify(now.real == wanted && now.effective == wanted && now.saved == wanted)
}

fn verify(holds: bool) -> io::Result<()> {
    if holds {
        Ok(())
    } else {
        Err(io::Error::other("the change of identity had no effect"))
    }
}

impl From<User> for Account {
    fn from(user: User) -> Account {
        Account {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
        }
    }
}

impl From<Group> for GroupEntry {
    fn from(group: Group) -> GroupEntry {
        GroupEntry {
            name: group.name,
            gid: group.gid.as_raw(),
            members: group.mem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_by_id(0).unwrap().unwrap(), root);
        assert!(groups_of("root", 0).unwrap().contains(&0));
        assert!(user_by_name("no-such-user-here").unwrap().is_none());
        assert!(group_by_name("no-such-group-here").unwrap().is_none());
    }
}
