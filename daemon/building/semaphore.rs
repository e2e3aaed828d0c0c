//! A counting semaphore with cancellable waits, by rank.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use system::sync::{Condvar, Mutex, MutexGuard};

use crate::cancel::CancellationToken;

/// A number of permits.
pub(super) struct Semaphore {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: usize,
    next: u64,
    /// Who waits: by rank, then by the time of arrival.
    waiting: BTreeSet<(Reverse<u64>, u64)>,
}

impl Semaphore {
    /// A semaphore with `permits` free permits.
    pub(super) fn new(permits: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore {
            state: Mutex::new(State {
                free: permits,
                next: 0,
                waiting: BTreeSet::new(),
            }),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits for a free permit and takes it, before those with a lower rank; `None` if `cancel` is
    /// cancelled before.
    pub(super) fn acquire(
        self: &Arc<Self>,
        rank: u64,
        cancel: &CancellationToken,
    ) -> Option<Permit> {
        let semaphore = self.clone();
        let _guard = cancel.on_cancel(move || {
            // With the lock held, so that no thread is between checking the token and sleeping.
            let _state = semaphore.state();
            semaphore.changed.notify_all();
        });
        let mut state = self.state();
        let ticket = (Reverse(rank), state.next);
        state.next += 1;
        state.waiting.insert(ticket);
        while state.free == 0 || state.waiting.first() != Some(&ticket) {
            if cancel.is_cancelled() {
                state.waiting.remove(&ticket);
                // Another may be the first now.
                self.changed.notify_all();
                return None;
            }
            state = self.changed.wait(state);
        }
        state.waiting.remove(&ticket);
        state.free -= 1;
        if state.free > 0 {
            self.changed.notify_all();
        }
        drop(state);
        Some(Permit(self.clone()))
    }
}

/// A permit in use; released on drop.
pub(super) struct Permit(Arc<Semaphore>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state().free += 1;
        // Not only one: that one may have just been cancelled, and it may not be its turn.
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn waiting_ends_with_a_permit_or_with_the_token() {
        let semaphore = Semaphore::new(1);
        let token = CancellationToken::new();
        let first = semaphore.acquire(0, &token);
        assert!(first.is_some());
        let (sender, receiver) = channel();
        let waiting = |token: CancellationToken| {
            let (semaphore, sender) = (semaphore.clone(), sender.clone());
            std::thread::spawn(move || sender.send(semaphore.acquire(0, &token).is_some()))
        };
        let cancelled = waiting(token.clone());
        token.cancel();
        assert_eq!(receiver.recv(), Ok(false));
        let served = waiting(CancellationToken::new());
        drop(first);
        assert_eq!(receiver.recv(), Ok(true));
        for thread in [cancelled, served] {
            assert!(thread.join().is_ok_and(|sent| sent.is_ok()));
        }
    }

    #[test]
    fn the_highest_rank_is_served_first_and_of_equals_the_first_to_come() {
        let semaphore = Semaphore::new(1);
        let token = CancellationToken::new();
        let first = semaphore.acquire(0, &token);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for (name, rank) in [("low", 1), ("high", 9), ("cancelled", 10), ("also high", 9)] {
            let (semaphore, order, token) = (semaphore.clone(), order.clone(), token.clone());
            let cancel = match name {
                "cancelled" => token,
                _ => CancellationToken::new(),
            };
            let waiting = semaphore.clone();
            threads.push(std::thread::spawn(move || {
                let permit = semaphore.acquire(rank, &cancel);
                if permit.is_some() {
                    order.lock().push(name);
                }
            }));
            while waiting.state().waiting.len() < threads.len() {
                std::thread::yield_now();
            }
        }
        token.cancel();
        while semaphore.state().waiting.len() > 3 {
            std::thread::yield_now();
        }
        drop(first);
        for thread in threads {
            thread.join().expect("a waiting thread");
        }
        assert_eq!(*order.lock(), ["high", "also high", "low"]);
    }
}
