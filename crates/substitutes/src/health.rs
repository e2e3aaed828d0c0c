//! What was learnt about servers a moment ago, by anybody who asked them: which of them do not answer,
//! and which answer late.
//!
//! One of these serves a whole daemon, so that what cost one client time costs the next one none. Only
//! what takes time is kept: whoever can't be connected to says so at once, and may be back as soon.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::sync::Mutex;

use crate::network::NetworkError;
use crate::servers::Server;

/// How long a server that did not answer is left alone, and one that is slow asked last, if it has no
/// wish of its own.
pub(crate) const WHILE: Duration = Duration::from_secs(60);
/// The longest such wish that is granted.
const LONGEST: Duration = Duration::from_secs(300);
/// Servers that are remembered; of more, the oldest are forgotten. (Users name servers.)
const LIMIT: usize = 1024;

/// The servers that were trouble lately.
#[derive(Debug, Default)]
pub struct Health(Mutex<HashMap<Arc<Server>, Trouble>>);

#[derive(Debug)]
struct Trouble {
    /// Why it is not asked; `None` if it is only slow, and asked last.
    reason: Option<NetworkError>,
    until: Instant,
}

impl Health {
    /// A server did not answer: it is left alone, for as long as it `wishes`, if it does.
    pub(crate) fn failed(
        &self,
        server: &Arc<Server>,
        error: &NetworkError,
        wish: Option<Duration>,
        now: Instant,
    ) {
        let reason = Some(error.clone());
        let until = now + wish.unwrap_or(WHILE).min(LONGEST);
        self.add(server, Trouble { reason, until }, now);
    }

    /// A server is late: others are asked before it.
    pub(crate) fn is_late(&self, server: &Arc<Server>, now: Instant) {
        let (reason, until) = (None, now + WHILE);
        self.add(server, Trouble { reason, until }, now);
    }

    fn add(&self, server: &Arc<Server>, trouble: Trouble, now: Instant) {
        let mut troubles = self.0.lock();
        troubles.retain(|_, trouble| trouble.until > now);
        if troubles.len() >= LIMIT {
            let oldest = troubles.iter().min_by_key(|(_, trouble)| trouble.until);
            if let Some(oldest) = oldest.map(|(server, _)| server.clone()) {
                troubles.remove(&oldest);
            }
        }
        troubles.insert(server.clone(), trouble);
    }

    /// A server answers as it should.
    pub(crate) fn recovered(&self, server: &Arc<Server>) {
        self.0.lock().remove(server);
    }

    /// Why a server is not to be asked now.
    pub(crate) fn reason(&self, server: &Arc<Server>, now: Instant) -> Option<NetworkError> {
        let troubles = self.0.lock();
        let trouble = troubles.get(server).filter(|it| it.until > now)?;
        trouble.reason.clone()
    }

    /// Whether others are to be asked before a server.
    pub(crate) fn has_trouble(&self, server: &Arc<Server>, now: Instant) -> bool {
        let troubles = self.0.lock();
        troubles.get(server).is_some_and(|it| it.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::ErrorKind;

    fn server(number: usize) -> Arc<Server> {
        Arc::new(Server::new(&format!("http://server-{number}.example")).unwrap())
    }

    fn error() -> NetworkError {
        NetworkError::new(ErrorKind::Timeout, "silent")
    }

    #[test]
    fn troubles_pass() {
        let (health, now) = (Health::default(), Instant::now());
        let [silent, busy, late, good] = [1, 2, 3, 4].map(server);
        let second = Duration::from_secs(1);
        health.failed(&silent, &error(), None, now);
        health.failed(&busy, &error(), Some(second), now);
        health.is_late(&late, now);
        let reasons =
            |now| [&silent, &busy, &late, &good].map(|it| health.reason(it, now).is_some());
        let troubles = |now| [&silent, &busy, &late, &good].map(|it| health.has_trouble(it, now));
        assert_eq!(reasons(now), [true, true, false, false]);
        assert_eq!(troubles(now), [true, true, true, false]);
        assert_eq!(reasons(now + second), [true, false, false, false]);
        assert_eq!(troubles(now + second), [true, false, true, false]);
        assert_eq!(troubles(now + WHILE), [false; 4]);
        health.recovered(&late);
        assert_eq!(troubles(now), [true, true, false, false]);
        // A day is not waited.
        health.failed(&busy, &error(), Some(86_400 * second), now);
        assert!(health.reason(&busy, now + LONGEST).is_none());
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (health, now) = (Health::default(), Instant::now());
        for number in 0..2 * LIMIT {
            health.is_late(&server(number), now + Duration::from_millis(number as u64));
        }
        assert_eq!(health.0.lock().len(), LIMIT);
        assert!(health.has_trouble(&server(2 * LIMIT - 1), now));
        assert!(!health.has_trouble(&server(0), now));
    }
}
