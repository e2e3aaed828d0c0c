//! What the daemon tells about a request when it is asked: how long things usually take, what waits for what,
//! when it will probably end. It is asked over a connection of its own, and the build does without if that
//! fails, or if the daemon is Guix's own, which cannot tell.

use std::collections::{BTreeSet, HashMap};
use std::thread;
use std::time::{Duration, Instant};

use farm::status::{Request, Running, Status};
use formats::StorePath;
use protocol::client::{Address, Connection, Options};

use crate::daemon;

/// How long a build must have taken before the daemon is asked, and how long it isn't asked again.
const INTERVAL: Duration = Duration::from_secs(1);
/// The part of the time that may be spent on asking.
const PART: u32 = 20;

/// What the daemon has told.
#[derive(Debug, Default)]
pub struct Told {
    /// Our request, if it has been found.
    pub request: Option<Request>,
    /// Everything that runs, by path.
    pub running: HashMap<String, Running>,
}

impl Told {
    /// What `status` tells of a request for these targets that was made by this user at this time, in seconds
    /// since the epoch, or later.
    fn of(status: Status, targets: &BTreeSet<String>, since: u64) -> Told {
        let is_ours = |request: &Request| {
            let is_of_us = request
                .client
                .uid
                .is_none_or(|uid| uid == system::ids::effective_uid());
            let has_targets = request.targets.iter().all(|path| targets.contains(path));
            let count = (request.targets.len() as u64).saturating_add(request.unlisted_targets);
            request.answered
                && is_of_us
                && request.since >= since
                && has_targets
                && count >= targets.len() as u64
        };
        let mut told = Told::default();
        for mut request in status.requests {
            // If there are several, all do the same.
            let ours = told.request.is_none() && is_ours(&request);
            let builds = std::mem::take(&mut request.builds);
            let running = builds.into_iter().map(|one| (one.path.clone(), one));
            told.running.extend(running);
            if ours {
                told.request = Some(request);
            }
        }
        told
    }
}

/// Has the daemon asked about a request for these targets, by a thread of its own, as long as `go_on` says so
/// after such a time; `tell` receives the answers.
pub fn ask(
    targets: &[StorePath],
    go_on: impl Fn(Duration) -> bool + Send + 'static,
    tell: impl Fn(Told) + Send + 'static,
) {
    let targets: BTreeSet<String> = targets.iter().map(ToString::to_string).collect();
    // (A clock of the daemon's host may differ a little, and times are whole seconds.)
    let since = system::clock::unix_time().saturating_sub(5);
    let asking = thread::Builder::new().name("asking".into());
    // Without the thread, less is shown.
    let _ = asking.spawn(move || {
        let mut connection = None;
        let mut rest = INTERVAL;
        while go_on(rest) {
            let begun = Instant::now();
            let Some(told) = question(&mut connection, &targets, since) else {
                return;
            };
            tell(told);
            rest = INTERVAL.max(begun.elapsed() * PART);
        }
    });
}

/// Asks once; `None` if there is no use in asking again.
fn question(
    connection: &mut Option<Connection>,
    targets: &BTreeSet<String>,
    since: u64,
) -> Option<Told> {
    if connection.is_none() {
        *connection = Some(connect()?);
    }
    let answer = connection.as_mut()?.query_farm_status().ok()?;
    let status: Status = serde_json::from_slice(&answer.0).ok()?;
    Some(Told::of(status, targets, since))
}

/// A connection whose messages nobody sees.
fn connect() -> Option<Connection> {
    let directories = daemon::directories().ok()?;
    let address = Address::from_environment(&directories.state).ok()?;
    address
        .connect(&directories.store, &Options::default())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm::status::Client;

    fn request(targets: &[&str], since: u64) -> Request {
        Request {
            targets: targets.iter().map(|&path| path.to_owned()).collect(),
            client: Client {
                uid: Some(system::ids::effective_uid()),
                address: None,
            },
            answered: true,
            since,
            ..Request::default()
        }
    }

    #[test]
    fn of_all_requests_ours_is_the_one_for_our_targets() {
        let targets: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();
        let mut others = request(&["a", "b"], 100);
        others.client.uid = Some(system::ids::effective_uid() + 1);
        let unanswered = Request {
            answered: false,
            ..request(&["a", "b"], 100)
        };
        let mut ours = request(&["b", "a"], 100);
        ours.number = 7;
        let status = Status {
            requests: vec![
                others,
                unanswered,
                request(&["a", "b"], 10),
                request(&["a"], 100),
                request(&["a", "c"], 100),
                ours,
            ],
            ..Status::default()
        };
        let told = Told::of(status, &targets, 95);
        assert_eq!(told.request.unwrap().number, 7);
        let of_many = Request {
            unlisted_targets: u64::MAX,
            ..request(&["a"], 100)
        };
        let status = Status {
            requests: vec![of_many],
            ..Status::default()
        };
        assert!(Told::of(status, &targets, 95).request.is_some());
    }
}
