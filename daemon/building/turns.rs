//! Whose turn it is to ask the hook when a build has ended: clients share what there is
//! ([`farm::fair_share`]).
//!
//! The hook has postponed builds of several clients. When a build ends, a machine may be free, and all
//! of them ask again. A client who has asked for a thousand derivations must not be faster than one who
//! has asked for one, however many requests, processes and threads it has. So each request that the hook
//! has postponed gets a *turn*, which is passed on with the event; until it has been answered, questions of
//! clients who have had more wait, if they need the same kind of machine. They wait for each turn for a second
//! at most, since a request may be busy, or its client not read; and for a few seconds in all, since there
//! may be ever new ones.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm::fair_share::FairShare;
use system::sync::Mutex;

use super::event_count::EventCount;
use super::postponement::Requirements;
use crate::cancel::CancellationToken;
use crate::shared_limit::ClientKey;

/// How long others wait for a turn to be taken and answered.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a question waits in all.
const WHOLE_PATIENCE: Duration = Duration::from_secs(5);

/// What a request's builds require that the hook has postponed.
#[derive(Default)]
pub(super) struct Postponed(Mutex<HashSet<Requirements>>);

impl Postponed {
    /// The hook has postponed one.
    pub(super) fn insert(&self, requirements: Requirements) {
        self.0.lock().insert(requirements);
    }

    /// The hook has answered otherwise.
    pub(super) fn remove(&self, requirements: &Requirements) {
        self.0.lock().remove(requirements);
    }

    /// No build of the request waits any more.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    fn contains(&self, requirements: &Requirements) -> bool {
        self.0.lock().contains(requirements)
    }
}

/// The turns, and what clients have had.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    /// Notified when a turn has been answered.
    changed: Arc<EventCount>,
}

#[derive(Default)]
struct State {
    share: FairShare<ClientKey>,
    next: u64,
    pending: Vec<Pending>,
}

/// A turn that has not been answered.
struct Pending {
    number: u64,
    client: ClientKey,
    postponed: Arc<Postponed>,
    until: Instant,
}

/// A request's turn; it has been answered, or isn't needed, when it is dropped.
pub(super) struct Turn {
    turns: Arc<Turns>,
    number: u64,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Turn").field(&self.number).finish()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock();
        state.pending.retain(|one| one.number != self.number);
        drop(state);
        self.turns.changed.notify();
    }
}

