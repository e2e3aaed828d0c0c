//! Detecting that a client disconnects during an operation.
//!
//! One thread watches the connections of all clients that have requested an operation that may take
//! long. The kernel reports that the peer has closed the connection
//! ([`EPOLLRDHUP`](EpollFlags::EPOLLRDHUP)) even when nobody reads from it; during such an
//! operation, this cancels the client's [`CancellationToken`].

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use system::sync::{Mutex, MutexGuard};

use crate::cancel::CancellationToken;
use crate::stream::Stream;

/// Watches connections. Clones share the thread.
#[derive(Clone)]
pub struct HangupWatcher(Arc<Inner>);

struct Inner {
    epoll: Epoll,
    next_token: AtomicU64,
    /// The clients that are still connected, by their token in epoll.
    clients: Mutex<HashMap<u64, Arc<Client>>>,
}

struct Client {
    cancel: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether an operation is running that should be cancelled when the client disconnects.
    operation_runs: bool,
    hung_up: bool,
}

impl Client {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        if state.operation_runs && state.hung_up {
            self.cancel.cancel();
        }
    }
}

impl HangupWatcher {
    /// Starts the thread, which lives as long as the process.
    pub fn start() -> io::Result<HangupWatcher> {
        let inner = Arc::new(Inner {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            next_token: AtomicU64::default(),
            clients: Mutex::default(),
        });
        let watching = inner.clone();
        thread::Builder::new()
            .name("watch".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                watching.watch();
            })?;
        Ok(HangupWatcher(inner))
    }

    /// Watches `stream` until the result is dropped; `cancel` cancels the client's operations.
    pub fn watch(
        &self,
        stream: Arc<Stream>,
        cancel: &CancellationToken,
    ) -> io::Result<WatchedConnection> {
        let client = Arc::new(Client {
            cancel: cancel.clone(),
            state: Mutex::default(),
        });
        let token = self.0.next_token.fetch_add(1, Ordering::Relaxed);
        self.0.clients().insert(token, client.clone());
        let connection = WatchedConnection {
            watcher: self.0.clone(),
            stream,
            token,
            client,
        };
        let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT;
        self.0
            .epoll
            .add(connection.stream.as_fd(), EpollEvent::new(flags, token))?;
        Ok(connection)
    }
}

impl Inner {
    fn clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<Client>>> {
        self.clients.lock()
    }

    fn watch(&self) {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => {
                    for event in &events[..count] {
                        let client = self.clients().remove(&event.data());
                        if let Some(client) = client {
                            tracing::debug!("a client has hung up");
                            client.change(|state| state.hung_up = true);
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    // From now on, a disconnect is only noticed when the client is written to.
                    tracing::error!("cannot watch connections: {error}");
                    return;
                }
            }
        }
    }
}

/// A connection that is watched until this is dropped. It costs system calls only when it is
/// created and dropped, not for each operation.
#[must_use = "the connection is watched for as long as this lives"]
pub struct WatchedConnection {
    watcher: Arc<Inner>,
    stream: Arc<Stream>,
    token: u64,
    client: Arc<Client>,
}

impl WatchedConnection {
    /// Until the result is dropped, the client's [`CancellationToken`] is cancelled if the client
    /// disconnects, or already has.
    pub fn cancel_on_hangup(&self) -> CancelOnHangup {
        self.client.change(|state| state.operation_runs = true);
        CancelOnHangup(self.client.clone())
    }
}

impl Drop for WatchedConnection {
    fn drop(&mut self) {
        self.watcher.clients().remove(&self.token);
        // This fails if adding the connection failed.
        let _ = self.watcher.epoll.delete(self.stream.as_fd());
    }
}

/// An operation that is cancelled when the client disconnects.
#[must_use = "a hang-up is ignored once this is dropped"]
pub struct CancelOnHangup(Arc<Client>);

impl Drop for CancelOnHangup {
    fn drop(&mut self) {
        self.0.change(|state| state.operation_runs = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    fn eventually(condition: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if condition() {
                return true;
            }
            thread::sleep(Duration::from_millis(2));
        }
        false
    }

    #[test]
    fn a_hangup_cancels_and_data_does_not() {
        let watcher = HangupWatcher::start().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let cancel = CancellationToken::new();
        let connection = watcher
            .watch(Arc::new(Stream::Unix(ours)), &cancel)
            .unwrap();
        let guard = connection.cancel_on_hangup();
        theirs.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(!cancel.is_cancelled());
        drop(guard);
        let guard = connection.cancel_on_hangup();
        drop(theirs);
        assert!(eventually(|| cancel.is_cancelled()));
        drop(guard);
    }

    #[test]
    fn a_hangup_between_operations_cancels_the_next_one() {
        let watcher = HangupWatcher::start().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let cancel = CancellationToken::new();
        let connection = watcher
            .watch(Arc::new(Stream::Unix(ours)), &cancel)
            .unwrap();
        drop(connection.cancel_on_hangup());
        drop(theirs);
        assert!(eventually(|| watcher.0.clients().is_empty()));
        thread::sleep(Duration::from_millis(50));
        assert!(!cancel.is_cancelled());
        // It takes effect as soon as an operation begins.
        let _guard = connection.cancel_on_hangup();
        assert!(eventually(|| cancel.is_cancelled()));
    }

    #[test]
    fn a_dropped_connection_is_not_watched() {
        let watcher = HangupWatcher::start().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let cancel = CancellationToken::new();
        let connection = watcher
            .watch(Arc::new(Stream::Unix(ours)), &cancel)
            .unwrap();
        drop(connection);
        drop(theirs);
        assert!(watcher.0.clients().is_empty());
        assert!(!cancel.is_cancelled());
    }
}
