//! What is said at the end about the builds that have failed, and where the others were built.

use std::time::Duration;

use protocol::trace::BuildFailure;

use crate::builds::{Build, Builds, Place};
use crate::view::clock_of;

/// How many failures are told of, and of how many the log's end is.
const FAILURES_SHOWN: usize = 100;
const TAILS_SHOWN: usize = 10;

/// A build that has failed.
struct Failure {
    derivation: String,
    place: Place,
    took: Option<Duration>,
    reason: String,
    /// The last lines of its log.
    tail: Vec<String>,
    log_file: Option<String>,
}

/// All of them.
#[derive(Default)]
pub struct Failures {
    count: usize,
    kept: Vec<Failure>,
}

impl Failures {
    /// A derivation, whose last attempt was made at this place, has failed. `build` is what is known of it.
    pub fn add(
        &mut self,
        derivation: &str,
        place: Place,
        failure: BuildFailure<'_>,
        build: Option<&Build>,
    ) {
        self.count += 1;
        if self.kept.len() >= FAILURES_SHOWN {
            return;
        }
        let reason = match failure {
            BuildFailure::Timeout => {
                "it took too long, was silent for too long or printed too much"
            }
            BuildFailure::Cached => "it has failed before, and failures are remembered",
            BuildFailure::Other { message, .. } => message,
        };
        // Which one is said beside it.
        let reason = reason.replace(&format!("builder for `{derivation}' "), "builder ");
        let has_room = self.kept.len() < TAILS_SHOWN;
        let log_file = build.map(Build::log_file).filter(|file| !file.is_empty());
        self.kept.push(Failure {
            derivation: derivation.to_owned(),
            place,
            took: build.and_then(Build::age),
            reason,
            tail: build
                .filter(|_| has_room)
                .map(Build::tail)
                .unwrap_or_default(),
            log_file,
        });
    }

    /// The lines to be printed, those that begin a failure marked. `last_is_above` if the end of the last
    /// failure's log is right above them.
    pub fn lines(&self, last_is_above: bool) -> Vec<(bool, String)> {
        let mut lines = Vec::new();
        for (index, failure) in self.kept.iter().enumerate() {
            let is_above = last_is_above && index + 1 == self.count;
            lines.push((true, format!("failed: {}", failure.derivation)));
            lines.push((false, format!("  {}", failure.circumstances())));
            if !is_above {
                let tail = failure
                    .tail
                    .iter()
                    .map(|line| (false, format!("  | {line}")));
                lines.extend(tail);
            }
            if let Some(file) = &failure.log_file {
                lines.push((false, format!("  whole log: {file}")));
            }
        }
        let more = self.count - self.kept.len();
        if more > 0 {
            lines.push((true, format!("failed: {more} more")));
        }
        lines
    }
}

impl Failure {
    /// `on 'build1', after 0:12: builder failed with exit code 1`.
    fn circumstances(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        words.extend(place_in_words(&self.place));
        words.extend(self.took.map(|took| format!("after {}", clock_of(took))));
        match words.is_empty() {
            true => self.reason.clone(),
            false => format!("{}: {}", words.join(" "), self.reason),
        }
    }
}

/// Where how many were built: `: 12 here, 8 on 'build1'`.
pub fn places(builds: &Builds) -> String {
    let places = builds.successes().filter_map(|(place, count)| {
        let place = place_in_words(place)?;
        Some(format!("{count} {place}"))
    });
    let places: Vec<String> = places.collect();
    match places.is_empty() {
        true => String::new(),
        false => format!(": {}", places.join(", ")),
    }
}

/// `here` or `on 'build1'`.
fn place_in_words(place: &Place) -> Option<String> {
    match place {
        Place::Unknown => None,
        Place::Daemon => Some("here".to_owned()),
        Place::Machine(machine) => Some(format!("on '{machine}'")),
    }
}
