//! The state of everything that is being built, as JSON (`doc/spec/farm-status.md`).
//!
//! It is gathered when somebody asks, and kept for a moment, so that many who ask often cost as much as
//! one who asks now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farm::status::{
    ALL_GOALS_SHOWN, MACHINES_BYTES, MACHINES_SHOWN, Machine, NAME_SHOWN, Room, Status,
};
use formats::printable::printable_json;
use hook::directories::HookDirectories;
use hook::machines::MachineList;
use hook::standing::Standing;
use system::clock::unix_time;

use super::engine::Engine;
use super::last_status::{Kept, Last, Listed, Looked};
use super::request::ClientIdentity;

/// How long a state is kept at least.
const KEPT: Duration = Duration::from_secs(1);
/// How much longer it is kept than it took to gather it.
const KEPT_FACTOR: u32 = 50;
/// How long it is kept at most.
const LONGEST_KEPT: Duration = Duration::from_secs(10);
/// How long the list of machines is kept: to read it, Guile may have to run.
const MACHINES_KEPT: Duration = Duration::from_secs(10);
/// How much longer than it took to look at the machines what was seen is kept, and how long at most: a page that
/// somebody looks at all day takes no noticeable part of a processor.
const LOOKED_FACTOR: u32 = 300;
const LOOKED_KEPT: Duration = Duration::from_secs(30);
/// How many characters of a machine's reason are told.
const REASON_LIMIT: usize = 300;

/// The state, gathered now or a moment ago, for a client. Whoever comes over TCP learns neither who has made
/// requests nor the words of machines and the hook, in which accounts, hosts and files may be named.
pub(super) fn status(engine: &Engine, client: &ClientIdentity) -> Arc<String> {
    let mut last = engine.last_status.0.lock();
    let is_current = |kept: &Kept| Instant::now() < kept.until;
    if !last.status.as_ref().is_some_and(is_current) {
        let begun = Instant::now();
        let Last {
            machines, looked, ..
        } = &mut *last;
        let (status, waited) = gather(engine, machines, looked);
        let local = text(&status);
        // That somebody was waited for has cost nothing.
        let work = begun.elapsed().saturating_sub(waited);
        let kept = work.saturating_mul(KEPT_FACTOR).clamp(KEPT, LONGEST_KEPT);
        last.status = Some(Kept {
            until: Instant::now() + kept,
            local,
            remote: None,
        });
    }
    let Some(kept) = &mut last.status else {
        return Arc::default();
    };
    if !client.remote {
        return kept.local.clone();
    }
    let told = kept.remote.get_or_insert_with(|| {
        let status: Status = serde_json::from_str(&kept.local).unwrap_or_default();
        text(&status.for_strangers())
    });
    told.clone()
}

fn text(status: &Status) -> Arc<String> {
    // Nothing in it can fail to be written.
    let text = serde_json::to_string(status).unwrap_or_default();
    Arc::new(printable_json(&text))
}

/// Everything, and for how long requests were waited for that were busy.
fn gather(
    engine: &Engine,
    known: &mut Option<(Instant, Arc<Listed>)>,
    looked: &mut Option<(Instant, Arc<Looked>)>,
) -> (Status, Duration) {
    let time = unix_time();
    let asked = engine.requests.ask(time);
    let mut requests = asked.requests;
    let listed = machines(engine, known);
    let mut status = Status {
        time,
        unlisted_requests: asked.unlisted,
        machines_error: listed.error.as_deref().map(shortened),
        ..Status::default()
    };
    let looked = look(engine, &listed, looked);
    status.machines.clone_from(&looked.machines);
    status.unlisted_machines = (listed.machines.len().saturating_sub(looked.machines.len())) as u64;
    let mut room = ALL_GOALS_SHOWN;
    for request in &mut requests {
        request.builds.truncate(room);
        room -= request.builds.len();
        request.waits.truncate(room);
        room -= request.waits.len();
        let unlisted = |all: u64, listed: usize| all.saturating_sub(listed as u64);
        request.unlisted_builds = unlisted(request.running, request.builds.len());
        request.unlisted_waits = unlisted(request.waiting, request.waits.len());
        for build in request
            .builds
            .iter_mut()
            .filter(|build| build.place == "hook")
        {
            if let Some(place) = looked.places.get(&build.path) {
                build.place.clone_from(place);
            }
        }
    }
    status.requests = requests;
    (status, asked.waited)
}

