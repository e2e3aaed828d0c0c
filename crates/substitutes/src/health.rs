//! What was learnt about servers a moment ago: which of them do not answer, and which answer late.
//!
//! One of these serves a whole daemon, so that what cost time once costs none a moment later. Only
//! what takes time is kept: whoever can't be connected to says so at once, and may be back as soon.
//!
//! What one user has learnt keeps no server from another: that a server says nothing may be due to the
//! user's own questions, which wait for each other, and that it is busy to how much he asks. So others
//! only ask a server later, and only if it has said itself that it is busy or can't be connected to. And
//! what was only concluded from waiting (`Certainty::Concluded`) does not count where nobody else is
//! left to ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::sync::Mutex;

use crate::network::{NetworkError, User};
use crate::servers::Server;

/// How long a server that did not answer is left alone, and one that is slow asked last, if it has no
/// wish of its own.
pub(crate) const WHILE: Duration = Duration::from_secs(60);
/// The longest such wish that is granted.
const LONGEST: Duration = Duration::from_secs(300);
/// What is remembered in all; of more, the oldest is forgotten, of the user with the most. (Users name
/// servers.)
const LIMIT: usize = 1024;
/// What is remembered of what one user has learnt.
const LIMIT_PER_USER: usize = 64;

/// The servers that were trouble lately, for each user.
#[derive(Debug, Default)]
pub struct Health(Mutex<Troubles>);

/// The servers that were trouble lately, as one user sees it.
#[derive(Clone, Copy, Debug)]
pub struct UserHealth<'a> {
    all: &'a Health,
    user: User,
}

type Troubles = HashMap<Arc<Server>, Vec<Trouble>>;

/// How something is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// The network program says so, which has asked the server.
    Measured,
    /// No answer has come, which may have other reasons.
    Concluded,
}

#[derive(Debug)]
struct Trouble {
    /// Who has learnt it.
    user: User,
    /// Why it is not asked; `None` if it is only slow, and asked last.
    reason: Option<NetworkError>,
    certainty: Certainty,
    /// Whether others ask it last, too.
    is_for_all: bool,
    until: Instant,
}

impl Health {
    /// What a user has to do with.
    pub fn of(&self, user: User) -> UserHealth<'_> {
        UserHealth { all: self, user }
    }
}

impl UserHealth<'_> {
    /// A server did not answer: it is left alone, for as long as it `wishes`, if it does.
    pub(crate) fn failed(
        &self,
        server: &Arc<Server>,
        error: &NetworkError,
        certainty: Certainty,
        wish: Option<Duration>,
        now: Instant,
    ) {
        let trouble = Trouble {
            user: self.user,
            reason: Some(error.clone()),
            certainty,
            is_for_all: error.is_busy(),
            until: now + wish.unwrap_or(WHILE).min(LONGEST),
        };
        self.add(server, trouble, now);
    }

    /// A server is late: others are asked before it. If that `is_for_all`, it holds for all users.
    pub(crate) fn is_late(&self, server: &Arc<Server>, is_for_all: bool, now: Instant) {
        let trouble = Trouble {
            user: self.user,
            reason: None,
            certainty: Certainty::Concluded,
            is_for_all,
            until: now + WHILE,
        };
        self.add(server, trouble, now);
    }

    fn add(&self, server: &Arc<Server>, trouble: Trouble, now: Instant) {
        let mut troubles = self.all.0.lock();
        let is_other = |it: &Trouble, of: &Arc<Server>| it.user != self.user || of != server;
        troubles.retain(|of, list| {
            list.retain(|it| it.until > now && is_other(it, of));
            !list.is_empty()
        });
        make_room(&mut troubles, self.user);
        troubles.entry(server.clone()).or_default().push(trouble);
    }

    /// A server answers as it should.
    pub(crate) fn recovered(&self, server: &Arc<Server>) {
        let mut troubles = self.all.0.lock();
        if let Some(list) = troubles.get_mut(server) {
            list.retain(|it| it.user != self.user && !it.is_for_all);
            if list.is_empty() {
                troubles.remove(server);
            }
        }
    }

    /// Why a server is not to be asked now, and how that is known.
    pub(crate) fn reason(
        &self,
        server: &Arc<Server>,
        now: Instant,
    ) -> Option<(NetworkError, Certainty)> {
        let troubles = self.all.0.lock();
        let mut own = (troubles.get(server)?.iter()).filter(|it| it.user == self.user);
        let trouble = own.find(|it| it.until > now)?;
        Some((trouble.reason.clone()?, trouble.certainty))
    }

    /// Whether others are to be asked before a server.
    pub(crate) fn has_trouble(&self, server: &Arc<Server>, now: Instant) -> bool {
        let troubles = self.all.0.lock();
        let counts = |it: &Trouble| it.until > now && (it.user == self.user || it.is_for_all);
        troubles.get(server).is_some_and(|it| it.iter().any(counts))
    }
}

