//! What the document is gathered from: the daemon, the hook's files, and the history. What can't be had is
//! said, and the rest is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use farm::status::{Client, MACHINES_SHOWN, Machine as ToldMachine};
use hook::directories::HookDirectories;
use hook::generated;
use hook::machines::Machine;
use hook::status::known::{Known, known};
use protocol::client::{Address, Connection, Error, Options};
use serde::Deserialize;
use serde_json::value::RawValue;
use store::Directories;
use system::clock::unix_time;

use super::cost::processor_time;
use super::document::{self, Document, Row};
use super::past::Past;
use crate::{output, status};

/// How long the daemon may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the list of machines is kept at least, and by how much longer than it took to read it: to read it,
/// Guile may have to run.
const LISTED: Duration = Duration::from_secs(10);
const LISTED_FACTOR: u32 = 100;

/// The part of a processor's time that looking at machines may take: one of so many.
const MACHINES_PART: u32 = 300;
/// How long the machines are kept at most.
const MACHINES_KEPT: Duration = Duration::from_secs(60);

/// Where everything comes from.
pub struct Farm {
    directories: Directories,
    hook: HookDirectories,
    address: Address,
    host: String,
    daemon: Option<Connection>,
    listed: Option<(Instant, Arc<Listed>)>,
    /// The machines, and until when they are good enough.
    machines: Option<(Instant, Arc<Machines>)>,
    past: Past,
}

/// The machines of the machine files.
struct Listed {
    machines: Vec<Machine>,
    /// How many of them are not those of commands.
    in_files: usize,
    /// Why they are unknown.
    error: Option<String>,
    /// What is wrong with entries, whose machines are missing.
    problem: Option<String>,
}

/// The machines as they are shown.
#[derive(Default)]
struct Machines {
    rows: Option<Box<RawValue>>,
    unlisted: u64,
    error: Option<String>,
    known: Arc<Vec<Known>>,
}

/// What the daemon has told. The requests are passed on as they are.
#[derive(Deserialize)]
struct Told {
    requests: Box<RawValue>,
    #[serde(default)]
    unlisted_requests: u64,
    #[serde(default)]
    machines: Vec<ToldMachine>,
    #[serde(default)]
    unlisted_machines: u64,
    #[serde(default)]
    machines_error: Option<String>,
}

/// Whose a request is.
#[derive(Deserialize)]
struct Request {
    client: Client,
}

/// What was gathered.
pub struct Gathered {
    /// When, in seconds since the epoch.
    pub time: u64,
    /// The document as JSON, without its version and its time.
    pub document: String,
    /// What is known of the machines here; nothing if it can't be read.
    pub known: Arc<Vec<Known>>,
    /// The processor time that it took to look at the machines.
    pub looked: Duration,
    /// The requests as the daemon has told of them; nothing if it hasn't.
    pub requests: Option<Box<RawValue>>,
}

impl Farm {
    /// For a daemon's directories. The daemon is that of the environment.
    pub fn new(directories: &Directories) -> Result<Farm> {
        let name = nix::unistd::gethostname().unwrap_or_default();
        Ok(Farm {
            directories: directories.clone(),
            hook: HookDirectories::new(directories).context("looking up our user")?,
            address: Address::from_environment(&directories.state)?,
            host: name.to_string_lossy().into_owned(),
            daemon: None,
            listed: None,
            machines: None,
            past: Past::new(directories),
        })
    }

