//! The connected clients, and whether another one is admitted.
//!
//! An [`Admission`] counts against the [`ConnectionLimits`] until it is dropped; if the client does
//! not complete its part of the handshake in time, its connection is shut down.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::sync::{Condvar, Mutex};

use crate::cancel::CancellationToken;
use crate::connection_limits::ConnectionLimits;
use crate::stream::{Peer, Stream};

/// How long a client may take to send its part of the handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections of equal clients are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    User(u32),
    Address(IpAddr),
}

impl From<&Peer> for Client {
    fn from(peer: &Peer) -> Client {
        match peer {
            Peer::Local(peer) => Client::User(peer.uid),
            Peer::Remote(address) => Client::Address(*address),
        }
    }
}

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This client has the maximum number of connections.
    #[error(
        "too many connections: you have {0} to this daemon already; close some, or try again later"
    )]
    TooManyOfClient(usize),
    /// All clients together have the maximum number of connections.
    #[error("too many connections: this daemon serves {0} clients already; try again later")]
    TooMany(usize),
    /// The system can't create another thread for the daemon.
    #[error("the daemon cannot start a thread for this connection; try again later")]
    NoThread,
}

/// All connections.
pub struct Connections {
    limits: ConnectionLimits,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    sessions: HashMap<u64, Session>,
    /// The number of connections of each client.
    counts: HashMap<Client, usize>,
    /// The number of connections that aren't root's.
    unprivileged: usize,
    /// The sessions that may still be in their handshake, by deadline.
    greeting: VecDeque<(Instant, u64)>,
}

struct Session {
    client: Client,
    stream: Arc<Stream>,
    cancel: CancellationToken,
    greeted: bool,
}

impl Connections {
    /// No connections.
    pub fn new(limits: ConnectionLimits) -> Arc<Connections> {
        Arc::new(Connections {
            limits,
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
        let client = Client::from(peer);
        let mut state = self.state.lock();
        let ConnectionLimits {
            total,
            unprivileged,
            per_client,
        } = self.limits;
        if state.sessions.len() >= total {
            return Err(Refusal::TooMany(total));
        }
        if !peer.trusted() {
            if state
                .counts
                .get(&client)
                .is_some_and(|&count| count >= per_client)
            {
                return Err(Refusal::TooManyOfClient(per_client));
            }
            if state.unprivileged >= unprivileged {
                return Err(Refusal::TooMany(unprivileged));
            }
            state.unprivileged += 1;
        }
        *state.counts.entry(client).or_default() += 1;
        let number = state.next;
        state.next += 1;
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        state.greeting.push_back((deadline, number));
        let session = Session {
            client,
            stream: stream.clone(),
            cancel: cancel.clone(),
            greeted: false,
        };
        state.sessions.insert(number, session);
        Ok(Admission {
            connections: self.clone(),
            number,
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
        let mut state = self.state.lock();
        let Some(session) = state.sessions.remove(&number) else {
            return;
        };
        if session.client != Client::User(0) {
            state.unprivileged -= 1;
        }
        if let Some(count) = state.counts.get_mut(&session.client) {
            *count -= 1;
            if *count == 0 {
                state.counts.remove(&session.client);
            }
        }
        drop(state);
        self.ended.notify_all();
    }
}

/// A client's place in the limits; released on drop.
pub struct Admission {
    connections: Arc<Connections>,
    number: u64,
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
    use std::os::unix::net::UnixStream;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        total: 4,
        unprivileged: 3,
        per_client: 2,
    };

    fn admit(connections: &Arc<Connections>, uid: u32) -> Result<Admission, Refusal> {
        let peer = Peer::Local(system::socket::PeerCredentials {
            pid: 1,
            uid,
            gid: uid,
        });
        let stream = Arc::new(Stream::Unix(UnixStream::pair().unwrap().0));
        connections.admit(&peer, &stream, &CancellationToken::new())
    }

    #[test]
    fn each_user_and_all_of_them_have_a_limit_and_root_has_a_reserve() {
        let connections = Connections::new(LIMITS);
        let first = [admit(&connections, 1), admit(&connections, 1)];
        assert_eq!(
            admit(&connections, 1).err(),
            Some(Refusal::TooManyOfClient(2))
        );
        let second = admit(&connections, 2);
        assert_eq!(admit(&connections, 2).err(), Some(Refusal::TooMany(3)));
        let root = admit(&connections, 0);
        assert!(root.is_ok());
        assert_eq!(admit(&connections, 0).err(), Some(Refusal::TooMany(4)));
        drop(second);
        assert!(admit(&connections, 2).is_ok());
        drop((first, root));
        let state = connections.state.lock();
        assert!(state.sessions.is_empty() && state.counts.is_empty());
        assert_eq!(state.unprivileged, 0);
    }

    #[test]
    fn only_those_who_say_nothing_are_ended() {
        let connections = Connections::new(LIMITS);
        let now = Instant::now();
        assert_eq!(connections.end_silent(now), None);
        let greeted = admit(&connections, 1).unwrap();
        greeted.greeted();
        assert_eq!(connections.end_silent(now), None, "it has greeted");
        drop(admit(&connections, 1));
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