/// Makes room for something that a user has learnt.
fn make_room(troubles: &mut Troubles, user: User) {
    let mut counts: HashMap<User, usize> = HashMap::new();
    for trouble in troubles.values().flatten() {
        *counts.entry(trouble.user).or_default() += 1;
    }
    let own = counts.get(&user).copied().unwrap_or(0);
    let loser = if own >= LIMIT_PER_USER {
        Some(user)
    } else if counts.values().sum::<usize>() >= LIMIT {
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(user, _)| user)
    } else {
        None
    };
    let Some(loser) = loser else { return };
    let each = (troubles.iter()).flat_map(|(server, list)| list.iter().map(move |it| (server, it)));
    let of_loser = each.filter(|(_, it)| it.user == loser);
    let oldest = of_loser.min_by_key(|(_, it)| it.until);
    let Some(server) = oldest.map(|(server, _)| server.clone()) else {
        return;
    };
    if let Some(list) = troubles.get_mut(&server) {
        list.retain(|it| it.user != loser);
        if list.is_empty() {
            troubles.remove(&server);
        }
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

    fn user(number: u64) -> User {
        User::from_number(number)
    }

    #[test]
    fn troubles_pass() {
        let (all, now) = (Health::default(), Instant::now());
        let health = all.of(user(1));
        let [silent, busy, late, good] = [1, 2, 3, 4].map(server);
        let second = Duration::from_secs(1);
        health.failed(&silent, &error(), Certainty::Concluded, None, now);
        health.failed(&busy, &error(), Certainty::Measured, Some(second), now);
        health.is_late(&late, false, now);
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
        let day = Some(86_400 * second);
        health.failed(&busy, &error(), Certainty::Measured, day, now);
        assert!(health.reason(&busy, now + LONGEST).is_none());
    }

    #[test]
    fn what_one_user_has_learnt_keeps_no_server_from_another() {
        let (all, now) = (Health::default(), Instant::now());
        let (one, two) = (all.of(user(1)), all.of(user(2)));
        let [silent, busy, late, slow] = [1, 2, 3, 4].map(server);
        let said = NetworkError::new(ErrorKind::Status(503), "HTTP status 503");
        one.failed(&silent, &error(), Certainty::Concluded, None, now);
        one.failed(&busy, &said, Certainty::Measured, None, now);
        one.is_late(&late, false, now);
        one.is_late(&slow, true, now);
        let servers = [&silent, &busy, &late, &slow];
        assert_eq!(
            servers.map(|it| two.reason(it, now)),
            [None, None, None, None]
        );
        // What is so for everybody is asked last.
        let troubles = servers.map(|it| two.has_trouble(it, now));
        assert_eq!(troubles, [false, true, false, true]);
        // What answers one answers others, but the rest is each user's.
        two.recovered(&silent);
        two.recovered(&slow);
        let troubles = servers.map(|it| one.has_trouble(it, now));
        assert_eq!(troubles, [true, true, true, false]);
    }

    #[test]
    fn no_user_takes_the_room_of_others() {
        let (all, now) = (Health::default(), Instant::now());
        all.of(user(0)).is_late(&server(0), false, now);
        for number in 1..2 * LIMIT {
            let now = now + Duration::from_millis(number as u64);
            all.of(user(1)).is_late(&server(number), false, now);
        }
        let count = || all.0.lock().values().flatten().count();
        assert_eq!(count(), 1 + LIMIT_PER_USER);
        assert!(all.of(user(0)).has_trouble(&server(0), now));
        assert!(all.of(user(1)).has_trouble(&server(2 * LIMIT - 1), now));
        assert!(!all.of(user(1)).has_trouble(&server(1), now));
        for number in 0..2 * LIMIT {
            let now = now + Duration::from_millis(number as u64);
            all.of(user(number as u64))
                .is_late(&server(number), false, now);
        }
        assert_eq!(count(), LIMIT);
    }
}
