//! The state of everything that is being built, as a daemon tells it and clients show it
//! (`doc/spec/farm-status.md`). The fields are those of the JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How many targets of a request are named.
pub const TARGETS_SHOWN: usize = 100;
/// How many derivations of a critical path are named.
pub const PATH_SHOWN: usize = 100;
/// How many goals of a request are named that run, and how many that wait.
pub const GOALS_SHOWN: usize = 1000;
/// How many goals of all requests together are named.
pub const ALL_GOALS_SHOWN: usize = 10_000;
/// How many requests are told of.
pub const REQUESTS_SHOWN: usize = 1000;
/// How many machines are told of.
pub const MACHINES_SHOWN: usize = 2000;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// When this was true, in seconds since the epoch.
    pub time: u64,
    /// The requests in progress, the oldest first.
    pub requests: Vec<Request>,
    /// How many more there are.
    pub unlisted_requests: u64,
    /// The build machines; empty if nothing is offloaded.
    pub machines: Vec<Machine>,
    /// How many more there are.
    pub unlisted_machines: u64,
    /// Why the machines are unknown, if they are.
    pub machines_error: Option<String>,
}

/// Whoever has made a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// A user of the daemon's machine.
    pub uid: Option<u32>,
    /// Where a client over TCP is.
    pub address: Option<String>,
}

/// A client's request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Its number; numbers aren't used twice until the daemon ends.
    pub number: u64,
    /// Whose it is.
    pub client: Client,
    /// When it was made, in seconds since the epoch.
    pub since: u64,
    /// The derivations and items that were asked for.
    pub targets: Vec<String>,
    /// How many more were.
    pub unlisted_targets: u64,
    /// Whether it has told what it does. If not, it has been busy, and everything below is unknown.
    pub answered: bool,
    /// How many derivations it has built, and items fetched.
    pub done: u64,
    /// How many of either run.
    pub running: u64,
    /// How many of either wait.
    pub waiting: u64,
    /// How many of either have failed, or can't be done because others have failed.
    pub failed: u64,
    /// The derivations of the longest remaining path, in the order in which they must be built.
    pub critical_path: Vec<String>,
    /// How many more it has.
    pub unlisted_path: u64,
    /// When it will probably end; `None` if that is unknown.
    pub end: Option<End>,
    /// What runs.
    pub builds: Vec<Running>,
    /// What waits.
    pub waits: Vec<Wait>,
    /// How many goals wait, for each reason.
    pub reasons: BTreeMap<String, u64>,
}

/// When a request will probably end, counted from [`Status::time`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// The longest remaining path, if each derivation takes as long as usual: less is unlikely,
    /// whatever the number of machines.
    pub earliest_s: u64,
    /// If each takes as long as one in ten does, and no more run at the same time than now.
    pub latest_s: u64,
}

/// Something that is being built or fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Running {
    /// The derivation or item.
    pub path: String,
    /// `here`, `hook` (a hook builds it, it isn't known where), `fetch`, or `machine NAME`.
    pub place: String,
    /// For how long, in seconds.
    pub elapsed_s: u64,
    /// How long its like takes, in seconds.
    pub usual_s: Option<u64>,
    /// How long one in ten of them takes at least.
    pub long_s: Option<u64>,
}

/// Something that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wait {
    /// The derivation or item.
    pub path: String,
    /// The name of the reason ([`Waiting::name`](crate::waiting::Waiting::name)).
    pub why: String,
    /// The reason in words.
    pub text: String,
    /// In how many seconds it is tried again at the latest, if that is known.
    pub retry_s: Option<u64>,
}

/// A build machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// How many builds it takes at a time.
    pub slots: u32,
    /// How many it has.
    pub slots_used: u64,
    /// Why it gets nothing now, as far as is known; `None` if it could get something.
    pub why_not: Option<String>,
    /// The same in one word: `ready`, `busy`, `full`, `failing` or `drained`.
    pub state: String,
}
