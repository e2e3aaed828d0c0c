//! Users and groups, and dropping privileges.

use std::io;

use nix::unistd::{Gid, Uid};

pub use super::account::{Account, GroupEntry};
#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
use super::account_files as database;

/// The user that owns nothing: the kernel's overflow id (`/proc/sys/kernel/overflowuid`).
pub const NOBODY: u32 = 65534;

/// The user with this name.
pub fn user_by_name(name: &str) -> io::Result<Option<Account>> {
    database::user_by_name(name)
}

/// The user with this id.
pub fn user_by_id(uid: u32) -> io::Result<Option<Account>> {
    database::user_by_id(uid)
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
    database::group_by_name(name)
}

/// All groups of a user (including the given primary group), according to the system's database.
pub fn groups_of(user: &str, primary: u32) -> io::Result<Vec<u32>> {
    database::groups_of(user, primary)
}

/// The first of the ids for processes that need one of their own, one for each process: above those
/// assigned to containers and those of builds, and below those of files from elsewhere (`systemd`'s
/// "Users, Groups, UIDs and GIDs on systemd Systems").
const PROCESS_FIRST: u32 = 0x7100_0000;

/// Changes the user and group of this process, which has to be root's, to an id that no other process
/// has, and removes its supplementary groups. Returns `false`, and changes nothing, in a user namespace that
/// has no such id.
pub fn become_nobody_else() -> io::Result<bool> {
    let Some((uid, gid)) = nobody_else()? else {
        return Ok(false);
    };
    set_groups(&[])?;
    set_gid(gid)?;
    set_uid(uid)?;
    Ok(true)
}

/// A user and a group for this process, or for one that it starts, which no other process has; `None` in a
/// user namespace that has no such id.
pub fn nobody_else() -> io::Result<Option<(u32, u32)>> {
    let pid = std::process::id();
    let maps = ["uid_map", "gid_map"].map(|map| {
        let map = std::fs::read_to_string(format!("/proc/self/{map}"))?;
        Ok::<_, io::Error>(choose_id(&map, pid))
    });
    let [uid, gid] = maps;
    Ok(uid?.zip(gid?))
}

/// An id for the process with this number, of those that a map in `/proc` has
/// (`user_namespaces(7)`). Where the usual ones aren't mapped, as in containers, it is among the
/// largest that are.
fn choose_id(map: &str, pid: u32) -> Option<u32> {
    let wanted = PROCESS_FIRST.checked_add(pid)?;
    let ranges = map.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let first: u32 = words.next()?.parse().ok()?;
        let count: u32 = words.nth(1)?.parse().ok()?;
        Some(first..=first.checked_add(count.checked_sub(1)?)?)
    });
    let ranges: Vec<_> = ranges.collect();
    if ranges.iter().any(|range| range.contains(&wanted)) {
        return Some(wanted);
    }
    let last = ranges.iter().max_by_key(|range| *range.end())?;
    // The last thousand of the range, without root and the overflow id.
    let first = (*last.start()).max(last.end().saturating_sub(1000)).max(1);
    let count = last.end().checked_sub(first)? + 1;
    let chosen = first + pid % count;
    let others = (first..=*last.end()).find(|id| *id != NOBODY);
    if chosen == NOBODY {
        others
    } else {
        Some(chosen)
    }
}

/// The real user id of this process.
pub fn real_uid() -> u32 {
    Uid::current().as_raw()
}

/// The effective user id of this process.
pub fn effective_uid() -> u32 {
    Uid::effective().as_raw()
}

/// The effective group id of this process.
pub fn effective_gid() -> u32 {
    Gid::effective().as_raw()
}

/// The supplementary groups of this process.
pub fn supplementary_groups() -> io::Result<Vec<u32>> {
    let groups = nix::unistd::getgroups()?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
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

/// The system's database, as the C library reads it (`nsswitch.conf(5)`).
#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
mod database {
    use std::ffi::CString;
    use std::io;

    use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

    use super::{Account, GroupEntry};

    pub(super) fn user_by_name(name: &str) -> io::Result<Option<Account>> {
        Ok(User::from_name(name)?.map(account))
    }

    pub(super) fn user_by_id(uid: u32) -> io::Result<Option<Account>> {
        Ok(User::from_uid(Uid::from_raw(uid))?.map(account))
    }

    pub(super) fn group_by_name(name: &str) -> io::Result<Option<GroupEntry>> {
        let group = Group::from_name(name)?;
        Ok(group.map(|group| GroupEntry {
            name: group.name,
            gid: group.gid.as_raw(),
            members: group.mem,
        }))
    }

    pub(super) fn groups_of(user: &str, primary: u32) -> io::Result<Vec<u32>> {
        let name = CString::new(user).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let groups = getgrouplist(&name, Gid::from_raw(primary))?;
        Ok(groups.into_iter().map(Gid::as_raw).collect())
    }

    fn account(user: User) -> Account {
        Account {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_processes() {
        let all = "         0          0 4294967295\n";
        assert_eq!(choose_id(all, 7), Some(PROCESS_FIRST + 7));
        let container = "         0     100000      65536\n";
        for pid in 1..3000 {
            let id = choose_id(container, pid).unwrap();
            assert!((64_000..65_536).contains(&id) && id != NOBODY);
        }
        assert_eq!(choose_id("0 1000 1\n", 7), None);
        assert_eq!(choose_id("", 7), None);
        assert_eq!(choose_id("rubbish\n1 2\n", 7), None);
    }

    #[test]
    fn root_is_known() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_by_id(0).unwrap().unwrap(), root);
        assert!(groups_of("root", 0).unwrap().contains(&0));
        assert!(user_by_name("no-such-user-here").unwrap().is_none());
        assert!(group_by_name("no-such-group-here").unwrap().is_none());
    }

    #[test]
    fn the_c_library_and_the_files_say_the_same() {
        use crate::account_files;

        let root = user_by_name("root").unwrap();
        assert!(root.is_some());
        assert_eq!(account_files::user_by_name("root").unwrap(), root);
        assert_eq!(account_files::user_by_id(0).unwrap(), root);
        let group = group_by_name("root").unwrap();
        assert_eq!(account_files::group_by_name("root").unwrap(), group);
        let of_library = groups_of("root", 0).unwrap();
        let all = account_files::groups_of("root", 0).unwrap();
        assert!(
            all.iter().all(|group| of_library.contains(group)),
            "{all:?}"
        );
    }
}
