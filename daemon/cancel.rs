//! Cancelling a client's operation when the client disconnects or the daemon shuts down.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use system::sync::{Mutex, MutexGuard};
use system::wakeup::Wakeup;

type Callback = Box<dyn Fn() + Send>;

#[derive(Default)]
struct CancelState {
    cancelled: bool,
    next: u64,
    callbacks: Vec<(u64, Callback)>,
}

/// A cancellation token: cancelled once, by any thread, and then calls all registered callbacks.
/// Clones share the state.
#[derive(Clone, Default)]
pub struct CancellationToken(Arc<Mutex<CancelState>>);

impl CancellationToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels the token and runs the callbacks. Later calls do nothing.
    pub fn cancel(&self) {
        let callbacks = {
            let mut state = self.state();
            state.cancelled = true;
            std::mem::take(&mut state.callbacks)
        };
        for (_, callback) in callbacks {
            callback();
        }
    }

    /// Whether the token has been cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    /// Calls `callback` once, when the token is cancelled (immediately, if it already is), unless
    /// the returned guard is dropped before.
    pub fn on_cancel(&self, callback: impl Fn() + Send + 'static) -> CancelGuard {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        if state.cancelled {
            drop(state);
            callback();
        } else {
            state.callbacks.push((id, Box::new(callback)));
        }
        CancelGuard {
            cancel: self.clone(),
            id,
        }
    }

    fn state(&self) -> MutexGuard<'_, CancelState> {
        self.0.lock()
    }
}

impl fmt::Debug for CancellationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancellationToken")
            .field(&self.is_cancelled())
            .finish()
    }
}

/// Keeps a callback of a [`CancellationToken`] registered.
#[must_use = "the callback is removed when the guard is dropped"]
pub struct CancelGuard {
    cancel: CancellationToken,
    id: u64,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.cancel
            .state()
            .callbacks
            .retain(|(id, _)| *id != self.id);
    }
}

/// A descriptor that becomes readable when a token is cancelled, for `poll`.
pub struct CancelEvent {
    event: Arc<Wakeup>,
    _guard: CancelGuard,
}

impl CancelEvent {
    /// An event for `token`, which may already be cancelled.
    pub fn new(token: &CancellationToken) -> io::Result<CancelEvent> {
        let event = Arc::new(Wakeup::new()?);
        let woken = event.clone();
        let guard = token.on_cancel(move || woken.wake());
        Ok(CancelEvent {
            event,
            _guard: guard,
        })
    }
}

impl AsFd for CancelEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn callbacks_run_once_unless_their_guard_is_gone() {
        let token = CancellationToken::new();
        let calls = Arc::new(AtomicU32::new(0));
        let count = |calls: &Arc<AtomicU32>| {
            let calls = calls.clone();
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        let _kept = token.on_cancel(count(&calls));
        drop(token.on_cancel(count(&calls)));
        let event = CancelEvent::new(&token).unwrap();
        let readable = |event: &CancelEvent| {
            system::poll::wait_readable(event.as_fd(), Some(std::time::Duration::ZERO)).unwrap()
        };
        assert!(!token.is_cancelled() && !readable(&event));
        token.clone().cancel();
        token.cancel();
        assert!(token.is_cancelled() && readable(&event));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let _late = token.on_cancel(count(&calls));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
