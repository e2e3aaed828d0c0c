//! How long builds will take, by how long their like took: what the history says, read in the background.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm::ItemName;
use farm::estimate::{Basis, Estimate, Estimates};
use farm::history::Reader;
use formats::derivation::Derivation;
use formats::store_path::StorePath;
use system::sync::Mutex;

/// How old what is known may be before it is read again.
const AGE: Duration = Duration::from_secs(60);
/// How long processes that write the history are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of durations.
pub(super) struct Durations {
    /// Where the history is; `None` if there is none.
    directory: Option<PathBuf>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    estimates: Arc<Estimates>,
    /// When they were read, or began to be.
    since: Option<Instant>,
}

impl Durations {
    /// Those of the history in `directory`, which are not read yet.
    pub(super) fn new(directory: Option<PathBuf>) -> Arc<Durations> {
        Arc::new(Durations {
            directory,
            known: Mutex::default(),
        })
    }

    /// Reads what the history says, in the background, if that is due.
    pub(super) fn refresh(self: &Arc<Self>) {
        let Some(directory) = &self.directory else {
            return;
        };
        let mut known = self.known.lock();
        if known.since.is_some_and(|since| since.elapsed() < AGE) {
            return;
        }
        known.since = Some(Instant::now());
        drop(known);
        let (durations, directory) = (self.clone(), directory.clone());
        let read = move || {
            // A writer says what is wrong with the history.
            if let Ok(Some(reader)) = Reader::open(&directory, PATIENCE) {
                if let Ok(estimates) = reader.estimates() {
                    durations.known.lock().estimates = Arc::new(estimates);
                }
            }
        };
        // Without a thread, what was known is good enough.
        let _ = std::thread::Builder::new()
            .name("durations".to_owned())
            .spawn(read);
    }

    /// How long a derivation will take for a system; `None` if nothing like it is known.
    pub(super) fn of(
        &self,
        path: &StorePath,
        derivation: &Derivation,
        system: &str,
    ) -> Option<Estimate> {
        let estimates = self.known.lock().estimates.clone();
        // By the name under which the history has it.
        let item = ItemName::of_derivation(path, derivation);
        let estimate = estimates.estimate(&item, system);
        (estimate.from != Basis::Nothing).then_some(estimate)
    }
}
