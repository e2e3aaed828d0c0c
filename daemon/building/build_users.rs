//! The queue of builds that wait for a build user.
//!
//! Each build has a build user of its own (`sandbox::BuildUser`). If all are in use, builds wait
//! for one: those of all clients in one queue for each group, first come, first served. When this
//! daemon frees a build user, the queue is notified. There is no notification when another daemon
//! frees one, so the first build in the queue also polls.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::sync::Mutex;

use super::event_count::EventCount;
use super::sandbox::{BuildUser, BuildUserError};
use crate::cancel::CancellationToken;

/// How often the first in the queue checks whether another daemon has freed a build user.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The daemon's builds that wait for a build user.
#[derive(Default)]
pub(super) struct BuildUsers {
    queue: Mutex<Queue>,
    /// Notified when a build user is free, when the queue moves, and when a build is cancelled.
    changed: Arc<EventCount>,
}

#[derive(Default)]
struct Queue {
    next: u64,
    /// The tickets of the waiting builds, each with the group that it needs a member of.
    waiting: Vec<(u64, String)>,
}

/// A build user assigned to a build; on drop, the next build in the queue is notified.
pub(super) struct AcquiredUser {
    // Dropped in this order.
    user: BuildUser,
    _freed: NotifyWhenDropped,
}

impl Deref for AcquiredUser {
    type Target = BuildUser;

    fn deref(&self) -> &BuildUser {
        &self.user
    }
}

struct NotifyWhenDropped(Arc<EventCount>);

impl Drop for NotifyWhenDropped {
    fn drop(&mut self) {
        self.0.notify();
    }
}

/// A place in the queue, which is left on drop.
struct Ticket<'a> {
    users: &'a BuildUsers,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queue = self.users.queue.lock();
        queue.waiting.retain(|(number, _)| *number != self.number);
        drop(queue);
        self.users.changed.notify();
    }
}

impl Ticket<'_> {
    fn is_first(&self, group: &str) -> bool {
        let queue = self.users.queue.lock();
        let first = queue.waiting.iter().find(|(_, other)| other == group);
        first.is_some_and(|(number, _)| *number == self.number)
    }
}

impl BuildUsers {
    /// Waits for a build user of `group`; `try_acquire` takes one if one is free. `None` if the
    /// build is cancelled. `on_wait` is called once if none is free at first.
    pub(super) fn acquire(
        &self,
        group: &str,
        cancel: &CancellationToken,
        try_acquire: impl Fn() -> Result<BuildUser, BuildUserError>,
        on_wait: impl FnOnce(),
    ) -> Result<Option<AcquiredUser>, BuildUserError> {
        let user = self.wait_for(group, cancel, on_wait, || match try_acquire() {
            Err(BuildUserError::AllInUse(_) | BuildUserError::AllIdsInUse) => Ok(None),
            acquired => acquired.map(Some),
        })?;
        Ok(user.map(|user| AcquiredUser {
            user,
            _freed: NotifyWhenDropped(self.changed.clone()),
        }))
    }

    /// Waits until it is this caller's turn and `take` returns a value, or until cancellation.
    fn wait_for<T, E>(
        &self,
        group: &str,
        cancel: &CancellationToken,
        on_wait: impl FnOnce(),
        take: impl Fn() -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        let ticket = self.enter(group);
        let changed = self.changed.clone();
        let _guard = cancel.on_cancel(move || changed.notify());
        let mut on_wait = Some(on_wait);
        loop {
            let key = self.changed.key();
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let is_first = ticket.is_first(group);
            if is_first && let Some(taken) = take()? {
                return Ok(Some(taken));
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            let next_look = is_first.then(|| Instant::now() + POLL_INTERVAL);
            self.changed.wait(key, next_look);
        }
    }

    fn enter(&self, group: &str) -> Ticket<'_> {
        let mut queue = self.queue.lock();
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push((number, group.to_owned()));
        Ticket {
            users: self,
            number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// Waits on a new thread for one of `free`, and adds itself to `order` when it has it.
    fn wait(
        users: &Arc<BuildUsers>,
        (group, name): (&'static str, u32),
        free: &Arc<Mutex<u32>>,
        order: &Arc<Mutex<Vec<u32>>>,
    ) -> std::thread::JoinHandle<()> {
        let (shared, free, order) = (users.clone(), free.clone(), order.clone());
        let before = users.queue.lock().waiting.len();
        let thread = std::thread::spawn(move || {
            let take = || -> Result<Option<()>, Infallible> {
                let mut free = free.lock();
                if *free == 0 {
                    return Ok(None);
                }
                *free -= 1;
                order.lock().push(name);
                Ok(Some(()))
            };
            let taken = shared.wait_for(group, &CancellationToken::new(), || (), take);
            assert!(matches!(taken, Ok(Some(()))));
        });
        while users.queue.lock().waiting.len() == before {
            std::thread::yield_now();
        }
        thread
    }

    #[test]
    fn first_come_first_served() {
        let users = Arc::new(BuildUsers::default());
        let (free, order) = (Arc::default(), Arc::default());
        let threads: Vec<_> = (0..5)
            .map(|name| wait(&users, ("group", name), &free, &order))
            .collect();
        for _ in 0..5 {
            *free.lock() += 1;
            users.changed.notify();
        }
        for thread in threads {
            thread.join().expect("a waiting thread");
        }
        assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_queue_of_one_group_does_not_hold_up_another() {
        let users = Arc::new(BuildUsers::default());
        let (none, one): (Arc<Mutex<u32>>, _) = (Arc::default(), Arc::new(Mutex::new(1)));
        let order = Arc::default();
        let first = wait(&users, ("full", 1), &none, &order);
        let free = |users: &BuildUsers| {
            let take = || -> Result<Option<u32>, Infallible> { Ok(Some(*one.lock())) };
            users.wait_for("free", &CancellationToken::new(), || (), take)
        };
        assert!(matches!(free(&users), Ok(Some(1))));
        *none.lock() = 1;
        users.changed.notify();
        first.join().expect("the waiting thread");
    }

    #[test]
    fn a_cancelled_build_leaves_the_queue() {
        let users = BuildUsers::default();
        let cancel = CancellationToken::new();
        let mut said = 0;
        let take = || -> Result<Option<()>, Infallible> { Ok(None) };
        let taken = std::thread::scope(|scope| {
            let cancel = &cancel;
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                cancel.cancel();
            });
            users.wait_for("group", cancel, || said += 1, take)
        });
        assert!(matches!(taken, Ok(None)));
        assert_eq!(said, 1);
        assert!(users.queue.lock().waiting.is_empty());
    }
}
