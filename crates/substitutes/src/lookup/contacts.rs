//! How the servers of one lookup answer: what is open at each of them, which are late, and which have
//! been given up.
//!
//! Servers are asked in order, but nobody waits for the whole time-out of one while another may have the
//! answer: one that says nothing for [`LATE`], or that it is busy, is *late*. What it was asked is asked
//! of the others, too, and from then on it is asked last. One that says nothing for [`SILENT`] although
//! another has answered is given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::health::{Certainty, UserHealth};
use crate::network::NetworkError;
use crate::servers::Server;

/// A server that says nothing for so long while it has something to answer is late.
const LATE: Duration = Duration::from_secs(4);
/// After so long, it is given up if another server has answered.
const SILENT: Duration = Duration::from_secs(12);
/// How many questions are open at once at a server that is late.
const OPEN_AT_LATE: usize = 64;

/// The servers of a lookup, in the order in which they are asked.
pub(super) struct Contacts<'a> {
    health: UserHealth<'a>,
    all: Vec<Contact>,
}

struct Contact {
    server: Arc<Server>,
    /// The number of questions that it has not answered.
    open: usize,
    /// When it answered last, or was asked when nothing was open.
    heard: Instant,
    is_late: bool,
    is_given_up: bool,
    has_answered: bool,
    /// Whether others were asked before it because of what was known beforehand.
    had_trouble: bool,
    /// Why it is not asked, and how that is known.
    reason: Option<(NetworkError, Certainty)>,
}

impl Contact {
    /// Whether it can be asked in the place of one that says nothing.
    fn is_free(&self) -> bool {
        !self.is_late && !self.is_given_up
    }
}

/// What has to be done about a server that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Others are asked.
    Late,
    /// It is given up.
    Silent,
}

