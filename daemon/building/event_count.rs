//! An event count: how a thread waits for a condition that many others can make true.
//!
//! The waiting thread takes a key, checks the condition, and sleeps only if there was no
//! notification since it took the key. So no notification is lost, although the condition is not
//! guarded by a single lock.

use std::time::Instant;

use system::sync::{Condvar, Mutex, MutexGuard};

/// The state of an [`EventCount`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventKey(u64);

/// Counts notifications.
#[derive(Default)]
pub(super) struct EventCount {
    count: Mutex<u64>,
    changed: Condvar,
}

impl EventCount {
    fn count(&self) -> MutexGuard<'_, u64> {
        self.count.lock()
    }

    /// Has to be taken before the condition is checked.
    pub(super) fn key(&self) -> EventKey {
        EventKey(*self.count())
    }

    /// Wakes every waiting thread, which then checks its condition again.
    pub(super) fn notify(&self) {
        *self.count() += 1;
        self.changed.notify_all();
    }

    /// Sleeps until the next notification after `key` was taken, or until `deadline`.
    pub(super) fn wait(&self, key: EventKey, deadline: Option<Instant>) {
        let mut count = self.count();
        while *count == key.0 {
            count = match deadline {
                None => self.changed.wait(count),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    self.changed.wait_timeout(count, left)
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_notification_between_key_and_wait_is_not_lost() {
        let events = Arc::new(EventCount::default());
        let key = events.key();
        events.notify();
        events.wait(key, None); // returns at once
        let key = events.key();
        let waiter = std::thread::spawn({
            let events = events.clone();
            move || events.wait(key, None)
        });
        events.notify();
        waiter.join().expect("waiter");
        assert_ne!(events.key(), key);
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let events = EventCount::default();
        let deadline = Instant::now() + Duration::from_millis(10);
        events.wait(events.key(), Some(deadline));
        assert!(Instant::now() >= deadline);
    }
}
