//! Requests of one user of the network, and their events.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use system::poll::wait_readable;
use system::wakeup::Wakeup;

use super::dispatch::Shared;
use super::error::{ErrorKind, NetworkError};
use super::event::Event;
use super::limits::{BODY_LIMIT, FILES_LIMIT, SOURCES_LIMIT, URL_LIMIT};
use super::mailbox::{Mailbox, Wanted};
use super::program::Network;
use super::request::{Fetch, RequestId, Source};

/// Requests whose events one thread waits for.
///
/// Making a request never blocks. Any number can be made at once: they wait here until the program
/// has capacity, which users share, and the exchanges of each user. Dropping the exchange cancels whatever
/// it has asked for, and closes the pipes.
///
/// ```no_run
/// use substitutes::network::{Event, Exchange, Network};
///
/// # fn try_it(network: &Network) -> std::io::Result<()> {
/// let mut exchange = Exchange::new(network)?;
/// let request = exchange.get("http://localhost:8181/nix-cache-info", 4096);
/// while let Some((id, event)) = exchange.wait(None)? {
///     assert_eq!(id, request);
///     match event {
///         Event::Response { status, body, .. } => println!("{status}: {} bytes", body.len()),
///         Event::Failed(error) => println!("{error}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Exchange {
    shared: Arc<Shared>,
    number: u64,
    ready: Arc<Wakeup>,
}

impl Exchange {
    /// An exchange without requests. It fails only if the process has no descriptors or threads left;
    /// a program that can't be started makes requests fail, not this.
    pub fn new(network: &Network) -> io::Result<Exchange> {
        let shared = network.shared()?;
        let mailbox = Mailbox::new(network.user())?;
        let ready = mailbox.ready();
        let number = shared.add(mailbox);
        Ok(Exchange {
            shared,
            number,
            ready,
        })
    }

    /// Sets how long a server may take to answer a [`Exchange::get`], and how long it may be silent (or
    /// send less than 100 bytes in a second) while it delivers contents; at most
    /// [`PATIENCE_LIMIT`](super::PATIENCE_LIMIT). A minute unless this is called. It holds for
    /// requests that the program doesn't have yet. Connecting may take five seconds, whatever is
    /// set here.
    pub fn set_patience(&mut self, patience: Duration) {
        self.shared.set_patience(self.number, patience);
    }

    /// Asks for a small file of at most `limit` bytes, which must not be more than
    /// [`BODY_LIMIT`]. One event follows, [`Event::Response`] or [`Event::Failed`], and before it
    /// perhaps some of [`Event::Busy`]. A longer body is [`ErrorKind::TooLarge`].
    ///
    /// Redirections to `http` and `https` are followed, ten at most.
    pub fn get(&mut self, url: &str, limit: u64) -> RequestId {
        let refused = |text: &str| Err(NetworkError::new(ErrorKind::Refused, text));
        let wanted = if url.len() > URL_LIMIT {
            refused("the URL is too long")
        } else if limit > BODY_LIMIT {
            refused("the limit is too large")
        } else {
            Ok(Wanted::Get {
                url: url.to_owned(),
                limit,
            })
        };
        self.shared.request(self.number, wanted)
    }

    /// Asks for contents to be written, decompressed, to `body`: a pipe's write end, or a socket.
    /// (To a regular file nothing can be written: the program isn't allowed to.)
    ///
    /// Events are [`Event::Started`], [`Event::Progress`] and [`Event::SourceFailed`], and at last
    /// [`Event::Finished`] or [`Event::Failed`]. The program stops reading from the network while
    /// the pipe is full. The pipe is closed once the request has ended in any way, but its end does not
    /// mean success: wait for the event.
    pub fn fetch(&mut self, fetch: Fetch, body: OwnedFd) -> RequestId {
        let refused = |text: &str| Err(NetworkError::new(ErrorKind::Refused, text));
        let is_file = |source: &&Source| matches!(source, Source::File { .. });
        let is_long = |source: &Source| match source {
            Source::Url { url, .. } => url.len() > URL_LIMIT,
            Source::File { .. } => false,
        };
        let wanted = if fetch.sources.is_empty() {
            refused("there is no source")
        } else if fetch.sources.len() > SOURCES_LIMIT
            || fetch.sources.iter().filter(is_file).count() > FILES_LIMIT
        {
            refused("there are too many sources")
        } else if fetch.sources.iter().any(is_long) {
            refused("the URL is too long")
        } else {
            Ok(Wanted::Fetch { fetch, body })
        };
        self.shared.request(self.number, wanted)
    }

    /// Gives up a request: no event of it follows, not even one that is already there. The pipe of a
    /// [`Exchange::fetch`] is closed soon. Does nothing if the request has ended.
    pub fn cancel(&mut self, request: RequestId) {
        self.cancel_each(&HashSet::from([request]));
    }

    /// The same for several requests.
    pub fn cancel_each(&mut self, requests: &HashSet<RequestId>) {
        self.shared.cancel(self.number, requests);
    }

    /// The next event, if there is one already.
    pub fn next_event(&mut self) -> Option<(RequestId, Event)> {
        self.shared.take_event(self.number)
    }

    /// The number of requests that have not ended; those whose last event wasn't taken are among them.
    pub fn pending(&self) -> usize {
        self.shared.pending(self.number)
    }

    /// Waits for the next event; `None` if nothing comes within `timeout` (if there is one), or if
    /// there is nothing to wait for, because every request has ended.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Option<(RequestId, Event)>> {
        loop {
            if let Some(event) = self.next_event() {
                return Ok(Some(event));
            }
            if self.pending() == 0 || !wait_readable(self.as_fd(), timeout)? {
                return Ok(None);
            }
        }
    }
}

/// The descriptor is readable when [`Exchange::next_event`] has something to give. It is for
/// waiting only: neither read it nor write to it.
impl AsFd for Exchange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.remove(self.number);
    }
}
