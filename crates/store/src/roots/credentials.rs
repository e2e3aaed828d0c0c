//! The user who asks: requests disclose only what this user could see.

use system::ids;
use system::tree::Stat;

/// A user and the user's groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    uid: u32,
    groups: Vec<u32>,
}

impl Credentials {
    /// The user `uid` with the primary group `gid` and the groups in the system's database.
    pub fn of_user(uid: u32, gid: u32) -> Credentials {
        let groups = match ids::user_by_id(uid) {
            Ok(Some(account)) => ids::groups_of(&account.name, gid),
            Ok(None) => Ok(vec![gid]),
            Err(error) => Err(error),
        };
        let groups = groups.unwrap_or_else(|error| {
            tracing::debug!(%error, uid, "looking up the groups of a user");
            vec![gid]
        });
        Credentials { uid, groups }
    }

    /// An unknown user, such as a client on another host, who may see what everybody may see.
    pub fn stranger() -> Credentials {
        Credentials {
            uid: u32::MAX,
            groups: Vec::new(),
        }
    }

    /// Whether the user may look up names in a directory.
    pub fn may_search(&self, directory: &Stat) -> bool {
        self.may(directory, 0o1)
    }

    /// Whether the user may list a directory.
    pub fn may_list(&self, directory: &Stat) -> bool {
        self.may(directory, 0o4)
    }

    /// What the mode says; that an ACL allows more is not seen.
    fn may(&self, file: &Stat, bit: u32) -> bool {
        let bits = match file {
            file if file.uid() == self.uid => file.mode() >> 6,
            file if self.groups.contains(&file.gid()) => file.mode() >> 3,
            file => file.mode(),
        };
        self.uid == 0 || bits & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use system::tree::Dir;

    #[test]
    fn the_class_of_the_user_decides() {
        let scratch = tempfile::tempdir().unwrap();
        let own = fs::metadata(scratch.path()).unwrap();
        let with = |uid, gid| Credentials {
            uid,
            groups: vec![gid],
        };
        let (owner, member) = (with(own.uid(), 77_777), with(77_777, own.gid()));
        let of_mode = |mode| {
            fs::set_permissions(scratch.path(), Permissions::from_mode(mode)).unwrap();
            Dir::open(scratch.path()).unwrap().stat().unwrap()
        };
        let stat = of_mode(0o754);
        assert!(owner.may_search(&stat) && owner.may_list(&stat));
        assert!(member.may_search(&stat) && member.may_list(&stat));
        assert!(!Credentials::stranger().may_search(&stat));
        assert!(Credentials::stranger().may_list(&stat));
        let stat = of_mode(0o701);
        assert!(!member.may_search(&stat) && Credentials::stranger().may_search(&stat));
        assert!(with(0, 0).may_list(&stat));
    }
}
