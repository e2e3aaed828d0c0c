//! The memory that decoders share. Each takes what it needs before it allocates anything of size; if
//! there isn't enough, it waits.
//!
//! Users share it (`Shares`): one can have a part, and a little is kept for those who have little.
//! Who waits, waits in order: users who have less come first, and of those who have the same, whoever
//! has waited longest. Nobody overtakes, but for what is assured to them. Two users who have all that they can
//! have leave one more of the largest windows to whoever has nothing.
//!
//! Who waits holds a transfer's place, and perhaps its connection, but no memory. This is safe:
//! whoever has memory has a place already and takes no other one, so it goes on until it gives the
//! memory back; and the places that a user can hold are a share, too (`fetches`).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use substitutes::network::{Shares, User};
use system::sync::{Condvar, Mutex};

const MIB: u64 = 1 << 20;

/// The largest window or dictionary, in bytes: what `zstd -d` accepts without being told more.
pub const LARGEST_WINDOW: u64 = 128 * MIB;
/// What a decoder needs besides, at most.
const BESIDES: u64 = MIB;
/// How much memory there is, in bytes.
const SHARES: Shares = Shares {
    per_user: 2 * (LARGEST_WINDOW + BESIDES),
    in_all: 4 * (LARGEST_WINDOW + BESIDES),
    assured: 32 * MIB + BESIDES,
    most: 7 * (LARGEST_WINDOW + BESIDES),
};
/// How much of it there is besides for users who have nothing, in bytes: enough for any one decoder, whatever
/// little others have meanwhile.
const RESERVE: u64 = 2 * (LARGEST_WINDOW + BESIDES);

/// The memory for all decoders.
pub struct Budget {
    state: Mutex<State>,
    changed: Condvar,
    shares: Shares,
    reserve: u64,
}

#[derive(Default)]
struct State {
    by_user: HashMap<User, u64>,
    used: u64,
    waiting: VecDeque<Waiting>,
    last_ticket: u64,
}

struct Waiting {
    ticket: u64,
    user: User,
    amount: u64,
}

impl State {
    fn own(&self, user: User) -> u64 {
        self.by_user.get(&user).copied().unwrap_or_default()
    }

    /// The ticket of the one who can have what it waits for.
    fn next(&self, shares: Shares, reserve: u64) -> Option<u64> {
        let mut waiting: Vec<&Waiting> = self.waiting.iter().collect();
        waiting.sort_by_key(|waiting| self.own(waiting.user));
        let mut is_blocked = false;
        for one in waiting {
            let own = self.own(one.user);
            let sum = own.saturating_add(one.amount);
            let may_go = !is_blocked || sum <= shares.assured;
            let is_new = own == 0 && self.used.saturating_add(sum) <= shares.in_all + reserve;
            let has_room = shares.has_room(one.user, own, self.used, one.amount);
            if may_go && (has_room || is_new) {
                return Some(one.ticket);
            }
            // Who has all of a share waits for nobody else.
            is_blocked |= sum <= shares.per_user;
        }
        None
    }

    fn add(&mut self, user: User, amount: u64) {
        *self.by_user.entry(user).or_default() += amount;
        self.used += amount;
    }

    fn remove(&mut self, user: User, amount: u64) {
        self.used -= amount;
        if let Some(own) = self.by_user.get_mut(&user) {
            *own -= amount;
            if *own == 0 {
                self.by_user.remove(&user);
            }
        }
    }
}

impl Budget {
    pub fn new() -> Arc<Budget> {
        Budget::with(SHARES, RESERVE)
    }

    fn with(shares: Shares, reserve: u64) -> Arc<Budget> {
        Arc::new(Budget {
            state: Mutex::default(),
            changed: Condvar::default(),
            shares,
            reserve,
        })
    }

    /// What a decoder of a user has of it: nothing yet.
    pub fn claim(self: &Arc<Self>, user: User) -> Arc<Claim> {
        Arc::new(Claim {
            budget: self.clone(),
            user,
            held: Mutex::default(),
        })
    }
}

/// What one decoder has of the memory; it is given back when this is dropped.
pub struct Claim {
    budget: Arc<Budget>,
    user: User,
    held: Mutex<Held>,
}

#[derive(Clone, Copy, Default)]
struct Held {
    amount: u64,
    /// Whether nobody wants any more what it is needed for.
    is_abandoned: bool,
}

impl Claim {
    /// Takes the memory for a decoder with a window of so many bytes, in place of what it has had.
    /// Waits for it if need be; whatever was allocated must be freed before. An error if that is too
    /// much for any decoder, or the claim was abandoned.
    pub fn take_for_window(&self, window: u64) -> io::Result<()> {
        if window > LARGEST_WINDOW {
            let (needed, most) = (window.div_ceil(MIB), LARGEST_WINDOW / MIB);
            return Err(io::Error::other(format!(
                "it takes a window of {needed} MiB, and the largest that is allowed has {most} MiB"
            )));
        }
        match self.take(window + BESIDES) {
            true => Ok(()),
            false => Err(io::Error::other("nobody wants it any more")),
        }
    }

