//! Noticing that a client has gone while the daemon works for it.
//!
//! One thread watches the connections of all clients that have asked for something that may take
//! long. The kernel says when the other end is closed ([`EPOLLRDHUP`](EpollFlags::EPOLLRDHUP)),
//! also when nobody reads from the connection; during such an operation, the client's [`CancellationToken`]
//! is thrown then.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::cancel::CancellationToken;
use crate::listen::Stream;

/// Watches connections. Clones share the thread.
#[derive(Clone)]
pub struct Watcher(Arc<Shared>);

struct Shared {
    epoll: Epoll,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    next: u64,
    clients: HashMap<u64, Arc<Client>>,
}

/// What is known of one client.
struct Client {
    cancel: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether something is being done for the client.
    served: bool,
    gone: bool,
}

impl Client {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if state.served && state.gone {
            self.cancel.cancel();
        }
    }
}

impl Shared {
    fn watched(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// Starts the thread, which lives as long as the process.
    pub fn start() -> io::Result<Watcher> {
        let shared = Arc::new(Shared {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            watched: Mutex::default(),
        });
        let watching = shared.clone();
        thread::Builder::new()
            .name("watch".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                watching.watch();
            })?;
        Ok(Watcher(shared))
    }

    /// Watches `stream`, whose client's work is interrupted by `cancel`, until the result is
    /// dropped.
    pub fn watch(&self, stream: Arc<Stream>, cancel: &CancellationToken) -> io::Result<Watch> {
        let client = Arc::new(Client {
            cancel: cancel.clone(),
            state: Mutex::default(),
        });
        let token = {
            let mut watched = self.0.watched();
            watched.next += 1;
            let token = watched.next;
            watched.clients.insert(token, client.clone());
            token
        };
        let watch = Watch {
            shared: self.0.clone(),
            stream,
            token,
            client,
        };
        let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT;
        self.0
            .epoll
            .add(watch.stream.as_fd(), EpollEvent::new(flags, token))?;
        Ok(watch)
    }
}

impl Shared {
    fn watch(&self) {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => {
                    for event in &events[..count] {
                        let client = self.watched().clients.remove(&event.data());
                        if let Some(client) = client {
                            tracing::debug!("a client has gone");
                            client.change(|state| state.gone = true);
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    // Without it, clients that go are noticed when they are written to.
                    tracing::error!("cannot watch connections: {error}");
                    return;
                }
            }
        }
    }
}

/// A connection that is watched until this is dropped. Costs system calls at its beginning and
/// end only, not for each operation.
#[must_use = "the connection is watched for as long as this lives"]
pub struct Watch {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    token: u64,
    client: Arc<Client>,
}

impl Watch {
    /// While the result lives, the client's work is cancelled if the client goes, or has gone.
    pub fn serve(&self) -> Serving {
        self.client.change(|state| state.served = true);
        Serving(self.client.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.watched().clients.remove(&self.token);
        // Fails if adding failed.
        let _ = self.shared.epoll.delete(self.stream.as_fd());
    }
}

/// Something is being done for a client.
#[must_use = "that the client goes is of importance for as long as this lives"]
pub struct Serving(Arc<Client>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.change(|state| state.served = false);
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
    fn a_client_that_goes_is_noticed_and_data_is_not() {
        let watcher = Watcher::start().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let cancel = CancellationToken::new();
        let watch = watcher
            .watch(Arc::new(Stream::Unix(ours)), &cancel)
            .unwrap();
        let serving = watch.serve();
        theirs.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(!cancel.is_cancelled());
        drop(serving);
        let serving = watch.serve();
        drop(theirs);
        assert!(eventually(|| cancel.is_cancelled()));
        drop(serving);
    }

    #[test]
    fn nothing_is_thrown_unless_something_is_done_for_the_client() {
        let watcher = Watcher::start().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let cancel = CancellationToken::new();
        let watch = watcher
            .watch(Arc::new(Stream::Unix(ours)), &cancel)
            .unwrap();
        drop(watch.serve());
        drop(theirs);
        assert!(eventually(|| watcher.0.watched().clients.is_empty()));
        thread::sleep(Duration::from_millis(50));
        assert!(!cancel.is_cancelled());
        // It counts as soon as something is to be done.
        let _serving = watch.serve();
        assert!(eventually(|| cancel.is_cancelled()));
    }

    #[test]
    fn nothing_is_watched_afterwards() {
        let watcher = Watcher::start().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let cancel = CancellationToken::new();
        let watch = watcher
            .watch(Arc::new(Stream::Unix(ours)), &cancel)
            .unwrap();
        drop(watch);
        drop(theirs);
        assert!(watcher.0.watched().clients.is_empty());
        assert!(!cancel.is_cancelled());
    }
}
