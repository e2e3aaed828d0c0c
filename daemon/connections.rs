//! The connected clients, and whether another one is admitted.
//!
//! An [`Admission`] is a client's place, a [`Share`] of all that there may be. If the client does
//! not complete its part of the handshake in time, its connection is shut down.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::sync::{Condvar, Mutex};

use crate::cancel::CancellationToken;
use crate::shared_limit::{LimitReached, Share, SharedLimit};
use crate::stream::{Peer, Stream};

/// How long a client may take to send its part of the handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This client has the maximum number of connections.
    #[error(
        "too many connections: you have {0} to this daemon already; close some, or try again later"
    )]
    TooManyOfClient(u64),
    /// All clients together have the maximum number of connections.
    #[error("too many connections: this daemon serves {0} clients already; try again later")]
    TooMany(u64),
    /// The system can't create another thread for the daemon.
    #[error("the daemon cannot start a thread for this connection; try again later")]
    NoThread,
}

impl From<LimitReached> for Refusal {
    fn from(exceeded: LimitReached) -> Refusal {
        match exceeded {
            LimitReached::OfClient(limit) => Refusal::TooManyOfClient(limit),
            LimitReached::OfAll(limit) => Refusal::TooMany(limit),
        }
    }
}

/// All connections.
pub struct Connections {
    limit: Arc<SharedLimit>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    sessions: HashMap<u64, Session>,
    /// The sessions that may still be in their handshake, by deadline.
    greeting: VecDeque<(Instant, u64)>,
}

struct Session {
    stream: Arc<Stream>,
    cancel: CancellationToken,
    greeted: bool,
}

impl Connections {
    /// No connections yet; `limit` counts them.
    pub fn new(limit: Arc<SharedLimit>) -> Arc<Connections> {
        Arc::new(Connections {
            limit,
            state: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Admits a client, if the limits allow it. `cancel` ends its session.
    pub fn admit(
        self: &Arc<Self>,
        peer: &Peer,
        stream: &Arc<Stream>,
        cancel: &CancellationToken,
    ) -> Result<Admission, Refusal> {
        let mut place = self.limit.share(peer.client());
        place.take(1)?;
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        state.greeting.push_back((deadline, number));
        let session = Session {
            stream: stream.clone(),
            cancel: cancel.clone(),
            greeted: false,
        };
        state.sessions.insert(number, session);
        Ok(Admission {
            connections: self.clone(),
            number,
            _place: place,
        })
    }

    /// Shuts down the connections whose handshake has exceeded its deadline. Returns the next
    /// deadline, if other connections are in their handshake.
    pub fn end_silent(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        while let Some(&(deadline, number)) = state.greeting.front() {
            match state.sessions.get(&number) {
                Some(session) if !session.greeted => {
                    if now < deadline {
                        return Some(deadline);
                    }
                    tracing::info!("a client said nothing in time; its connection is closed");
                    session.stream.shut_down();
                }
                _ => {}
            }
            state.greeting.pop_front();
        }
        None
    }

    /// Cancels all sessions, and waits until they have ended or `timeout` has passed. Returns the
    /// number of remaining sessions.
    pub fn end_all(&self, timeout: Duration) -> usize {
        let deadline = Instant::now() + timeout;
        let mut state = self.state.lock();
        let all: Vec<_> = (state.sessions.values())
            .map(|session| (session.cancel.clone(), session.stream.clone()))
            .collect();
        drop(state);
        for (cancel, stream) in all {
            cancel.cancel();
            stream.shut_down();
        }
        state = self.state.lock();
        while !state.sessions.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return state.sessions.len();
            };
            state = self.ended.wait_timeout(state, left);
        }
        0
    }

    fn remove(&self, number: u64) {
        self.state.lock().sessions.remove(&number);
        self.ended.notify_all();
    }
}

/// A client's place in the limits; released on drop.
pub struct Admission {
    connections: Arc<Connections>,
    number: u64,
    _place: Share,
}

impl Admission {
    /// Records that the client has sent its part of the handshake.
    pub fn greeted(&self) {
        let mut state = self.connections.state.lock();
        if let Some(session) = state.sessions.get_mut(&self.number) {
            session.greeted = true;
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared_limit::ShareLimits;
    use crate::stream::LocalPeer;
    use std::os::unix::net::UnixStream;
    use system::socket::PeerCredentials;

    fn admit(connections: &Arc<Connections>) -> Result<Admission, Refusal> {
        let peer = Peer::Local(LocalPeer {
            process: PeerCredentials {
                pid: 1,
                uid: 1,
                gid: 1,
            },
            trusted: false,
        });
        let stream = Arc::new(Stream::Unix(UnixStream::pair().unwrap().0));
        connections.admit(&peer, &stream, &CancellationToken::new())
    }

    #[test]
    fn a_place_is_free_again_when_its_client_has_gone() {
        let connections = Connections::new(SharedLimit::new(ShareLimits::new(8, 4)));
        let first = admit(&connections).unwrap();
        let _second = admit(&connections).unwrap();
        let refusal = admit(&connections).err();
        assert_eq!(refusal, Some(Refusal::TooManyOfClient(2)));
        drop(first);
        assert!(admit(&connections).is_ok());
        assert_eq!(connections.state.lock().sessions.len(), 1);
    }

    #[test]
    fn only_those_who_say_nothing_are_ended() {
        let connections = Connections::new(SharedLimit::new(ShareLimits::new(8, 4)));
        let now = Instant::now();
        assert_eq!(connections.end_silent(now), None);
        let greeted = admit(&connections).unwrap();
        greeted.greeted();
        assert_eq!(connections.end_silent(now), None, "it has greeted");
        drop(admit(&connections));
        assert_eq!(connections.end_silent(now), None, "it has gone");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stream = Arc::new(Stream::Unix(ours));
        let peer = Peer::Remote([127, 0, 0, 1].into());
        let cancel = CancellationToken::new();
        let _silent = connections.admit(&peer, &stream, &cancel).unwrap();
        let deadline = connections.end_silent(now).unwrap();
        assert!(deadline > now);
        assert_eq!(connections.end_silent(deadline), None);
        theirs
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        assert_eq!(std::io::Read::read(&mut theirs, &mut [0]).unwrap(), 0);
    }
}