impl Turns {
    /// A turn for a request, if the hook has postponed builds of it. There is one at a time: a request that
    /// hasn't taken the last one isn't waited for again.
    pub(super) fn give(
        self: &Arc<Self>,
        client: ClientKey,
        postponed: &Arc<Postponed>,
    ) -> Option<Turn> {
        if postponed.is_empty() {
            return None;
        }
        let mut state = self.state.lock();
        let mut pending = state.pending.iter();
        if pending.any(|one| Arc::ptr_eq(&one.postponed, postponed)) {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.pending.push(Pending {
            number,
            client,
            postponed: postponed.clone(),
            until: Instant::now() + PATIENCE,
        });
        Some(Turn {
            turns: self.clone(),
            number,
        })
    }

    /// Waits before a question until those who come first have been answered, until cancellation, or for
    /// [`WHOLE_PATIENCE`]. `on_wait` is called if there are any.
    pub(super) fn wait(
        &self,
        client: ClientKey,
        requirements: &Requirements,
        cancel: &CancellationToken,
        on_wait: impl FnOnce(),
    ) {
        let deadline = Instant::now() + WHOLE_PATIENCE;
        self.wait_until(client, requirements, cancel, deadline, on_wait);
    }

    fn wait_until(
        &self,
        client: ClientKey,
        requirements: &Requirements,
        cancel: &CancellationToken,
        deadline: Instant,
        on_wait: impl FnOnce(),
    ) {
        if self.before(client, requirements).is_none() {
            return;
        }
        on_wait();
        let changed = self.changed.clone();
        let _guard = cancel.on_cancel(move || changed.notify());
        loop {
            let key = self.changed.key();
            match self.before(client, requirements) {
                Some(until) if !cancel.is_cancelled() && Instant::now() < deadline => {
                    self.changed.wait(key, Some(until.min(deadline)));
                }
                _ => return,
            }
        }
    }

    /// Until when turns are waited for that come before a client's question.
    fn before(&self, client: ClientKey, requirements: &Requirements) -> Option<Instant> {
        let state = self.state.lock();
        let (start, now) = (state.share.start(&client), Instant::now());
        let comes_first = |one: &&Pending| {
            one.client != client
                && one.until > now
                && state.share.start(&one.client) < start
                && one.postponed.contains(requirements)
        };
        let first = state.pending.iter().filter(comes_first);
        first.map(|one| one.until).max()
    }

    /// A build of a client begins.
    pub(super) fn serve(&self, client: ClientKey) {
        self.state.lock().share.serve(client);
        self.changed.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: ClientKey = ClientKey::User(1);
    const BOB: ClientKey = ClientKey::User(2);

    fn needs(features: &str) -> Requirements {
        Requirements {
            system: "x86_64-linux".into(),
            features: features.into(),
        }
    }

    /// A request whose build the hook has postponed.
    fn postponed(features: &str) -> Arc<Postponed> {
        let postponed = Arc::new(Postponed::default());
        postponed.insert(needs(features));
        postponed
    }

    #[test]
    fn who_has_had_less_comes_first_if_it_needs_the_same() {
        let turns = Arc::new(Turns::default());
        turns.serve(ALICE);
        let bobs = postponed("kvm");
        let turn = turns.give(BOB, &bobs).expect("a turn");
        assert!(turns.give(BOB, &bobs).is_none(), "it has one");
        assert!(turns.before(ALICE, &needs("kvm")).is_some());
        assert!(turns.before(ALICE, &needs("")).is_none());
        assert!(turns.before(BOB, &needs("kvm")).is_none());
        drop(turn);
        assert!(turns.before(ALICE, &needs("kvm")).is_none());
        turns.serve(BOB);
        let _turn = turns.give(BOB, &bobs).expect("a turn");
        assert!(turns.before(ALICE, &needs("kvm")).is_none(), "both had one");
        assert!(
            turns.give(ALICE, &Arc::default()).is_none(),
            "nothing waits"
        );
    }

    #[test]
    fn ever_new_turns_hold_nobody_up_for_ever() {
        let turns = Arc::new(Turns::default());
        turns.serve(ALICE);
        let (mut held, mut number) = (Vec::new(), 2);
        let waited = std::sync::atomic::AtomicBool::new(false);
        let is_over = || waited.load(std::sync::atomic::Ordering::Acquire);
        std::thread::scope(|scope| {
            let turn = turns.give(BOB, &postponed("")).expect("a turn");
            scope.spawn(|| {
                let deadline = Instant::now() + Duration::from_millis(50);
                let token = CancellationToken::new();
                turns.wait_until(ALICE, &needs(""), &token, deadline, || {});
                waited.store(true, std::sync::atomic::Ordering::Release);
            });
            held.push(turn);
            // As soon as one has been answered, there are others.
            while !is_over() {
                number += 1;
                let next = turns
                    .give(ClientKey::User(number), &postponed(""))
                    .expect("a turn");
                held.push(next);
                held.remove(0);
                assert!(number < 1_000_000, "it still waits");
                std::thread::sleep(Duration::from_micros(100));
            }
        });
    }

    #[test]
    fn waiting_ends_with_the_answer_or_with_cancellation() {
        let turns = Arc::new(Turns::default());
        turns.serve(ALICE);
        let bobs = postponed("");
        let token = CancellationToken::new();
        for cancelled in [false, true] {
            let turn = turns.give(BOB, &bobs).expect("a turn");
            let mut turn = Some(turn);
            let mut waited = false;
            turns.wait(ALICE, &needs(""), &token, || {
                waited = true;
                match cancelled {
                    true => token.cancel(),
                    false => turn = None,
                }
            });
            assert!(waited);
        }
    }
}
