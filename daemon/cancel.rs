//! Cancelling what a client asked for, when the client goes or the daemon ends.

use std::fmt;
use std::sync::Arc;

use system::sync::{Mutex, MutexGuard};

type Callback = Box<dyn Fn() + Send>;

#[derive(Default)]
struct CancelState {
    cancelled: bool,
    next: u64,
    callbacks: Vec<(u64, Callback)>,
}

/// A cancellation token: cancelled once, by any thread, after which it calls back everybody who
/// waits for that. Clones share the state.
#[derive(Clone, Default)]
pub struct CancellationToken(Arc<Mutex<CancelState>>);

impl CancellationToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels the token and runs the callbacks. Further calls do nothing.
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

    /// Calls `callback` once, when the token is cancelled (now, if it already is), unless the
    /// returned guard is dropped before.
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
