//! What the daemon tells when it is asked: all of its answer must have come before some time has passed, since
//! it may be another machine's, or anybody's.

use std::time::Duration;

use anyhow::{Context, Result};
use farm::status::Machine;
use protocol::client::{Address, Connection, Deadline, Error, Options};
use serde::Deserialize;
use serde_json::value::RawValue;
use store::Directories;

use crate::status;

/// How long the daemon may take for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the daemon has told. The requests are passed on as they are.
#[derive(Deserialize)]
pub struct Told {
    pub requests: Box<RawValue>,
    #[serde(default)]
    pub unlisted_requests: u64,
    #[serde(default)]
    pub machines: Vec<Machine>,
    #[serde(default)]
    pub unlisted_machines: u64,
    #[serde(default)]
    pub machines_error: Option<String>,
}

/// The daemon, which is asked again and again.
pub struct DaemonStatus {
    directories: Directories,
    address: Address,
    /// By when it must have answered.
    deadline: Deadline,
    connection: Option<Connection>,
}

impl DaemonStatus {
    /// The daemon at this address, with these directories.
    pub fn new(directories: &Directories, address: Address) -> DaemonStatus {
        DaemonStatus {
            directories: directories.clone(),
            address,
            deadline: Deadline::after(PATIENCE),
            connection: None,
        }
    }

    /// Asks it; one that has been started anew since it was asked last, once more.
    pub fn ask(&mut self) -> Result<Told> {
        self.deadline.restart(PATIENCE);
        let text = loop {
            let kept = self.connection.take();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().map_err(explained)?,
            };
            match connection.query_farm_status() {
                Err(error) if is_kept && !is_silence(&error) => {}
                Err(error) if is_silence(&error) => return Err(explained(error)),
                answer => {
                    let text = status::explain(answer)?;
                    self.connection = Some(connection);
                    break text;
                }
            }
        };
        serde_json::from_slice(&text).context("the daemon's answer cannot be read")
    }

    fn connect(&self) -> Result<Connection, Error> {
        let (store, options) = (&self.directories.store, Options::default());
        self.address.connect_before(store, &options, &self.deadline)
    }

    /// Closes the connection.
    pub fn rest(&mut self) {
        self.connection = None;
    }
}

/// Whether the daemon has not said all in time.
fn is_silence(error: &Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match error {
        Error::Io { source, .. } | Error::Connect { source, .. } => {
            matches!(source.kind(), TimedOut | WouldBlock)
        }
        _ => false,
    }
}

fn explained(error: Error) -> anyhow::Error {
    match is_silence(&error) {
        true => anyhow::anyhow!(
            "the build daemon has not answered within {} s",
            PATIENCE.as_secs()
        ),
        false => error.into(),
    }
}
