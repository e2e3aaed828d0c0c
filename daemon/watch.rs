//! Noticing that a client has gone while the daemon works for it.
//!
//! One thread watches the connections of all operations that may take long. The kernel says when
//! the other end is closed ([`EPOLLRDHUP`](EpollFlags::EPOLLRDHUP)), also when nobody reads from
//! the connection; the operation's [`Cancel`] is thrown then.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::building::Cancel;
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
    cancels: HashMap<u64, Cancel>,
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

    /// Throws `cancel` if the other end of `stream` is closed while the guard lives.
    pub fn watch(&self, stream: Arc<Stream>, cancel: &Cancel) -> io::Result<Watch> {
        let token = {
            let mut watched = self.0.watched();
            watched.next += 1;
            let token = watched.next;
            watched.cancels.insert(token, cancel.clone());
            token
        };
        let watch = Watch {
            shared: self.0.clone(),
            stream,
            token,
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
                        let gone = self.watched().cancels.remove(&event.data());
                        if let Some(cancel) = gone {
                            tracing::debug!("a client has gone while it was being served");
                            cancel.cancel();
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

/// A connection that is watched until this is dropped.
#[must_use = "the connection is watched for as long as this lives"]
pub struct Watch {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    token: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.watched().cancels.remove(&self.token);
        // Fails if adding failed.
        let _ = self.shared.epoll.delete(self.stream.as_fd());
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
        let stream = Arc::new(Stream::Unix(ours));
        let cancel = Cancel::new();
        let watch = watcher.watch(stream.clone(), &cancel).unwrap();
        theirs.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(!cancel.is_cancelled());
        drop(watch);
        let watch = watcher.watch(stream, &cancel).unwrap();
        drop(theirs);
        assert!(eventually(|| cancel.is_cancelled()));
        drop(watch);
    }

    #[test]
    fn nothing_is_thrown_after_the_watch() {
        let watcher = Watcher::start().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let cancel = Cancel::new();
        drop(
            watcher
                .watch(Arc::new(Stream::Unix(ours)), &cancel)
                .unwrap(),
        );
        drop(theirs);
        thread::sleep(Duration::from_millis(50));
        assert!(!cancel.is_cancelled());
        assert!(watcher.0.watched().cancels.is_empty());
    }
}
