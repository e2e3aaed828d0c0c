//! What a request does, as far as the daemon's log tells: what runs, where and since when, and how much is
//! done.

use std::time::Instant;

use protocol::trace::Trace;

/// How many things that run are remembered, whatever a daemon claims.
const MAX_RUNNING: usize = 4096;
/// How many failures are named.
const MAX_FAILED: usize = 100;

/// How much a request will probably do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Derivations to build.
    pub builds: usize,
    /// Items to fetch.
    pub fetches: usize,
    /// How many bytes these are, as far as that is known.
    pub bytes: u64,
}

/// Something that is built or fetched.
#[derive(Debug)]
pub struct Task {
    /// The derivation or item.
    pub path: String,
    /// Whether an item is fetched, and nothing is built.
    pub is_fetch: bool,
    /// The build machine, once it is known.
    pub machine: Option<String>,
    /// When it began.
    pub begun: Instant,
    /// What is being downloaded for it.
    pub download: Option<Download>,
}

/// A download that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Download {
    /// How many bytes have arrived.
    pub arrived: u64,
    /// How many there are, if that is known.
    pub size: Option<u64>,
}

/// What a request does.
pub struct Activity {
    /// When it was made.
    pub begun: Instant,
    /// What was expected of it.
    pub expected: Expected,
    /// What runs, the oldest first.
    pub running: Vec<Task>,
    /// How many derivations were built.
    pub built: usize,
    /// How many items were fetched, and how many bytes they had.
    pub fetched: usize,
    /// How many bytes these had.
    pub fetched_bytes: u64,
    /// How many builds have failed.
    pub failed: usize,
    /// The first of them.
    pub failures: Vec<String>,
}

impl Activity {
    /// Nothing runs yet.
    pub fn expecting(expected: Expected) -> Activity {
        Activity {
            begun: Instant::now(),
            expected,
            running: Vec::new(),
            built: 0,
            fetched: 0,
            fetched_bytes: 0,
            failed: 0,
            failures: Vec::new(),
        }
    }

    /// Something has happened; `builder` is the derivation whose builder, or hook, has reported it.
    pub fn happened(&mut self, trace: &Trace<'_>, builder: Option<&str>) {
        match *trace {
            Trace::BuildStarted { derivation, .. } => {
                // An earlier attempt has failed.
                self.end(derivation);
                self.begin(derivation, false);
            }
            Trace::BuildRemote {
                derivation,
                machine,
            } => {
                let is_own = builder.is_none_or(|own| own == derivation);
                if let Some(task) = self.task(derivation).filter(|_| is_own) {
                    task.machine = Some(machine.to_owned());
                }
            }
            Trace::BuildSucceeded { derivation } => {
                self.end(derivation);
                self.built += 1;
            }
            Trace::BuildFailed { derivation, .. } => {
                self.end(derivation);
                self.failed += 1;
                if self.failures.len() < MAX_FAILED {
                    self.failures.push(derivation.to_owned());
                }
            }
            // Another attempt follows.
            Trace::HookFailed { derivation, .. } => _ = self.end(derivation),
            Trace::SubstituterStarted { path } => self.begin(path, true),
            Trace::SubstituterSucceeded { path } => {
                if self.end(path).is_some() {
                    self.fetched += 1;
                }
            }
            Trace::SubstituterFailed { path, .. } => _ = self.end(path),
            Trace::DownloadStarted { file, size, .. } => {
                let download = Download { arrived: 0, size };
                self.set_download(builder.unwrap_or(file), Some(download));
            }
            Trace::DownloadProgress {
                file,
                size,
                transferred: arrived,
                ..
            } => self.set_download(builder.unwrap_or(file), Some(Download { arrived, size })),
            Trace::DownloadSucceeded { file, size, .. } => {
                self.fetched_bytes = self.fetched_bytes.saturating_add(size.unwrap_or(0));
                self.set_download(builder.unwrap_or(file), None);
            }
            Trace::BuildLog { .. }
            | Trace::UnsupportedPlatform { .. }
            | Trace::HashMismatch { .. }
            | Trace::BuildPostponed { .. }
            | Trace::BuildVerdict { .. } => {}
        }
    }

    /// How many bytes have been downloaded until now.
    pub fn bytes(&self) -> u64 {
        let running = self.running.iter().filter_map(|task| task.download);
        running.fold(self.fetched_bytes, |sum, download| {
            sum.saturating_add(download.arrived)
        })
    }

    fn begin(&mut self, path: &str, is_fetch: bool) {
        if self.running.len() < MAX_RUNNING && self.task(path).is_none() {
            self.running.push(Task {
                path: path.to_owned(),
                is_fetch,
                machine: None,
                begun: Instant::now(),
                download: None,
            });
        }
    }

    fn end(&mut self, path: &str) -> Option<Task> {
        let index = self.running.iter().position(|task| task.path == path)?;
        Some(self.running.remove(index))
    }

    fn task(&mut self, path: &str) -> Option<&mut Task> {
        self.running.iter_mut().find(|task| task.path == path)
    }

    /// Downloads of what isn't known to run are not shown: they are helpers' of which nothing tells the end.
    fn set_download(&mut self, path: &str, download: Option<Download>) {
        if let Some(task) = self.task(path) {
            task.download = download;
        }
    }
}
