//! A counting semaphore with cancellable waits.

use std::sync::Arc;
use system::sync::{Condvar, Mutex, MutexGuard};

use crate::cancel::CancellationToken;

/// A number of permits.
pub(super) struct Semaphore {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Semaphore {
    /// A semaphore with `permits` free permits.
    pub(super) fn new(permits: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore {
            free: Mutex::new(permits),
            changed: Condvar::new(),
        })
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock()
    }

    /// Waits for a free permit and takes it; `None` if `cancel` is cancelled before.
    pub(super) fn acquire(self: &Arc<Self>, cancel: &CancellationToken) -> Option<Permit> {
        let semaphore = self.clone();
        let _guard = cancel.on_cancel(move || {
            // With the lock held, so that no thread is between checking the token and sleeping.
            let _free = semaphore.free();
            semaphore.changed.notify_all();
        });
        let mut free = self.free();
        while *free == 0 {
            if cancel.is_cancelled() {
                return None;
            }
            free = self.changed.wait(free);
        }
        *free -= 1;
        drop(free);
        Some(Permit(self.clone()))
    }
}

/// A permit in use; released on drop.
pub(super) struct Permit(Arc<Semaphore>);

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.free() += 1;
        // Not only one: that one may have just been cancelled.
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
        let first = semaphore.acquire(&token);
        assert!(first.is_some());
        let (sender, receiver) = channel();
        let waiting = |token: CancellationToken| {
            let (semaphore, sender) = (semaphore.clone(), sender.clone());
            std::thread::spawn(move || sender.send(semaphore.acquire(&token).is_some()))
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
}
