//! Items that were received before all of their references are valid, and wait to be registered.
//!
//! A chain of items would otherwise be fetched one level after the other, at the cost of a round trip
//! for each. What waits is in the store under a temporary name, or in memory if it is small; it has
//! neither thread nor descriptors. Requests share it, and the last one to forget it deletes it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use formats::store_path::StorePath;
use store::{ExpectedItem, WaitingItem};
use system::sync::Mutex;

use crate::shared_limit::{ClientKey, Share, ShareLimits, SharedLimit};

/// How many bytes of nars wait for the whole daemon, and for one client that isn't root.
const LIMITS: ShareLimits = ShareLimits {
    total: 256 << 20,
    unprivileged: 224 << 20,
    per_client: 128 << 20,
};
/// What a smaller nar counts as, which limits how many items wait.
const LEAST: u64 = 2 << 20;

/// What the nar of an item counts as in [`LIMITS`].
fn weight(nar_size: u64) -> u64 {
    nar_size.max(LEAST)
}

/// Room for an item.
pub(super) enum Room {
    /// There is room, as long as the share exists.
    Taken(Share),
    /// Not now.
    Full,
    /// There never is.
    TooLarge,
}

/// The items that wait for any request.
pub(super) struct PrefetchedItems {
    limit: Arc<SharedLimit>,
    items: Mutex<HashMap<StorePath, Weak<Prefetched>>>,
}

impl Default for PrefetchedItems {
    fn default() -> PrefetchedItems {
        PrefetchedItems {
            limit: SharedLimit::new(LIMITS),
            items: Mutex::default(),
        }
    }
}

impl PrefetchedItems {
    /// Takes room for an item.
    pub(super) fn room(&self, client: ClientKey, nar_size: u64) -> Room {
        let weight = weight(nar_size);
        if weight > self.limit.most_for(client) {
            return Room::TooLarge;
        }
        let mut share = self.limit.share(client);
        match share.take(weight) {
            Ok(()) => Room::Taken(share),
            Err(_) => Room::Full,
        }
    }

    /// Adds an item that was received, for the requests that have asked for it and those to come.
    pub(super) fn add(&self, item: WaitingItem, share: Share) -> Arc<Prefetched> {
        let path = item.item().path.clone();
        let added = Arc::new(Prefetched(Mutex::new(Some((item, share)))));
        let mut items = self.items.lock();
        items.retain(|_, other| other.strong_count() > 0);
        items.insert(path, Arc::downgrade(&added));
        added
    }

    /// What waits for another request.
    pub(super) fn find(&self, path: &StorePath) -> Option<Arc<Prefetched>> {
        self.items.lock().get(path)?.upgrade()
    }
}

/// An item that was received, until an attempt takes it to register it.
pub(super) struct Prefetched(Mutex<Option<(WaitingItem, Share)>>);

impl Prefetched {
    /// Whether it still waits, and is what has to be received.
    pub(super) fn is(&self, expected: &ExpectedItem) -> bool {
        let waiting = self.0.lock();
        (waiting.as_ref()).is_some_and(|(item, _)| item.item() == expected)
    }

    /// Takes the item; `None` if another attempt has taken it.
    pub(super) fn take(&self) -> Option<WaitingItem> {
        let (item, _) = self.0.lock().take()?;
        Some(item)
    }
}

impl fmt::Debug for Prefetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefetched").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_room_for_others_and_few_items_wait() {
        let items = PrefetchedItems::default();
        let [one, two] = [1, 2].map(ClientKey::User);
        let taken = |client, size| match items.room(client, size) {
            Room::Taken(share) => Some(share),
            Room::Full | Room::TooLarge => None,
        };
        let shares: Vec<Share> = std::iter::from_fn(|| taken(one, 1)).collect();
        assert_eq!(shares.len(), 64);
        assert!(taken(two, 90 << 20).is_some());
        assert!(matches!(items.room(one, 0), Room::Full));
        assert!(matches!(items.room(two, 1 << 30), Room::TooLarge));
        drop(shares);
        assert!(taken(one, 128 << 20).is_some());
    }
}
