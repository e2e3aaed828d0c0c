//! Giving trees away, without following links.
//!
//! In the store everything goes to the new owner, also what a dead daemon's builds have left, so that it
//! can be deleted; but a file of somebody else that has further links may be a link to something
//! elsewhere, and stays. In the state and log directories no file has two links, and one that has stays.
//! Other file systems that are mounted there, and device nodes, stay, too.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use system::ids::Account;
use system::tree::{Descend, Dir, Kind, Stat, Visit, Visited, walk};

use super::directory;

/// How many names of files that stay are printed.
const NAMED: usize = 20;

/// What has been given away so far.
pub struct Giver {
    uid: u32,
    gid: u32,
    /// Whose it was.
    former: u32,
    changed: u64,
    right: u64,
    left: Vec<String>,
    more_left: u64,
}

/// One tree that is given away.
struct Tree<'a> {
    giver: &'a mut Giver,
    /// The directory that contains it.
    above: &'a Path,
    device: u64,
    /// Whether files are expected to have several links.
    linked: bool,
    /// The directory whose contents belong to others.
    keep: Option<&'a Path>,
}

impl Giver {
    /// Nothing yet, for a new owner and a former one.
    pub fn new(account: &Account, former: u32) -> Giver {
        Giver {
            uid: account.uid,
            gid: account.gid,
            former,
            changed: 0,
            right: 0,
            left: Vec::new(),
            more_left: 0,
        }
    }

    /// Gives away a directory of the daemon with all that is in it, except the contents of `keep`.
    pub fn give_private(&mut self, path: &Path, keep: Option<&Path>) -> Result<()> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            anyhow::bail!(
                "`{}' is not a directory that can be given away",
                path.display()
            );
        };
        let Some(parent) = directory::open(above)? else {
            return Ok(());
        };
        let Some(stat) = parent.try_stat_at(name)? else {
            return Ok(());
        };
        let mut tree = Tree {
            giver: self,
            above,
            device: stat.identity().0,
            linked: false,
            keep,
        };
        walk(&parent, name, &mut tree).with_context(|| format!("in `{}'", above.display()))
    }

    /// Gives away all that is in the store, but not the directory itself.
    pub fn give_store(&mut self, store: &Dir, path: &Path) -> Result<()> {
        let device = store.stat()?.identity().0;
        let names = store
            .names()
            .with_context(|| format!("cannot read directory `{}'", path.display()))?;
        for name in names {
            let mut tree = Tree {
                giver: &mut *self,
                above: path,
                device,
                linked: true,
                keep: None,
            };
            walk(store, &name, &mut tree).with_context(|| format!("in `{}'", path.display()))?;
        }
        Ok(())
    }

    /// What was done, for the administrator.
    pub fn report(&self, user: &str) -> String {
        let mut text = String::new();
        for left in &self.left {
            text += &format!("left as it is: {left}\n");
        }
        if self.more_left > 0 {
            text += &format!("left as they are: {} more\n", self.more_left);
        }
        text += &format!(
            "{} files are now {user}'s; {} were before\n",
            self.changed, self.right
        );
        text
    }

    /// Notes that a file stays with its owner.
    pub fn leave_alone(&mut self, path: &Path, reason: &str) {
        if self.left.len() < NAMED {
            self.left.push(format!("`{}', {reason}", path.display()));
        } else {
            self.more_left += 1;
        }
    }
}

impl Tree<'_> {
    /// Why a file stays with its owner.
    fn reason(&self, stat: &Stat) -> Option<&'static str> {
        let giver = &self.giver;
        match stat.kind() {
            Kind::Directory if stat.identity().0 != self.device => Some("another file system"),
            Kind::Regular if stat.links() > 1 => {
                let known = [giver.uid, giver.former].contains(&stat.uid());
                if self.linked && known {
                    None
                } else if self.linked {
                    Some("somebody else's, and it has other names")
                } else {
                    Some("it has other names")
                }
            }
            _ => None,
        }
    }
}

impl Visit for Tree<'_> {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        // Whoever can write there may put another file, or a link to one, under the name meanwhile.
        let held = file.parent.hold(file.name)?;
        let stat = held.stat()?;
        let path: PathBuf = self.above.join(file.path());
        // Sockets are made anew; pipes and devices are nobody's business here.
        if stat.kind() == Kind::Other {
            return Ok(Descend::Over);
        }
        if let Some(reason) = self.reason(&stat) {
            self.giver.leave_alone(&path, reason);
            return Ok(Descend::Over);
        }
        if (stat.uid(), stat.gid()) == (self.giver.uid, self.giver.gid) {
            self.giver.right += 1;
        } else {
            held.chown(self.giver.uid, self.giver.gid)?;
            self.giver.changed += 1;
        }
        let keep = self.keep == Some(&*path);
        Ok(if stat.is_dir() && !keep {
            Descend::Into
        } else {
            Descend::Over
        })
    }

    fn action(&self) -> &'static str {
        "change the owner of"
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
