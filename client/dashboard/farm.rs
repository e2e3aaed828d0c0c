//! What the document is gathered from: the daemon, the hook's files, and the history. What can't be had is
//! said, and the rest is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use farm::status::{Client, REQUESTS_SHOWN};
use hook::status::known::Known;
use protocol::client::Address;
use serde::Deserialize;
use serde_json::value::RawValue;
use store::Directories;
use system::clock::unix_time;

use super::cost::processor_time;
use super::daemon_status::DaemonStatus;
use super::document::{self, Document};
use super::machines::Machines;
use super::past::Past;
use crate::output;

/// Where everything comes from.
pub struct Farm {
    host: String,
    daemon: DaemonStatus,
    machines: Machines,
    past: Past,
    users: Users,
}

/// How many names of users are kept.
const USERS_KEPT: usize = 1000;

/// Whose a request is.
#[derive(Deserialize)]
struct Request {
    client: Client,
}

/// What was gathered.
pub struct Gathered {
    /// When, in seconds since the epoch.
    pub time: u64,
    /// The document as an event.
    pub event: Vec<u8>,
    /// What is known of the machines here; nothing if it can't be read.
    pub known: Arc<Vec<Known>>,
    /// The processor time that it took to look at the machines.
    pub looked: Duration,
    /// The requests as the daemon has told of them; nothing if it hasn't.
    pub requests: Option<Box<RawValue>>,
}

impl Farm {
    /// For a daemon's directories, and its address.
    pub fn new(directories: &Directories, daemon: Address) -> Result<Farm> {
        let name = nix::unistd::gethostname().unwrap_or_default();
        Ok(Farm {
            host: name.to_string_lossy().into_owned(),
            daemon: DaemonStatus::new(directories, daemon),
            machines: Machines::new(directories)?,
            past: Past::new(directories),
            users: Users::default(),
        })
    }

    /// Gathers everything.
    pub fn gather(&mut self) -> Gathered {
        let time = unix_time();
        let (told, error) = match self.daemon.ask() {
            Ok(told) => (Some(told), None),
            Err(error) => (None, Some(document::text(&output::text(&error)))),
        };
        let users = told.as_ref().map(|told| self.users.of(&told.requests));
        let users = users.unwrap_or_default();
        let before = processor_time();
        let (shown, history_error) = self.past.look(time);
        let looked = match self.machines.are_due() {
            true => (self.machines).look(told.as_ref(), &shown.states, before),
            false => Duration::ZERO,
        };
        let machines = self.machines.shown();
        let mut document = Document::new(time, &self.host, &users);
        document.error = error;
        document.history_error = history_error.map(document::text);
        document.failures = shown.failures.as_deref();
        document.throughput = shown.throughput.as_deref();
        document.machines = machines.rows.as_deref();
        document.unlisted_machines = machines.unlisted;
        document.machines_error = machines.error.as_deref();
        document.unlisted_states = shown.states.unlisted;
        document.unlisted_reasons = shown.states.unlisted_reasons;
        if let Some(told) = &told {
            document.requests = Some(&told.requests);
            document.unlisted_requests = told.unlisted_requests;
        }
        Gathered {
            time,
            event: document.event(),
            known: machines.known.clone(),
            looked,
            requests: told.map(|told| told.requests),
        }
    }

    /// Closes the connection to the daemon: nobody looks.
    pub fn rest(&mut self) {
        self.daemon.rest();
    }
}

/// The names of those who have made requests.
#[derive(Default)]
struct Users(BTreeMap<u32, String>);

impl Users {
    /// Those of these requests. A name that was found once is kept: a list of accounts that has been replaced
    /// can't be read (`confine.rs`).
    fn of(&mut self, requests: &RawValue) -> BTreeMap<u32, String> {
        let requests: Vec<Request> = serde_json::from_str(requests.get()).unwrap_or_default();
        let uids: BTreeSet<u32> = requests.iter().filter_map(|one| one.client.uid).collect();
        let mut known = BTreeMap::new();
        for uid in uids.into_iter().take(REQUESTS_SHOWN) {
            let found = system::ids::user_by_id(uid).ok().flatten();
            let found = found.map(|account| document::text(&account.name));
            if let Some(name) = found.or_else(|| self.0.remove(&uid)) {
                known.insert(uid, name);
            }
        }
        if self.0.len() > USERS_KEPT {
            self.0.clear();
        }
        self.0.extend(known.clone());
        known
    }
}
