//! Whose turn it is, among clients who want more than there is.
//!
//! This is start-time fair queueing (Goyal, Vin, Cheng 1996): virtual time passes as clients are served.
//! The next of a client's builds *starts* when the last one has been paid for, and not before now; and
//! whose start is earliest comes first. So clients who always want something are served in turn, however
//! much each of them wants, and a client who wanted nothing for a while has not saved anything up.
//!
//! ```
//! use farm::fair_share::FairShare;
//!
//! let mut share = FairShare::default();
//! for _ in 0..1000 {
//!     share.serve("greedy");
//! }
//! assert!(share.start(&"modest") < share.start(&"greedy"));
//! share.serve("modest");
//! assert_eq!(share.start(&"modest"), share.start(&"greedy"));
//! ```

use std::collections::HashMap;
use std::hash::Hash;

/// What clients have had.
#[derive(Clone, Debug)]
pub struct FairShare<K> {
    /// The start of whatever was served last.
    now: u64,
    /// When the last one of each client is paid for; those that are paid for are forgotten.
    paid: HashMap<K, u64>,
}

impl<K> Default for FairShare<K> {
    fn default() -> FairShare<K> {
        FairShare {
            now: 0,
            paid: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> FairShare<K> {
    /// When the next one of a client starts: the earliest comes first.
    pub fn start(&self, client: &K) -> u64 {
        self.paid
            .get(client)
            .map_or(self.now, |&paid| paid.max(self.now))
    }

    /// A client is given something.
    pub fn serve(&mut self, client: K) {
        self.now = self.start(&client);
        self.paid.insert(client, self.now + 1);
        let now = self.now;
        self.paid.retain(|_, paid| *paid > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves whoever comes first of those who want something, so many times.
    fn serve(share: &mut FairShare<char>, wanting: &[char], times: usize) -> String {
        (0..times)
            .map(|_| {
                let first = wanting.iter().min_by_key(|&client| share.start(client));
                let first = *first.expect("a client");
                share.serve(first);
                first
            })
            .collect()
    }

    #[test]
    fn clients_are_served_in_turn_and_nothing_is_saved_up() {
        let mut share = FairShare::default();
        assert_eq!(serve(&mut share, &['a'], 5), "aaaaa");
        assert_eq!(serve(&mut share, &['a', 'b'], 6), "bababa");
        assert_eq!(serve(&mut share, &['a', 'b', 'c'], 6), "bcabca");
        serve(&mut share, &['a', 'b'], 100);
        // It wanted nothing for long, and has no more than its turn.
        let order = serve(&mut share, &['a', 'b', 'c'], 6);
        assert_eq!(order.matches('c').count(), 2, "{order}");
    }

    #[test]
    fn who_is_paid_for_is_forgotten() {
        let mut share = FairShare::default();
        for client in 0..1000 {
            share.serve(client);
        }
        for _ in 0..3 {
            share.serve(1);
        }
        assert_eq!(share.paid.len(), 1);
    }
}
