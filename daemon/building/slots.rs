//! How many local builds one client may run at a time (`--max-jobs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use system::sync::Mutex;

use super::event_queue::{Event, EventQueue};

/// The slots of one request.
pub(super) struct Slots {
    max: u32,
    used: Mutex<u32>,
    /// Whether a build with a slot has had to wait for a build user.
    waited_for_user: AtomicBool,
    queue: Arc<EventQueue>,
}

impl Slots {
    /// `max` slots; `queue` gets [`Event::SlotFreed`] when one becomes free.
    pub(super) fn new(max: u32, queue: Arc<EventQueue>) -> Arc<Slots> {
        Arc::new(Slots {
            max,
            used: Mutex::new(0),
            waited_for_user: AtomicBool::new(false),
            queue,
        })
    }

    /// Takes a slot, if one is free. With `at_least_one`, for what can't be done on another
    /// machine, one slot can be taken even if `max` is 0.
    pub(super) fn take(self: &Arc<Self>, at_least_one: bool) -> Option<Slot> {
        let mut used = self.used.lock();
        if *used < self.max || (at_least_one && *used == 0) {
            *used += 1;
            return Some(Slot(self.clone()));
        }
        None
    }

    /// The number of free slots.
    pub(super) fn free(&self) -> usize {
        let used = *self.used.lock();
        self.max.saturating_sub(used) as usize
    }

    /// Whether a slot is in use, so that [`Event::SlotFreed`] will come.
    pub(super) fn is_used(&self) -> bool {
        *self.used.lock() > 0
    }

    /// Whether a slot is free now.
    pub(super) fn is_free(&self) -> bool {
        self.free() > 0
    }

    /// Called when a build with a slot has to wait for a build user. Returns whether it is the
    /// request's first, so that the client should be told.
    pub(super) fn is_first_wait_for_user(&self) -> bool {
        !self.waited_for_user.swap(true, Ordering::Relaxed)
    }

    /// A build that was given the chance of a slot doesn't need it: another one may take it.
    pub(super) fn pass_on(&self) {
        self.queue.push(Event::SlotFreed);
    }

    /// Whether there are no slots at all.
    pub(super) fn none_allowed(&self) -> bool {
        self.max == 0
    }
}

/// A slot in use; released on drop.
pub(super) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        // With the lock held, so that a slot is in use until the event is there.
        let mut used = self.0.used.lock();
        *used -= 1;
        self.0.queue.push(Event::SlotFreed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_and_freed() {
        let queue = Arc::new(EventQueue::default());
        let slots = Slots::new(1, queue.clone());
        let slot = slots.take(false).expect("a slot");
        assert!(slots.take(true).is_none() && !slots.is_free());
        drop(slot);
        assert!(matches!(queue.poll(), Some(Event::SlotFreed)));
        assert!(slots.is_free());
    }

    #[test]
    fn without_slots_one_local_thing_may_run() {
        let slots = Slots::new(0, Arc::default());
        assert!(slots.none_allowed() && slots.take(false).is_none());
        let slot = slots.take(true);
        assert!(slot.is_some() && slots.take(true).is_none());
    }
}
