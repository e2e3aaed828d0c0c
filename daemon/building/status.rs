//! The state of everything that is being built, as JSON (`doc/spec/farm-status.md`).
//!
//! It is gathered when somebody asks, and kept for a moment, so that many who ask often cost as much as
//! one who asks now and then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm::status::{ALL_GOALS_SHOWN, MACHINES_SHOWN, Machine, Status};
use formats::printable::printable_json;
use hook::directories::HookDirectories;
use hook::machines::MachineList;
use hook::standing::Standing;
use system::clock::unix_time;

use super::engine::Engine;
use super::last_status::Listed;

/// How long a state is kept at least.
const KEPT: Duration = Duration::from_secs(1);
/// How much longer it is kept than it took to gather it.
const KEPT_FACTOR: u32 = 50;
/// How long the list of machines is kept: to read it, Guile may have to run.
const MACHINES_KEPT: Duration = Duration::from_secs(10);
/// How many characters of a machine's reason are told.
const REASON_LIMIT: usize = 300;

/// The state, gathered now or a moment ago.
pub(super) fn status(engine: &Engine) -> Arc<String> {
    let mut last = engine.last_status.0.lock();
    if let Some((until, status)) = &last.status {
        if Instant::now() < *until {
            return status.clone();
        }
    }
    let begun = Instant::now();
    let status = gather(engine, &mut last.machines);
    // Nothing in it can fail to be written.
    let text = serde_json::to_string(&status).unwrap_or_default();
    let text = Arc::new(printable_json(&text));
    let kept = KEPT.max(begun.elapsed().saturating_mul(KEPT_FACTOR));
    last.status = Some((Instant::now() + kept, text.clone()));
    text
}

fn gather(engine: &Engine, known: &mut Option<(Instant, Arc<Listed>)>) -> Status {
    let time = unix_time();
    let (mut requests, unlisted_requests) = engine.requests.ask(time);
    let listed = machines(engine, known);
    let mut status = Status {
        time,
        unlisted_requests,
        machines_error: listed.error.clone(),
        unlisted_machines: listed.machines.len().saturating_sub(MACHINES_SHOWN) as u64,
        ..Status::default()
    };
    let mut places = HashMap::new();
    if let Ok(directories) = HookDirectories::new(&engine.settings.directories) {
        for machine in listed.machines.iter().take(MACHINES_SHOWN) {
            let Ok(standing) = Standing::of(&directories, machine) else {
                continue;
            };
            let reason = standing.why_not.as_deref();
            let shown = reason.map(|reason| reason.chars().take(REASON_LIMIT).collect());
            status.machines.push(Machine {
                name: machine.name.clone(),
                port: machine.port,
                slots: machine.parallel_builds,
                slots_used: standing.building.len() as u64,
                why_not: shown,
                state: standing.condition.name().to_owned(),
            });
            for occupant in standing.building.into_iter().flatten() {
                places.insert(occupant.derivation, format!("machine {}", machine.name));
            }
        }
    }
    let mut room = ALL_GOALS_SHOWN;
    for request in &mut requests {
        request.builds.truncate(room);
        room -= request.builds.len();
        request.waits.truncate(room);
        room -= request.waits.len();
        for build in request
            .builds
            .iter_mut()
            .filter(|build| build.place == "hook")
        {
            if let Some(place) = places.get(&build.path) {
                build.place.clone_from(place);
            }
        }
    }
    status.requests = requests;
    status
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
            Ok(list) => listed.machines = list.machines,
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
