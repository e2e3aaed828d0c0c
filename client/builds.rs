//! The builds of a request, as far as the daemon's log tells: which run, what they printed last, and
//! how they ended.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use formats::printable::printable;
use formats::store_path::name_without_hash;

/// How many lines of a failed build's log are shown.
const TAIL_LINES: usize = 20;
/// How much of a build's output is kept for that, in bytes.
const TAIL_BYTES: usize = 16 << 10;
/// How many builds are remembered, whatever a daemon claims to run at the same time.
const MAX_BUILDS: usize = 4096;

/// A build that runs.
#[derive(Default)]
pub struct Build {
    /// The derivation; empty for a process of which the daemon did not say what it builds.
    derivation: String,
    /// When it began, unless it is such a process.
    begun: Option<Instant>,
    /// Where the daemon keeps the log; empty if it does not.
    log_file: String,
    /// The beginning of an incomplete line of its output.
    pub line: Vec<u8>,
    /// Whether that line's beginning was already shown.
    pub inside_line: bool,
    /// Whether it ran at the same time as others, so that their output is mixed.
    pub ran_beside_others: bool,
    tail: Vec<u8>,
}

impl Build {
    /// Adds to the output that is kept.
    pub fn add_to_tail(&mut self, output: &[u8]) {
        self.tail.extend_from_slice(output);
        if self.tail.len() > 2 * TAIL_BYTES {
            self.tail.drain(..self.tail.len() - TAIL_BYTES);
        }
    }

    /// The derivation, if it is known.
    pub fn derivation(&self) -> Option<&str> {
        (!self.derivation.is_empty()).then_some(&self.derivation)
    }

    /// Where the daemon keeps the log; empty if it does not.
    pub fn log_file(&self) -> String {
        self.log_file.replace("//", "/")
    }

    /// How long it has run.
    pub fn age(&self) -> Option<Duration> {
        self.begun.map(|begun| begun.elapsed())
    }

    /// The last lines of its output.
    pub fn tail(&self) -> Vec<String> {
        let start = self.tail.len().saturating_sub(TAIL_BYTES);
        let text = String::from_utf8_lossy(&self.tail[start..]);
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(TAIL_LINES);
        lines[first..].iter().map(|&line| line.to_owned()).collect()
    }

    /// What its lines begin with where they stand among those of others: `NAME> `.
    pub fn prefix(&self) -> String {
        let name = name_without_hash(&self.derivation);
        match name.strip_suffix(".drv").unwrap_or(name) {
            "" => String::new(),
            name => format!("{}> ", printable(name)),
        }
    }
}

/// Where a derivation was built, as far as the daemon's log tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The log tells nothing.
    #[default]
    Unknown,
    /// The daemon has started a build, which no hook has sent to a machine.
    Daemon,
    /// A hook has sent it to this machine.
    Machine(String),
}

/// The builds of a request.
#[derive(Default)]
pub struct Builds {
    expected: usize,
    succeeded: usize,
    failed: usize,
    /// By process id.
    running: HashMap<u32, Build>,
    /// How many builds were started of which the process id is not known.
    unknown_processes: u32,
    /// Where the last attempt at each derivation was made.
    places: HashMap<String, Place>,
    /// How many have succeeded at each place.
    succeeded_at: BTreeMap<Place, usize>,
}

impl Builds {
    /// None runs yet; so many are expected.
    pub fn expecting(expected: usize) -> Builds {
        Builds {
            expected,
            ..Builds::default()
        }
    }

    /// A build has started, here or by a hook. Older daemons do not tell the process id of hooks.
    pub fn start(&mut self, derivation: &str, log_file: &str, pid: Option<u32>) {
        // The machine of an earlier attempt has failed. If there is none after it, because the
        // machine failed only after it had sent the outputs, then it has built them.
        self.set_place(derivation, Place::Daemon);
        if self.running.len() >= MAX_BUILDS {
            return;
        }
        let build = Build {
            derivation: derivation.to_owned(),
            begun: Some(Instant::now()),
            log_file: log_file.to_owned(),
            ..Build::default()
        };
        let pid = pid.unwrap_or_else(|| {
            self.unknown_processes += 1;
            // No process has such an id.
            u32::MAX - self.unknown_processes
        });
        self.running.insert(pid, build);
        if self.several_run() {
            let running = self.running.values_mut();
            running.for_each(|build| build.ran_beside_others = true);
        }
    }

