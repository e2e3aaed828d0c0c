//! The queue of builds that wait for a build user.
//!
//! Each build has a build user of its own (`sandbox::BuildUser`). If all are in use, builds wait
//! for one, in a queue for each group: the client with the fewest build users comes first, and of
//! each client's builds, and of such clients, whichever came first. So who wants a single build
//! waits for the next build user that is free, however many builds others have asked for. When this
//! daemon frees a build user, the queue is notified. There is no notification when another daemon
//! frees one, so the first build in the queue also polls.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::sync::Mutex;

use super::event_count::EventCount;
use super::sandbox::{BuildUser, BuildUserError};
use crate::cancel::CancellationToken;
use crate::shared_limit::ClientKey;

/// How often the first in the queue checks whether another daemon has freed a build user.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The daemon's builds that wait for a build user.
#[derive(Default)]
pub(super) struct BuildUsers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Notified when a build user is free, when the queue moves, and when a build is cancelled.
    changed: Arc<EventCount>,
}

#[derive(Default)]
struct Queue {
    next: u64,
    waiting: Vec<Waiting>,
    /// How many build users each client has, of all groups.
    taken: HashMap<ClientKey, usize>,
}

/// A build that waits.
struct Waiting {
    number: u64,
    /// The group that it needs a member of.
    group: String,
    client: ClientKey,
}

impl Queue {
    /// The ticket of the build that gets the next member of the group.
    fn first(&self, group: &str) -> Option<u64> {
        let waiting = self.waiting.iter().filter(|build| build.group == group);
        let taken = |client| self.taken.get(client).copied().unwrap_or_default();
        waiting
            .min_by_key(|build| (taken(&build.client), build.number))
            .map(|build| build.number)
    }
}

/// A build user assigned to a build; on drop, the next build in the queue is notified.
pub(super) struct AcquiredUser {
    // Dropped in this order.
    user: BuildUser,
    _freed: Taken,
}

impl Deref for AcquiredUser {
    type Target = BuildUser;

    fn deref(&self) -> &BuildUser {
        &self.user
    }
}

/// A client's claim to a build user; on drop, the next build in the queue is notified.
struct Taken {
    users: Arc<Shared>,
    client: ClientKey,
}

impl Taken {
    fn new(users: &Arc<Shared>, client: ClientKey) -> Taken {
        *users.queue.lock().taken.entry(client).or_default() += 1;
        Taken {
            users: users.clone(),
            client,
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut queue = self.users.queue.lock();
        if let Some(taken) = queue.taken.get_mut(&self.client) {
            *taken -= 1;
            if *taken == 0 {
                queue.taken.remove(&self.client);
            }
        }
        drop(queue);
        self.users.changed.notify();
    }
}

/// A place in the queue, which is left on drop.
struct Ticket<'a> {
    users: &'a Shared,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queue = self.users.queue.lock();
        queue.waiting.retain(|build| build.number != self.number);
        drop(queue);
        self.users.changed.notify();
    }
}

impl Ticket<'_> {
    fn is_first(&self, group: &str) -> bool {
        self.users.queue.lock().first(group) == Some(self.number)
    }
}

impl BuildUsers {
    /// Waits for a build user of `group` for a build of `client`; `try_acquire` takes one if one is
    /// free. `None` if the build is cancelled. `on_wait` is called once if none is free at first.
    pub(super) fn acquire(
        &self,
        group: &str,
        client: ClientKey,
        cancel: &CancellationToken,
        try_acquire: impl Fn() -> Result<BuildUser, BuildUserError>,
        on_wait: impl FnOnce(),
    ) -> Result<Option<AcquiredUser>, BuildUserError> {
        let taken = self.wait_for(group, client, cancel, on_wait, || match try_acquire() {
            Err(BuildUserError::AllInUse(_) | BuildUserError::AllIdsInUse) => Ok(None),
            acquired => acquired.map(Some),
        })?;
        Ok(taken.map(|(user, freed)| AcquiredUser {
            user,
            _freed: freed,
        }))
    }

