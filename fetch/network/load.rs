//! How many transfers run, for each server and in all, and for whom.

use std::collections::HashMap;

use substitutes::network::{Shares, User};

/// Counts of transfers, with limits.
pub struct Load {
    by_server: HashMap<String, Counts>,
    all: Counts,
    per_server: Shares,
    in_all: Shares,
}

#[derive(Default)]
struct Counts {
    by_user: HashMap<User, u64>,
    total: u64,
}

impl Counts {
    fn has_room(&self, user: User, shares: Shares) -> bool {
        let own = self.by_user.get(&user).copied().unwrap_or_default();
        shares.has_room(user, own, self.total, 1)
    }

    fn add(&mut self, user: User) {
        *self.by_user.entry(user).or_default() += 1;
        self.total += 1;
    }

    fn remove(&mut self, user: User) {
        if let Some(count) = self.by_user.get_mut(&user) {
            *count -= 1;
            self.total -= 1;
            if *count == 0 {
                self.by_user.remove(&user);
            }
        }
    }
}

impl Load {
    pub fn new(per_server: Shares, in_all: Shares) -> Load {
        Load {
            by_server: HashMap::new(),
            all: Counts::default(),
            per_server,
            in_all,
        }
    }

    /// Whether one more may run for a user.
    pub fn has_room(&self, user: User, server: &str) -> bool {
        let at_server = self.by_server.get(server);
        at_server.is_none_or(|counts| counts.has_room(user, self.per_server))
            && self.all.has_room(user, self.in_all)
    }

    pub fn add(&mut self, user: User, server: &str) {
        self.by_server
            .entry(server.to_owned())
            .or_default()
            .add(user);
        self.all.add(user);
    }

    pub fn remove(&mut self, user: User, server: &str) {
        if let Some(counts) = self.by_server.get_mut(server) {
            counts.remove(user);
            self.all.remove(user);
            if counts.total == 0 {
                self.by_server.remove(server);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_places_to_others() {
        let at_server = Shares {
            per_user: 4,
            in_all: 4,
            assured: 1,
            most: 6,
        };
        let in_all = Shares {
            per_user: 5,
            in_all: 8,
            assured: 1,
            most: 9,
        };
        let [root, one, two, three] = [0, 1, 2, 3].map(User::from_number);
        let mut load = Load::new(at_server, in_all);
        for _ in 0..4 {
            assert!(load.has_room(one, "a"));
            load.add(one, "a");
        }
        assert!(!load.has_room(one, "a") && load.has_room(one, "b"));
        assert!(load.has_room(two, "a"));
        load.add(two, "a");
        // Others have their places first.
        assert!(!load.has_room(two, "a") && load.has_room(three, "a"));
        load.add(three, "a");
        load.add(one, "b");
        assert!(!load.has_room(one, "b"), "it has five");
        load.add(two, "b");
        load.add(two, "c");
        assert!(!load.has_room(three, "c") && load.has_room(root, "c"));
        for (user, server) in [(one, "a"), (two, "b"), (three, "a")] {
            load.remove(user, server);
        }
        assert!(load.has_room(three, "a"));
    }
}
