//! The user that a builder runs as: a build user, or the daemon's own user.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use system::ids;
use system::lock::{LockFile, Mode};

use super::fork_request::Ipc;
use super::fork_server::ForkServer;

/// The user and group that builders see in a user namespace.
pub(super) const GUEST_UID: u32 = 30001;
/// See [`GUEST_UID`].
pub(super) const GUEST_GID: u32 = 30000;

/// The ids for builds of a daemon without build users: above those assigned to containers, and
/// below those of files from elsewhere (`systemd`'s "Users, Groups, UIDs and GIDs on systemd
/// Systems"), so that nobody else has them.
const ALLOCATED_FIRST: u32 = 0x7000_0000;
/// See [`ALLOCATED_FIRST`].
const ALLOCATED_COUNT: u32 = 4096;

/// How long the groups of a build user are remembered: some name services need a hundred system
/// calls to find them.
const GROUPS_LIFETIME: Duration = Duration::from_secs(1);

/// The user that a builder runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// A build user that no other build uses; the daemon is root.
    User {
        /// The user.
        uid: u32,
        /// The group of build users.
        gid: u32,
        /// The user's supplementary groups.
        groups: Vec<u32>,
        /// Whether the builder, in a chroot, sees itself as user 30001 of a user namespace.
        renumbered: bool,
    },
    /// The daemon's own user, which isn't root; in a chroot, user 30001 of a user namespace.
    Own,
}

impl Identity {
    /// The identity that [`BuildUser::allocate`] gives first, for trying whether a build can start.
    pub fn first_allocated() -> Identity {
        Identity::allocated(ALLOCATED_FIRST)
    }

    fn allocated(uid: u32) -> Identity {
        Identity::User {
            uid,
            gid: uid,
            groups: Vec::new(),
            renumbered: true,
        }
    }

    /// The owner of the outputs, as seen outside.
    pub fn uid(&self) -> u32 {
        match self {
            Identity::User { uid, .. } => *uid,
            Identity::Own => ids::effective_uid(),
        }
    }

    /// User and group as seen in a chroot.
    pub(super) fn inside(&self) -> (u32, u32) {
        match self {
            Identity::User {
                uid,
                gid,
                renumbered: false,
                ..
            } => (*uid, *gid),
            Identity::User { .. } | Identity::Own => (GUEST_UID, GUEST_GID),
        }
    }

    /// User and group, as seen outside, if builds have their own users.
    pub(super) fn ids(&self) -> Option<(u32, u32)> {
        match self {
            Identity::User { uid, gid, .. } => Some((*uid, *gid)),
            Identity::Own => None,
        }
    }
}

/// Why no build user could be acquired.
#[derive(Debug, thiserror::Error)]
pub enum BuildUserError {
    /// The group doesn't exist.
    #[error("the group `{0}' specified in `build-users-group' does not exist")]
    NoGroup(String),
    /// The group has no members.
    #[error("the build users group `{0}' has no members")]
    Empty(String),
    /// A member doesn't exist.
    #[error("the user `{user}' in the group `{group}' does not exist")]
    NoUser {
        /// The member.
        user: String,
        /// The group.
        group: String,
    },
    /// A member is the daemon itself.
    #[error("the Guix user should not be a member of `{0}'")]
    Ourselves(String),
    /// All build users are in use.
    #[error(
        "all build users are currently in use; consider creating additional users and adding \
         them to the `{0}' group"
    )]
    AllInUse(String),
    /// All ids for builds of a daemon without build users are in use.
    #[error("all {ALLOCATED_COUNT} user ids for builds are in use; use `--build-users-group'")]
    AllIdsInUse,
    /// A system error.
    #[error("cannot {action} `{}': {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl BuildUserError {
    fn lookup(group: &str, source: io::Error) -> BuildUserError {
        BuildUserError::Io {
            action: "look up",
            path: group.into(),
            source,
        }
    }
}

/// The group whose members builds run as; it has at least one.
pub fn group_of_build_users(group: &str) -> Result<ids::GroupEntry, BuildUserError> {
    let entry = ids::group_by_name(group)
        .map_err(|source| BuildUserError::lookup(group, source))?
        .ok_or_else(|| BuildUserError::NoGroup(group.into()))?;
    if entry.members.is_empty() {
        return Err(BuildUserError::Empty(group.into()));
    }
    Ok(entry)
}

/// A build user that no other build uses. It is released on drop.
#[derive(Debug)]
pub struct BuildUser {
    identity: Identity,
    uid: u32,
    lock: Option<LockFile>,
}

