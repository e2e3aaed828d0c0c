//! Goals that wait for a fetch that another request has started, and what is due for them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use substitutes::Stop;

use super::attempt::Alternative;
use super::attempts::Participation;
use super::goal::SubstitutionId;
use crate::settings::SessionSettings;
use crate::substituter::Timeouts;

/// After so much silence, or when little has arrived in so much time, the request's own servers are
/// tried.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is little, in bytes: 16 KiB a second.
const LITTLE: u64 = (16 << 10) * PATIENCE.as_secs();
/// How often a goal ends the attempt of another request.
const TAKEOVERS: u32 = 3;

/// The goals that wait, or have waited, for a fetch of another request, and how often they have ended
/// one.
#[derive(Default)]
pub(super) struct Joined(BTreeMap<SubstitutionId, u32>);

impl Joined {
    /// A goal waits for another's fetch.
    pub(super) fn add(&mut self, item: SubstitutionId) {
        self.0.entry(item).or_default();
    }

    /// The goals, and whether they may end an attempt of another request.
    pub(super) fn items(&self) -> Vec<(SubstitutionId, bool)> {
        let items = self.0.iter();
        items
            .map(|(item, takeovers)| (*item, *takeovers < TAKEOVERS))
            .collect()
    }

    /// A goal ends the attempt of another request.
    pub(super) fn takes_over(&mut self, item: SubstitutionId) {
        *self.0.entry(item).or_default() += 1;
    }
}

/// What is due.
pub(super) enum Due {
    /// It has taken too long.
    Stop(Stop),
    /// The request's own servers are to be tried.
    TakeOver,
    /// Nothing before this much time has passed, if there is anything at all.
    Nothing(Option<Duration>),
}

/// What has come of looking after the goals.
pub(super) enum Watched {
    /// Some of them don't wait any more.
    Changed,
    /// Nothing; when to look again.
    Until(Option<Instant>),
}

/// What is due for a goal that waits for another's fetch, and would have its `own` way to fetch.
pub(super) fn due(joined: &Participation, settings: &SessionSettings, own: Alternative) -> Due {
    let silence = joined.silence();
    let until_silent = PATIENCE.saturating_sub(silence);
    let received = joined.received_in(PATIENCE);
    let next = match (own, received) {
        (Alternative::None, _) => None,
        (Alternative::Later, _) => Some(until_silent),
        (Alternative::Elsewhere, _) if !joined.has_starter() => Some(Duration::ZERO),
        (Alternative::Elsewhere, Ok(..LITTLE)) => Some(Duration::ZERO),
        (Alternative::Elsewhere, Ok(_)) => Some(until_silent),
        (Alternative::Elsewhere, Err(left)) => Some(until_silent.min(left)),
    };
    let left = match Timeouts::of(settings).left(silence, joined.waited()) {
        Err(stop) => return Due::Stop(stop),
        Ok(left) => left,
    };
    match next.into_iter().chain(left).min() {
        Some(Duration::ZERO) => Due::TakeOver,
        next => Due::Nothing(next),
    }
}