/// How the machines are, and what they build, looked at now or, if that takes long, a while ago.
fn look(
    engine: &Engine,
    listed: &Listed,
    last: &mut Option<(Instant, Arc<Looked>)>,
) -> Arc<Looked> {
    if let Some((until, looked)) = last {
        if Instant::now() < *until {
            return looked.clone();
        }
    }
    let begun = Instant::now();
    let mut looked = Looked::default();
    if let Ok(directories) = HookDirectories::new(&engine.settings.directories) {
        let mut room = Room::new(MACHINES_BYTES);
        for machine in listed.machines.iter().take(MACHINES_SHOWN) {
            let standing = Standing::of(&directories, machine);
            let Standing {
                building,
                why_not,
                condition,
            } = standing.unwrap_or_else(|error| Standing::unreadable(&error));
            let told = Machine {
                name: machine.name.chars().take(NAME_SHOWN).collect(),
                port: machine.port,
                slots: machine.parallel_builds,
                slots_used: building.len() as u64,
                why_not: why_not.as_deref().map(shortened),
                state: condition.name().to_owned(),
            };
            if !room.take(told.size()) {
                break;
            }
            for occupant in building.into_iter().flatten() {
                looked
                    .places
                    .insert(occupant.derivation, format!("machine {}", told.name));
            }
            looked.machines.push(told);
        }
    }
    let looked = Arc::new(looked);
    let kept = begun.elapsed().saturating_mul(LOOKED_FACTOR);
    *last = Some((Instant::now() + kept.min(LOOKED_KEPT), looked.clone()));
    looked
}

/// A reason, as far as it is told.
fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_LIMIT).collect()
}

/// The machines of the machine files, read now or a while ago.
fn machines(engine: &Engine, known: &mut Option<(Instant, Arc<Listed>)>) -> Arc<Listed> {
    if let Some((since, listed)) = known {
        if since.elapsed() < MACHINES_KEPT {
            return listed.clone();
        }
    }
    let mut listed = Listed::default();
    if engine.settings.hook.usable().is_some() {
        match load(engine) {
            Ok(list) => {
                listed.error = list.problem();
                listed.machines = list.machines;
            }
            Err(error) => listed.error = Some(error),
        }
    }
    let listed = Arc::new(listed);
    *known = Some((Instant::now(), listed.clone()));
    listed
}

/// The machines of the machine files and of their commands' last answers. (Only hooks run the commands.)
fn load(engine: &Engine) -> Result<MachineList, String> {
    let directories = HookDirectories::new(&engine.settings.directories);
    let directories = directories.map_err(|error| error.to_string())?;
    let loaded = hook::generated::load_known(&directories);
    loaded
        .map(|(list, _)| list)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm::status::{Running, Wait};

    proptest::proptest! {
        #[test]
        fn nothing_takes_more_bytes_than_is_counted(
            text in "(?s).{0,300}|[\u{e0000}-\u{e007f}\u{200b}\u{85}]{0,300}",
            number: u64,
        ) {
            let in_json = |value: String| printable_json(&value).len();
            let build = Running {
                path: text.clone(),
                place: text.clone(),
                elapsed_s: number,
                usual_s: Some(number),
                long_s: Some(number),
            };
            assert!(in_json(serde_json::to_string(&build).unwrap()) < build.size());
            let wait = Wait {
                path: text.clone(),
                why: "other-client".to_owned(),
                text: text.clone(),
                retry_s: Some(number),
            };
            assert!(in_json(serde_json::to_string(&wait).unwrap()) < wait.size());
            let machine = Machine {
                name: text.clone(),
                port: u16::MAX,
                slots: u32::MAX,
                slots_used: number,
                why_not: Some(text),
                state: "drained".to_owned(),
            };
            assert!(in_json(serde_json::to_string(&machine).unwrap()) < machine.size());
        }
    }
}