    /// Waits until it is this caller's turn and `take` returns a value, or until cancellation.
    fn wait_for<T, E>(
        &self,
        group: &str,
        client: ClientKey,
        cancel: &CancellationToken,
        on_wait: impl FnOnce(),
        take: impl Fn() -> Result<Option<T>, E>,
    ) -> Result<Option<(T, Taken)>, E> {
        let ticket = self.enter(group, client);
        let changed = self.0.changed.clone();
        let _guard = cancel.on_cancel(move || changed.notify());
        let changed = &self.0.changed;
        let mut on_wait = Some(on_wait);
        loop {
            let key = changed.key();
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let is_first = ticket.is_first(group);
            if is_first {
                if let Some(taken) = take()? {
                    // Counted before the next in the queue is determined.
                    return Ok(Some((taken, Taken::new(&self.0, client))));
                }
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            let next_look = is_first.then(|| Instant::now() + POLL_INTERVAL);
            changed.wait(key, next_look);
        }
    }

    fn enter(&self, group: &str, client: ClientKey) -> Ticket<'_> {
        let mut queue = self.0.queue.lock();
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push(Waiting {
            number,
            group: group.to_owned(),
            client,
        });
        Ticket {
            users: &self.0,
            number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const ALICE: ClientKey = ClientKey::User(1);
    const BOB: ClientKey = ClientKey::User(2);

    /// Builds that wait for one of some build users, on threads of their own.
    #[derive(Default)]
    struct Builds {
        users: BuildUsers,
        free: Mutex<u32>,
        /// The names of the builds that have one, in order.
        order: Mutex<Vec<u32>>,
        /// What keeps their build users taken.
        running: Mutex<Vec<Taken>>,
    }

    impl Builds {
        /// Waits, and returns when the build is in the queue.
        fn start(
            self: &Arc<Self>,
            group: &'static str,
            client: ClientKey,
            name: u32,
        ) -> std::thread::JoinHandle<()> {
            let before = self.users.0.queue.lock().waiting.len();
            let builds = self.clone();
            let thread = std::thread::spawn(move || {
                let take = || -> Result<Option<()>, Infallible> {
                    let mut free = builds.free.lock();
                    if *free == 0 {
                        return Ok(None);
                    }
                    *free -= 1;
                    builds.order.lock().push(name);
                    Ok(Some(()))
                };
                let cancel = CancellationToken::new();
                let taken = builds.users.wait_for(group, client, &cancel, || (), take);
                let Ok(Some(((), taken))) = taken else {
                    panic!("no build user for {name}");
                };
                builds.running.lock().push(taken);
            });
            while self.users.0.queue.lock().waiting.len() == before {
                std::thread::yield_now();
            }
            thread
        }

        fn free_one(&self) {
            *self.free.lock() += 1;
            self.users.0.changed.notify();
        }

        /// Waits until so many builds have had a build user.
        fn wait_for(&self, count: usize) {
            while self.running.lock().len() < count {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn first_come_first_served() {
        let builds = Arc::new(Builds::default());
        let threads: Vec<_> = (0..5)
            .map(|name| builds.start("group", ALICE, name))
            .collect();
        for _ in 0..5 {
            builds.free_one();
        }
        for thread in threads {
            thread.join().expect("a waiting thread");
        }
        assert_eq!(*builds.order.lock(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn who_has_fewer_build_users_comes_first() {
        let builds = Arc::new(Builds::default());
        let mut threads: Vec<_> = (0..4)
            .map(|name| builds.start("group", ALICE, name))
            .collect();
        builds.free_one();
        builds.wait_for(1);
        threads.extend([10, 11].map(|name| builds.start("group", BOB, name)));
        for count in 2..=6 {
            builds.free_one();
            builds.wait_for(count);
        }
        for thread in threads {
            thread.join().expect("a waiting thread");
        }
        assert_eq!(*builds.order.lock(), [0, 10, 1, 11, 2, 3]);
        builds.running.lock().clear();
        assert!(builds.users.0.queue.lock().taken.is_empty());
    }

    #[test]
    fn the_queue_of_one_group_does_not_hold_up_another() {
        let builds = Arc::new(Builds::default());
        let first = builds.start("full", ALICE, 1);
        let take = || -> Result<Option<u32>, Infallible> { Ok(Some(1)) };
        let cancel = CancellationToken::new();
        let taken = (builds.users).wait_for("free", ALICE, &cancel, || (), take);
        assert!(matches!(taken, Ok(Some((1, _)))));
        builds.free_one();
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
            users.wait_for("group", ALICE, cancel, || said += 1, take)
        });
        assert!(matches!(taken, Ok(None)));
        assert_eq!(said, 1);
        assert!(users.0.queue.lock().waiting.is_empty());
    }
}
