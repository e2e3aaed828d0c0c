//! How users share something of which there is little.

use super::request::User;

/// How much of something there is, in whatever it is counted in.
///
/// One user alone can have much of it. Whoever has nothing or little gets a little even if others have
/// everything and never give it back: some is kept for that.
///
/// ```
/// use substitutes::network::{Shares, User};
///
/// let places = Shares { per_user: 6, in_all: 8, assured: 1, most: 10 };
/// let [one, two] = [1, 2].map(User::from_number);
/// assert!(places.has_room(one, 5, 5, 1));
/// assert!(!places.has_room(one, 6, 6, 1));
/// // Others have all eight: the first one of this user is one of those that are kept.
/// assert!(places.has_room(two, 0, 8, 1));
/// assert!(!places.has_room(two, 1, 9, 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// How much one user can have.
    pub per_user: u64,
    /// How much all of them can have together.
    pub in_all: u64,
    /// How much each can have even if the others have all that.
    pub assured: u64,
    /// How much all of them can have, with what is assured. Root gets what is assured to it even
    /// beyond that.
    pub most: u64,
}

impl Shares {
    /// Whether a user who has `own` can have `amount` more while all users have `used`.
    pub fn has_room(&self, user: User, own: u64, used: u64, amount: u64) -> bool {
        let (own, used) = (own.saturating_add(amount), used.saturating_add(amount));
        let is_assured = own <= self.assured && (used <= self.most || user == User::default());
        is_assured || own <= self.per_user && used <= self.in_all
    }
}