    /// Whether the output of several builds may be mixed.
    pub fn several_run(&self) -> bool {
        let named = |build: &&Build| !build.derivation.is_empty();
        self.running.values().filter(named).nth(1).is_some()
    }

    /// The build of a process.
    pub fn of_process(&mut self, pid: u32) -> &mut Build {
        // Only a daemon that invents processes has so many.
        if self.running.len() >= MAX_BUILDS && !self.running.contains_key(&pid) {
            self.running.clear();
        }
        self.running.entry(pid).or_default()
    }

    /// The process that builds a derivation.
    pub fn process_of(&self, derivation: &str) -> Option<u32> {
        let mut running = self.running.iter();
        let found = running.find(|(_, build)| build.derivation == derivation);
        found.map(|(&pid, _)| pid)
    }

    /// Removes a build that has ended.
    pub fn end(&mut self, derivation: &str) -> Option<Build> {
        let pid = self.process_of(derivation)?;
        self.running.remove(&pid)
    }

    /// Counts a success. Returns the count to show: ` (N of M)`.
    pub fn succeeded(&mut self, derivation: &str) -> String {
        self.succeeded += 1;
        let place = self.place_of(derivation);
        if self.succeeded_at.len() < MAX_BUILDS || self.succeeded_at.contains_key(&place) {
            *self.succeeded_at.entry(place).or_insert(0) += 1;
        }
        let done = self.succeeded + self.failed;
        self.expected = self.expected.max(done);
        match self.expected {
            0 | 1 => String::new(),
            expected => format!(" ({} of {expected})", self.succeeded),
        }
    }

    /// Counts a failure.
    pub fn failed(&mut self) {
        self.failed += 1;
    }

    /// If some of several builds failed, how many did not.
    pub fn summary(&self) -> Option<String> {
        let (succeeded, failed) = (self.succeeded, self.failed);
        let expected = self.expected.max(succeeded + failed);
        (failed > 0 && expected > 1)
            .then(|| format!("{succeeded} of {expected} derivations built, {failed} failed"))
    }

    /// Whether there are, or were to be, several.
    pub fn are_several(&self) -> bool {
        self.expected.max(self.succeeded + self.failed) > 1
    }

    /// How many have succeeded.
    pub fn count_of_successes(&self) -> usize {
        self.succeeded
    }

    /// How many have succeeded here, and on each machine.
    pub fn successes(&self) -> impl Iterator<Item = (&Place, usize)> {
        self.succeeded_at
            .iter()
            .map(|(place, &count)| (place, count))
    }

    /// A hook has sent a derivation to a machine.
    pub fn sent_to(&mut self, derivation: &str, machine: &str) {
        self.set_place(derivation, Place::Machine(machine.to_owned()));
    }

    fn set_place(&mut self, derivation: &str, place: Place) {
        if let Some(known) = self.places.get_mut(derivation) {
            *known = place;
        } else if self.places.len() < MAX_BUILDS {
            self.places.insert(derivation.to_owned(), place);
        }
    }

    /// Where a derivation was built: where the last attempt was made.
    pub fn place_of(&self, derivation: &str) -> Place {
        self.places.get(derivation).cloned().unwrap_or_default()
    }

    /// Takes the incomplete lines of the builds that still run.
    pub fn take_lines(&mut self) -> Vec<(u32, Vec<u8>)> {
        let running = self.running.iter_mut();
        let lines = running.map(|(&pid, build)| (pid, std::mem::take(&mut build.line)));
        lines.filter(|(_, line)| !line.is_empty()).collect()
    }
}