    /// `false` if the claim was abandoned.
    fn take(&self, amount: u64) -> bool {
        self.give_back();
        let mut state = self.budget.state.lock();
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.waiting.push_back(Waiting {
            ticket,
            user: self.user,
            amount,
        });
        loop {
            let is_abandoned = self.held.lock().is_abandoned;
            let is_next = state.next(self.budget.shares, self.budget.reserve) == Some(ticket);
            if is_abandoned || is_next {
                state.waiting.retain(|waiting| waiting.ticket != ticket);
                if !is_abandoned {
                    state.add(self.user, amount);
                    self.held.lock().amount = amount;
                }
                // There may be enough for the next one, too.
                self.budget.changed.notify_all();
                return !is_abandoned;
            }
            state = self.budget.changed.wait(state);
        }
    }

    /// Gives back what was taken.
    pub fn give_back(&self) {
        let mut state = self.budget.state.lock();
        let amount = std::mem::take(&mut self.held.lock().amount);
        if amount > 0 {
            state.remove(self.user, amount);
            self.budget.changed.notify_all();
        }
    }

    /// Ends waiting, now or later.
    pub fn abandon(&self) {
        let _state = self.budget.state.lock();
        self.held.lock().is_abandoned = true;
        self.budget.changed.notify_all();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::{JoinHandle, spawn};

    const SMALL: Shares = Shares {
        per_user: 6,
        in_all: 10,
        assured: 1,
        most: 12,
    };

    fn claim(budget: &Arc<Budget>, user: u64) -> Arc<Claim> {
        budget.claim(User::from_number(user))
    }

    fn holder(budget: &Arc<Budget>, user: u64, amount: u64) -> Arc<Claim> {
        let claim = claim(budget, user);
        assert!(claim.take(amount));
        claim
    }

    /// Someone who waits, once that is so.
    fn waiter(budget: &Arc<Budget>, user: u64, amount: u64) -> (Arc<Claim>, JoinHandle<bool>) {
        let before = budget.state.lock().waiting.len();
        let claim = claim(budget, user);
        let taking = claim.clone();
        let thread = spawn(move || taking.take(amount));
        while budget.state.lock().waiting.len() == before {
            std::thread::yield_now();
        }
        (claim, thread)
    }

    #[test]
    fn who_finds_too_little_waits_in_order_and_holds_up_no_other_user() {
        let budget = Budget::with(SMALL, 0);
        let first = holder(&budget, 1, 5);
        let (_second, second) = waiter(&budget, 1, 2);
        // The one that waits for itself is passed; a large one that waits for others isn't.
        let other = holder(&budget, 2, 2);
        let (_large, large) = waiter(&budget, 3, 4);
        let (third, waiting) = waiter(&budget, 4, 2);
        assert!(!large.is_finished() && !waiting.is_finished());
        // What is assured is there all the same.
        let little = holder(&budget, 5, 1);
        let least = holder(&budget, 6, 1);
        drop((little, least));
        third.abandon();
        assert!(!waiting.join().unwrap());
        drop(other);
        drop(first);
        assert!(large.join().unwrap() && second.join().unwrap());
        assert_eq!(budget.state.lock().used, 6);
        drop((_second, _large, third));
        let state = budget.state.lock();
        assert!(state.used == 0 && state.by_user.is_empty() && state.waiting.is_empty());
    }

    #[test]
    fn users_who_have_less_come_first() {
        let budget = Budget::with(SMALL, 0);
        let _first = holder(&budget, 1, 4);
        let third = holder(&budget, 3, 6);
        let (one, more) = waiter(&budget, 1, 2);
        let (two, new) = waiter(&budget, 2, 5);
        drop(third);
        assert!(new.join().unwrap() && !more.is_finished());
        // Taking again gives back first.
        assert!(two.take(3));
        assert_eq!(budget.state.lock().own(User::from_number(2)), 3);
        assert!(more.join().unwrap());
        drop(one);
        assert_eq!(budget.state.lock().used, 7);
    }

    #[test]
    fn who_has_nothing_gets_what_is_kept_for_that_even_if_others_never_give_back() {
        let budget = Budget::new();
        let window = LARGEST_WINDOW + BESIDES;
        let [one, two] = [1, 2].map(|user| holder(&budget, user, 2 * window));
        let little = [4, 5, 6].map(|user| holder(&budget, user, SHARES.assured));
        let third = holder(&budget, 3, window);
        // Not twice, and others' little is kept all the same.
        let (more, waiting) = waiter(&budget, 3, window);
        let least = [7, 8, 9].map(|user| holder(&budget, user, SHARES.assured));
        drop(least);
        assert!(!waiting.is_finished());
        drop((one, little));
        assert!(waiting.join().unwrap());
        drop((two, third, more));
        assert_eq!(budget.state.lock().used, 0);
    }

    #[test]
    fn no_decoder_is_given_more_than_one_may_need() {
        let budget = Budget::new();
        let claim = claim(&budget, 1);
        claim.take_for_window(LARGEST_WINDOW).unwrap();
        let error = claim.take_for_window(2048 * MIB).unwrap_err().to_string();
        assert!(
            error.contains("2048 MiB") && error.contains("128 MiB"),
            "{error}"
        );
    }
}
