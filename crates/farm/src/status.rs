//! The state of everything that is being built, as a daemon tells it and clients show it
//! (`doc/spec/farm-status.md`). The fields are those of the JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::waiting::Waiting;

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

/// How large all of it may be as JSON, in bytes: a client takes twice as much.
pub const MOST_BYTES: usize = 16 << 20;
/// How much of that is for the machines.
pub const MACHINES_BYTES: usize = 4 << 20;
/// How much is for one request at most.
const REQUEST_BYTES: usize = 1 << 20;
/// How many characters of a machine's name are told.
pub const NAME_SHOWN: usize = 255;

/// How many bytes a request takes besides what it lists.
const REQUEST_FRAME: usize = 2 << 10;
/// The same of a build, a wait or a machine.
const ENTRY_FRAME: usize = 160;

/// What strangers are told of a machine that gets nothing, and of files that can't be read.
const NOT_NOW: &str = "it gets no builds now";
const UNREADABLE: &str = "the machine files cannot be read";

/// How many bytes of JSON there is room for.
#[derive(Clone, Copy, Debug)]
pub struct Room(usize);

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Room {
        Room(bytes)
    }

    /// The room that each of so many requests has for what it lists.
    pub fn of_each_request(requests: usize) -> Room {
        let whole = (MOST_BYTES - MACHINES_BYTES) / requests.max(1);
        Room(whole.min(REQUEST_BYTES).saturating_sub(REQUEST_FRAME))
    }

    /// Takes so many bytes, if there is room.
    pub fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    /// The first of these that fit into `1 / part` of the room.
    pub fn fill<T>(
        &mut self,
        part: usize,
        from: impl IntoIterator<Item = T>,
        size: impl Fn(&T) -> usize,
    ) -> Vec<T> {
        let mut own = Room(self.0 / part.max(1));
        let all = own.0;
        let fitting = from.into_iter().take_while(|one| own.take(size(one)));
        let taken = fitting.collect();
        self.0 -= all - own.0;
        taken
    }
}

/// How many bytes a character takes in JSON at most: two escapes beyond the first 65,536.
const MOST_OF_CHARACTER: usize = 12;

/// How many bytes a text takes in JSON at most.
pub fn text_size(text: &str) -> usize {
    let of = |c: char| match c {
        '"' | '\\' => 2,
        ' '..='~' => 1,
        ..'\u{10000}' => 6,
        _ => MOST_OF_CHARACTER,
    };
    3 + text.chars().map(of).sum::<usize>()
}

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

impl Status {
    /// What may be told to somebody who is no user of the daemon's machine: not who has made the requests, and
    /// nothing in the words of machines and of the hook, which name accounts, hosts and files.
    pub fn for_strangers(mut self) -> Status {
        for request in &mut self.requests {
            request.client = Client::default();
            let by_hook = Waiting::Machine(None);
            for wait in request
                .waits
                .iter_mut()
                .filter(|wait| wait.why == by_hook.name())
            {
                wait.text = by_hook.about("it");
            }
        }
        for machine in &mut self.machines {
            machine.why_not = machine.why_not.take().map(|_| NOT_NOW.to_owned());
        }
        self.machines_error = self.machines_error.map(|_| UNREADABLE.to_owned());
        self
    }
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
    /// How many more run.
    pub unlisted_builds: u64,
    /// What waits.
    pub waits: Vec<Wait>,
    /// How many more wait.
    pub unlisted_waits: u64,
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

impl Running {
    /// How many bytes it takes in JSON at most, with the name of a machine that isn't known yet.
    pub fn size(&self) -> usize {
        let place = match self.place.as_str() {
            "hook" => MOST_OF_CHARACTER * (NAME_SHOWN + 10),
            place => text_size(place),
        };
        ENTRY_FRAME + text_size(&self.path) + place
    }
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

impl Wait {
    /// How many bytes it takes in JSON at most.
    pub fn size(&self) -> usize {
        ENTRY_FRAME + text_size(&self.path) + text_size(&self.text)
    }
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

impl Machine {
    /// How many bytes it takes in JSON at most.
    pub fn size(&self) -> usize {
        let reason = self.why_not.as_deref().unwrap_or_default();
        ENTRY_FRAME + text_size(&self.name) + text_size(reason)
    }
}