/// The build users in use by this process, whose own locks don't prevent it from taking them again.
static IN_USE: LazyLock<Mutex<HashSet<u32>>> = LazyLock::new(Default::default);

impl BuildUser {
    /// Acquires the first free member of the group; `pool` is `<state>/userpool`.
    pub fn acquire(group: &str, pool: &Path) -> Result<BuildUser, BuildUserError> {
        let lookup = |source| BuildUserError::lookup(group, source);
        let entry = group_of_build_users(group)?;
        create_pool(pool)?;
        for user in &entry.members {
            let account =
                ids::user_by_name(user)
                    .map_err(lookup)?
                    .ok_or_else(|| BuildUserError::NoUser {
                        user: user.clone(),
                        group: group.into(),
                    })?;
            if account.uid == 0 || account.uid == ids::effective_uid() {
                return Err(BuildUserError::Ourselves(group.into()));
            }
            let Some(lock) = try_take(account.uid, pool)? else {
                continue;
            };
            let groups = groups_of(user, entry.gid).map_err(lookup)?;
            let identity = Identity::User {
                uid: account.uid,
                gid: entry.gid,
                groups,
                renumbered: false,
            };
            return Ok(BuildUser {
                identity,
                uid: account.uid,
                lock: Some(lock),
            });
        }
        Err(BuildUserError::AllInUse(group.into()))
    }

    /// Acquires the first free unassigned id, for a daemon that runs as root without a group of
    /// build users, so that no build runs as root. `pool` is `<state>/userpool`.
    pub fn allocate(pool: &Path) -> Result<BuildUser, BuildUserError> {
        create_pool(pool)?;
        for uid in ALLOCATED_FIRST..ALLOCATED_FIRST + ALLOCATED_COUNT {
            let Some(lock) = try_take(uid, pool)? else {
                continue;
            };
            return Ok(BuildUser {
                identity: Identity::allocated(uid),
                uid,
                lock: Some(lock),
            });
        }
        Err(BuildUserError::AllIdsInUse)
    }

    /// The identity, for a plan.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Kills all processes of the user, and removes what would be left of a build, or would be there
    /// for the next one, which has its shared memory and queues at `ipc`.
    pub fn kill_processes(&self, fork_server: &ForkServer, ipc: Ipc) -> io::Result<()> {
        fork_server.kill_user(self.uid, ipc)
    }
}

impl Drop for BuildUser {
    fn drop(&mut self) {
        let mut in_use = IN_USE.lock().unwrap_or_else(|e| e.into_inner());
        // While `IN_USE` is locked, so that a build that no longer finds the user there also finds
        // it unlocked.
        self.lock = None;
        in_use.remove(&self.uid);
    }
}

/// The groups of a build user, which are looked up again after [`GROUPS_LIFETIME`].
fn groups_of(user: &str, primary: u32) -> io::Result<Vec<u32>> {
    type Found = HashMap<(String, u32), (Instant, Vec<u32>)>;
    static FOUND: LazyLock<Mutex<Found>> = LazyLock::new(Default::default);
    let key = (user.to_owned(), primary);
    let now = Instant::now();
    let mut found = FOUND.lock().unwrap_or_else(|e| e.into_inner());
    match found.get(&key) {
        Some((since, groups)) if now.duration_since(*since) < GROUPS_LIFETIME => {
            return Ok(groups.clone());
        }
        _ => {}
    }
    drop(found);
    let groups = ids::groups_of(user, primary)?;
    found = FOUND.lock().unwrap_or_else(|e| e.into_inner());
    found.insert(key, (now, groups.clone()));
    Ok(groups)
}

fn create_pool(pool: &Path) -> Result<(), BuildUserError> {
    std::fs::create_dir_all(pool).map_err(|source| BuildUserError::Io {
        action: "create",
        path: pool.into(),
        source,
    })
}

/// Locks a build user; `None` if this or another daemon uses it.
fn try_take(uid: u32, pool: &Path) -> Result<Option<LockFile>, BuildUserError> {
    let mut in_use = IN_USE.lock().unwrap_or_else(|e| e.into_inner());
    if in_use.contains(&uid) {
        return Ok(None);
    }
    let path = pool.join(uid.to_string());
    let fail = |source| BuildUserError::Io {
        action: "lock",
        path: path.clone(),
        source,
    };
    let lock = LockFile::open(&path).map_err(fail)?;
    if !lock.try_lock(Mode::Exclusive).map_err(fail)? {
        return Ok(None);
    }
    in_use.insert(uid);
    Ok(Some(lock))
}