    /// Gathers everything.
    pub fn gather(&mut self) -> Gathered {
        let time = unix_time();
        let told = self.ask().and_then(|text| {
            serde_json::from_slice::<Told>(&text).context("the daemon's answer cannot be read")
        });
        let (told, error) = match told {
            Ok(told) => (Some(told), None),
            Err(error) => (None, Some(document::text(&output::text(&error)))),
        };
        let users = told.as_ref().map(|told| users(&told.requests));
        let users = users.unwrap_or_default();
        let before = processor_time();
        let machines = self.machines(told.as_ref(), time);
        let looked = processor_time().saturating_sub(before);
        let (shown, history_error) = self.past.look(time);
        let mut document = Document::new(&self.host, &users);
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
            document: document.json(),
            known: machines.known.clone(),
            looked,
            requests: told.map(|told| told.requests),
        }
    }

    /// The machines, looked at now or, if that takes much work, a while ago: as far as this user may, or else as
    /// the daemon tells of them.
    fn machines(&mut self, told: Option<&Told>, time: u64) -> Arc<Machines> {
        if let Some((until, machines)) = &self.machines {
            if Instant::now() < *until {
                return machines.clone();
            }
        }
        let before = processor_time();
        let looked = self.look();
        let (shown, _) = self.past.look(time);
        let states = |key: &str| shown.states.machines.get(key).map(|states| &**states);
        let machines = match (looked, told) {
            (Ok((listed, known)), _) if listed.error.is_none() || told.is_none() => {
                let rows = listed.machines.iter().zip(&known).enumerate();
                let rows = rows.map(|(index, (machine, known))| {
                    let is_generated = index >= listed.in_files;
                    Row::known(machine, known, is_generated, states(&machine.key()))
                });
                Machines {
                    rows: document::raw(&rows.collect::<Vec<_>>()),
                    unlisted: listed.machines.len().saturating_sub(MACHINES_SHOWN) as u64,
                    error: listed
                        .error
                        .as_ref()
                        .or(listed.problem.as_ref())
                        .map(|error| document::text(error)),
                    known: Arc::new(known),
                }
            }
            (_, Some(told)) => {
                let rows = told.machines.iter().map(|one| {
                    let key = format!("{}:{}", one.name, one.port);
                    Row::told(one, states(&key))
                });
                Machines {
                    rows: document::raw(&rows.collect::<Vec<_>>()),
                    unlisted: told.unlisted_machines,
                    error: told.machines_error.as_deref().map(document::text),
                    known: Arc::default(),
                }
            }
            (Err(error), None) => Machines {
                error: Some(document::text(&output::text(&error))),
                ..Machines::default()
            },
            (Ok(_), None) => Machines::default(),
        };
        let machines = Arc::new(machines);
        let took = processor_time().saturating_sub(before);
        let until = Instant::now() + took.saturating_mul(MACHINES_PART).min(MACHINES_KEPT);
        self.machines = Some((until, machines.clone()));
        machines
    }

    /// Closes the connection to the daemon: nobody looks.
    pub fn rest(&mut self) {
        self.daemon = None;
    }

    /// Asks the daemon; one that has been started anew since it was asked last, once more.
    fn ask(&mut self) -> Result<Vec<u8>> {
        if let Some(mut daemon) = self.daemon.take() {
            match daemon.query_farm_status() {
                Ok(answer) => {
                    self.daemon = Some(daemon);
                    return Ok(answer.0.into());
                }
                Err(error) if is_silence(&error) => return Err(silent()),
                Err(_) => {}
            }
        }
        let store = &self.directories.store;
        let options = Options::default();
        let connected = self
            .address
            .connect_with_patience(store, &options, Some(PATIENCE));
        let mut daemon = match connected {
            Err(error) if is_silence(&error) => return Err(silent()),
            connected => connected?,
        };
        daemon.set_log(|_| {});
        match daemon.query_farm_status() {
            Err(error) if is_silence(&error) => Err(silent()),
            answer => {
                let answer = status::explain(answer)?;
                self.daemon = Some(daemon);
                Ok(answer)
            }
        }
    }

    /// Looks at the machines, as far as this user may.
    fn look(&mut self) -> Result<(Arc<Listed>, Vec<Known>)> {
        let now = Instant::now();
        if self.listed.as_ref().is_none_or(|(until, _)| now >= *until) {
            let listed = match generated::load_known(&self.hook) {
                Ok((list, in_files)) => Listed {
                    problem: list.problem(),
                    machines: list.machines,
                    in_files,
                    error: None,
                },
                Err(error) => Listed {
                    machines: Vec::new(),
                    in_files: 0,
                    error: Some(error.to_string()),
                    problem: None,
                },
            };
            let kept = LISTED.max(now.elapsed().saturating_mul(LISTED_FACTOR));
            self.listed = Some((Instant::now() + kept, Arc::new(listed)));
        }
        let (_, listed) = self.listed.as_ref().context("the machines are unknown")?;
        let count = listed.machines.len().min(MACHINES_SHOWN);
        let known = known(&listed.machines[..count], &self.hook)?;
        Ok((listed.clone(), known))
    }
}

/// The names of those who have made requests.
fn users(requests: &RawValue) -> BTreeMap<u32, String> {
    let requests: Vec<Request> = serde_json::from_str(requests.get()).unwrap_or_default();
    let uids: BTreeSet<u32> = requests.iter().filter_map(|one| one.client.uid).collect();
    let name = |uid: u32| {
        let account = system::ids::user_by_id(uid).ok().flatten()?;
        Some((uid, document::text(&account.name)))
    };
    uids.into_iter().filter_map(name).collect()
}

/// Whether the daemon has said nothing for too long.
fn is_silence(error: &Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match error {
        Error::Io { source, .. } => matches!(source.kind(), TimedOut | WouldBlock),
        _ => false,
    }
}

fn silent() -> anyhow::Error {
    anyhow::anyhow!(
        "the build daemon has not answered for {} s",
        PATIENCE.as_secs()
    )
}
