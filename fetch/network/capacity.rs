//! How much of what takes descriptors there may be: less where the program may have few of them.

use substitutes::network::Shares;

/// What the program has open besides, at most.
const OTHERS: u64 = 64;
/// What a fetch takes: a pipe, what is needed to stop waiting for it, its connection or its files.
const OF_FETCH: u64 = 4;
/// What a small body takes: its connection, and what is needed to look up the name of its server.
const OF_GET: u64 = 3;

/// How many of each there may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Items that are fetched.
    pub fetches: u64,
    /// Small bodies that are asked for.
    pub gets: u64,
    /// Connections that nobody uses.
    pub idle: u64,
}

impl Capacity {
    /// What so many descriptors allow: half of them are for fetches.
    pub fn of(descriptors: u64) -> Capacity {
        let free = descriptors.saturating_sub(OTHERS);
        Capacity {
            fetches: (free / 2 / OF_FETCH).max(2),
            gets: (free / 4 / OF_GET).max(2),
            idle: (free / 4).max(2),
        }
    }

    /// The shares of that many.
    pub fn shares(most: u64, wanted: Shares) -> Shares {
        let part = |amount: u64| match wanted.most {
            all if all <= most => amount,
            all => (amount.saturating_mul(most) / all).max(1),
        };
        Shares {
            per_user: part(wanted.per_user),
            in_all: part(wanted.in_all),
            assured: part(wanted.assured),
            most: part(wanted.most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_may_be_open_at_once_is_no_more_than_there_may_be() {
        for descriptors in [128, 256, 1024, 1 << 20] {
            let Capacity {
                fetches,
                gets,
                idle,
            } = Capacity::of(descriptors);
            let open = OTHERS + OF_FETCH * fetches + OF_GET * gets + idle;
            assert!(open <= descriptors, "{descriptors}: {open}");
            assert!(fetches >= 8 && gets >= 5, "{descriptors}");
        }
        assert_eq!(Capacity::of(0).fetches, 2);
        let shares = Shares {
            per_user: 48,
            in_all: 64,
            assured: 8,
            most: 128,
        };
        assert_eq!(Capacity::shares(200, shares), shares);
        let few = Shares {
            per_user: 3,
            in_all: 4,
            assured: 1,
            most: 8,
        };
        assert_eq!(Capacity::shares(8, shares), few);
    }
}