impl Contacts<'_> {
    /// Of these servers, in this order, except that those with trouble lately come last.
    ///
    /// Those that did not answer lately are not asked. But if nobody else is left, those are asked of which
    /// that was only concluded.
    pub(super) fn new<'a>(servers: &[Arc<Server>], health: UserHealth<'a>) -> Contacts<'a> {
        let now = Instant::now();
        let contact = |server: &Arc<Server>| Contact {
            server: server.clone(),
            open: 0,
            heard: now,
            is_late: false,
            is_given_up: false,
            has_answered: false,
            had_trouble: health.has_trouble(server, now),
            reason: health.reason(server, now),
        };
        let mut all: Vec<Contact> = servers.iter().map(contact).collect();
        all.sort_by_key(|contact| contact.had_trouble);
        Contacts { health, all }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn server(&self, index: usize) -> &Arc<Server> {
        &self.all[index].server
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.all.iter().map(|contact| &contact.server)
    }

    /// Why a server is not asked, because of what is known of it.
    pub(super) fn reason(&self, index: usize) -> Option<NetworkError> {
        let contact = &self.all[index];
        let (error, certainty) = contact.reason.as_ref()?;
        let is_asked = |other: &Contact| !other.is_given_up && other.reason.is_none();
        let counts = *certainty == Certainty::Measured || self.others(index).any(is_asked);
        (counts && !contact.is_given_up).then(|| error.clone())
    }

    /// All but one.
    fn others(&self, index: usize) -> impl Iterator<Item = &Contact> {
        let (before, after) = self.all.split_at(index);
        before.iter().chain(&after[1..])
    }

    /// Whether it is asked nothing more.
    pub(super) fn is_given_up(&self, index: usize) -> bool {
        self.all[index].is_given_up
    }

    /// Whether others are asked before it.
    pub(super) fn is_late(&self, index: usize) -> bool {
        self.all[index].is_late
    }

    /// How many questions more it may be asked now.
    pub(super) fn room(&self, index: usize) -> usize {
        let contact = &self.all[index];
        match contact.is_late && !contact.is_given_up {
            true => OPEN_AT_LATE.saturating_sub(contact.open),
            false => usize::MAX,
        }
    }

    /// It is asked.
    pub(super) fn asked(&mut self, index: usize) {
        let contact = &mut self.all[index];
        if contact.open == 0 {
            contact.heard = Instant::now();
        }
        contact.open += 1;
    }

    /// A question is not open any more.
    pub(super) fn closed(&mut self, index: usize) {
        self.all[index].open -= 1;
    }

    /// The cache, or its directory, has its answer.
    pub(super) fn is_known_to_answer(&mut self, index: usize) {
        self.all[index].has_answered = true;
    }

    /// It has answered.
    pub(super) fn answered(&mut self, index: usize) {
        let contact = &mut self.all[index];
        contact.heard = Instant::now();
        contact.has_answered = true;
        if std::mem::take(&mut contact.had_trouble) && !contact.is_late {
            self.health.recovered(&contact.server);
        }
    }

    /// It is asked nothing more; how long it had to answer something.
    pub(super) fn give_up(&mut self, index: usize) -> Duration {
        let contact = &mut self.all[index];
        contact.is_given_up = true;
        contact.heard.elapsed()
    }

    /// It is late, for which there may be no need to wait; `false` if no other server could be asked
    /// instead. If that `is_for_all`, other users are told.
    pub(super) fn overtake(&mut self, index: usize, is_for_all: bool) -> bool {
        let has_other = self.others(index).any(Contact::is_free);
        let contact = &mut self.all[index];
        if contact.is_late || !has_other {
            return false;
        }
        contact.is_late = true;
        self.health
            .is_late(&contact.server, is_for_all, Instant::now());
        true
    }

    /// The servers about which something has to be done, and when the next ones have to be looked for.
    pub(super) fn overdue(&self) -> (Vec<(usize, Overdue)>, Option<Instant>) {
        let now = Instant::now();
        let (mut overdue, mut next) = (Vec::new(), None::<Instant>);
        for (index, contact) in self.all.iter().enumerate() {
            if contact.open == 0 || contact.is_given_up {
                continue;
            }
            let mut when = |at: Instant, what: Overdue| match at <= now {
                true => overdue.push((index, what)),
                false => next = Some(next.map_or(at, |next| next.min(at))),
            };
            if self.others(index).any(|other| other.has_answered) {
                when(contact.heard + SILENT, Overdue::Silent);
            }
            if !contact.is_late && self.others(index).any(Contact::is_free) {
                when(contact.heard + LATE, Overdue::Late);
            }
        }
        (overdue, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;
    use crate::network::{ErrorKind, User};

    fn servers() -> Vec<Arc<Server>> {
        let urls = ["http://a.example", "http://b.example", "http://c.example"];
        urls.map(|url| Arc::new(Server::new(url).unwrap())).into()
    }

    /// Lets this much time pass for one of them.
    fn wait(contacts: &mut Contacts<'_>, index: usize, time: Duration) {
        contacts.all[index].heard -= time;
    }

    #[test]
    fn what_says_nothing_is_late_then_silent_and_both_are_remembered() {
        let (servers, all) = (servers(), Health::default());
        let health = all.of(User::default());
        let mut contacts = Contacts::new(&servers, health);
        contacts.asked(0);
        assert_eq!(contacts.overdue().0, []);
        assert!(contacts.overdue().1.is_some());
        wait(&mut contacts, 0, LATE);
        assert_eq!(contacts.overdue().0, [(0, Overdue::Late)]);
        assert!(contacts.overtake(0, false) && !contacts.overtake(0, false));
        assert_eq!(contacts.room(0), OPEN_AT_LATE - 1);
        // Nobody else has answered: there is nothing to lose.
        wait(&mut contacts, 0, SILENT);
        assert_eq!(contacts.overdue(), (vec![], None));
        contacts.asked(1);
        contacts.answered(1);
        contacts.closed(1);
        assert_eq!(contacts.overdue().0, [(0, Overdue::Silent)]);
        assert!(contacts.give_up(0) >= SILENT);
        assert_eq!(contacts.overdue(), (vec![], None));
        // The next one asks it last.
        let mut contacts = Contacts::new(&servers, health);
        let names: Vec<&str> = contacts.servers().map(|it| it.url()).collect();
        assert_eq!(
            names,
            ["http://b.example", "http://c.example", "http://a.example"]
        );
        assert_eq!(contacts.reason(2), None);
        contacts.asked(2);
        contacts.answered(2);
        assert!(!health.has_trouble(&servers[0], Instant::now()));
        let error = NetworkError::new(ErrorKind::Timeout, "silent");
        health.failed(
            &servers[1],
            &error,
            Certainty::Concluded,
            None,
            Instant::now(),
        );
        let contacts = Contacts::new(&servers, health);
        assert_eq!(contacts.reason(2), Some(error));
    }

    #[test]
    fn the_last_one_is_not_late() {
        let (servers, all) = (servers(), Health::default());
        let health = all.of(User::default());
        let mut contacts = Contacts::new(&servers, health);
        contacts.give_up(0);
        assert!(contacts.overtake(1, false));
        assert!(!contacts.overtake(2, false));
        contacts.asked(2);
        wait(&mut contacts, 2, SILENT);
        assert_eq!(contacts.overdue(), (vec![], None));
    }

    #[test]
    fn the_last_one_left_is_asked_unless_it_says_itself_that_it_is_busy() {
        let (servers, all) = (servers(), Health::default());
        let health = all.of(User::default());
        let error = NetworkError::new(ErrorKind::Timeout, "no answer");
        let fail = |server: &Arc<Server>, certainty| {
            health.failed(server, &error, certainty, None, Instant::now());
        };
        fail(&servers[0], Certainty::Concluded);
        // As long as there is another one, it is left alone.
        let mut contacts = Contacts::new(&servers[..2], health);
        assert_eq!(contacts.reason(1), Some(error.clone()));
        contacts.give_up(0);
        assert_eq!(contacts.reason(1), None);
        let contacts = Contacts::new(&servers[..1], health);
        assert_eq!(contacts.reason(0), None);
        fail(&servers[1], Certainty::Measured);
        let contacts = Contacts::new(&servers[..2], health);
        assert_eq!(contacts.reason(0), None);
        assert_eq!(contacts.reason(1), Some(error.clone()));
    }
}
