//! Choosing a build machine (`doc/spec/offload.md`, sections 3, 6, 10 and 24).
//!
//! Machines are probed without holding any lock; the choice itself is made under the machine-choice
//! lock, and doesn't use the network.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use farm::placement::Ranked;
use rand::seq::SliceRandom;

use crate::directories::HookDirectories;
use crate::drained::{self, Drained};
use crate::health::{Health, Pause};
use crate::inputs::{Inputs, LazyInputs, Usual};
use crate::machines::Machine;
use crate::remote::{self, PROBE_TIMEOUT, on_one_line};
use crate::request::Request;
use crate::sends::{self, Sending};
use crate::slots::{self, Slot};
use crate::suitability::{self, Able, Unsuitable};
use crate::{have, host_locks, parallel, stderr_line};

/// How many machines [`in_words`] names.
const MACHINES_SHOWN: usize = 6;
/// How long it may take to look up what machines have. Those whose turn does not come count as having nothing.
const LOOK_UP_TIME: Duration = Duration::from_millis(50);
/// How many characters of each machine's reason [`in_words`] gives.
const REASON_LIMIT: usize = 200;

/// A chosen machine, its slot, and the record of what will be sent there.
pub struct Chosen<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Its slot.
    pub slot: Slot,
    /// The record of what it will be sent, if that is much.
    pub sending: Option<Sending>,
    directories: HookDirectories,
    /// When the load was measured to which our build was added: a later measurement includes it.
    asked: u64,
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        // A build that has ended causes no load.
        Health::update(&self.directories, self.machine, |health| {
            if health.asked == self.asked {
                health.given = health.given.saturating_sub(1);
            }
        });
    }
}

/// Why a machine was not chosen.
pub struct Rejection {
    /// Its name.
    pub machine: String,
    /// The reason, for users.
    pub reason: String,
    /// Whether the machine does not work, or is drained, as opposed to being busy.
    pub is_dead: bool,
}

impl Rejection {
    /// A machine that works, and has no room.
    pub fn busy(machine: &Machine, reason: String) -> Rejection {
        Rejection {
            machine: machine.name.clone(),
            reason,
            is_dead: false,
        }
    }

    /// A machine that does not work, at least not for this build.
    pub fn dead(machine: &Machine, reason: String) -> Rejection {
        Rejection {
            is_dead: true,
            ..Rejection::busy(machine, reason)
        }
    }
}

/// The best candidate that can take a build with these inputs now, or why none can.
pub fn choose<'a>(
    candidates: &[&'a Machine],
    directories: &HookDirectories,
    request: &Request,
    inputs: &LazyInputs,
    verbose: bool,
) -> io::Result<Result<Chosen<'a>, Vec<Rejection>>> {
    let mut rejections = Vec::new();
    let mut able = Vec::new();
    let drained = drained::keys(directories)?;
    for &machine in candidates {
        if let Some(rejection) = rejection_of_drained(directories, &drained, machine) {
            rejections.push(rejection);
            continue;
        }
        let (health, stamp) = Health::load_stamped(directories, machine);
        if let Some(pause) = health.pause() {
            let reason = pause.to_string();
            rejections.push(match pause {
                Pause::SetAside { .. } => Rejection::dead(machine, reason),
                Pause::Busy(_) => Rejection::busy(machine, reason),
            });
            continue;
        }
        let taken = slots::taken(directories, machine)?.len();
        match suitability::no_slot(machine, taken) {
            Some(reason) => rejections.push(Rejection::busy(machine, reason)),
            None => able.push(Able {
                machine,
                health,
                stamp,
                taken,
                lacking: None,
            }),
        }
    }
    let mut able = ask(able, directories, &mut rejections);
    able.retain(
        |Able {
             machine, health, ..
         }| match suitability::unsuitable(machine, health) {
            // Its scheduler knows the load.
            _ if machine.pool.is_some() => true,
            Some(reason) => {
                if let Unsuitable::LowDiskSpace { .. } = reason {
                    stderr_line!("skipping machine '{}' because {reason}", machine.name);
                }
                rejections.push(Rejection::busy(machine, reason.to_string()));
                false
            }
            None => {
                if verbose {
                    let load = health.normalized_load();
                    stderr_line!("normalized load on machine '{}' is {load:.2}", machine.name);
                }
                true
            }
        },
    );
    // Where there is no choice, nothing needs to be known.
    let is_choice = able.len() > 1;
    let mut usual = Usual::default();
    if is_choice {
        usual = inputs.usual(&directories.state, &request.system);
        if let Some(inputs) = inputs.get() {
            look_up(&mut able, directories, inputs);
        }
    }
    let _choice = host_locks::lock_choice(directories)?;
    // Some may have been drained while others were asked.
    let drained = drained::keys(directories)?;
    able.retain(|able| {
        let rejection = rejection_of_drained(directories, &drained, able.machine);
        let is_drained = rejection.is_some();
        rejections.extend(rejection);
        !is_drained
    });
    // Count builds that other hooks have given to the machines meanwhile, too.
    for able in &mut able {
        if let Some(health) = Health::changed_since(&able.stamp, directories, able.machine) {
            let given = health.given;
            able.taken += given.saturating_sub(able.health.given) as usize;
            able.health.given = given;
        }
    }
    let sends = is_choice.then(|| sends::in_progress(directories));
    let ranked = suitability::rank(
        &mut able,
        &sends.unwrap_or_default(),
        usual,
        &mut rand::rng(),
    );
    if verbose && is_choice {
        explain_ranks(request, &able, &ranked);
    }
    for Ranked { index, .. } in ranked {
        let able = &able[index];
        let machine = able.machine;
        if let Some(slot) = slots::acquire(directories, machine, &request.derivation)? {
            let health = Health::update(directories, machine, |health| health.given += 1);
            if verbose {
                explain(request, &rejections);
            }
            return Ok(Ok(Chosen {
                machine,
                slot,
                sending: announce(directories, able),
                directories: directories.clone(),
                asked: health.asked,
            }));
        }
        let reason = "its last slot was taken a moment ago".to_owned();
        rejections.push(Rejection::busy(machine, reason));
    }
    Ok(Err(rejections))
}

/// The rejection of a machine if it is among those that are drained. It doesn't count as busy, since it
/// may stay away for days: a daemon that can build does so.
fn rejection_of_drained(
    directories: &HookDirectories,
    drained: &BTreeSet<String>,
    machine: &Machine,
) -> Option<Rejection> {
    let key = machine.key();
    drained.contains(&key).then(|| {
        let drained = Drained::load(directories, &key).ok().flatten();
        Rejection::dead(machine, drained.unwrap_or_default().to_string())
    })
}

/// Looks up what machines have, in random order: if there is no time for all, it is not always the same ones
/// that win.
fn look_up<'i>(able: &mut [Able<'_, 'i>], directories: &HookDirectories, inputs: &'i Inputs) {
    let deadline = Instant::now() + LOOK_UP_TIME;
    able.shuffle(&mut rand::rng());
    for able in able.iter_mut().filter(|able| able.machine.pool.is_none()) {
        let mut lacking = inputs.all();
        if Instant::now() < deadline {
            lacking.has(&have::items(directories, able.machine, deadline));
        }
        able.lacking = Some(lacking);
    }
}

/// Records what will be sent to a machine, so that others don't send the same elsewhere.
fn announce(directories: &HookDirectories, able: &Able<'_, '_>) -> Option<Sending> {
    let lacking = able.lacking.as_ref()?;
    if able.machine.pool.is_some() || able.fetches() {
        return None;
    }
    sends::begin(directories, able.machine, lacking.bytes, lacking.items())
}

/// Prints what the build is expected to take on the machines.
fn explain_ranks(request: &Request, able: &[Able<'_, '_>], ranked: &[Ranked]) {
    let shown = ranked.iter().take(MACHINES_SHOWN);
    let words: Vec<String> = shown
        .map(|Ranked { index, expected }| format!("'{}': {expected}", able[*index].machine.name))
        .collect();
    stderr_line!(
        "where to build '{}': {}",
        request.derivation,
        words.join("; ")
    );
}

/// Why no machine was chosen, in one line.
pub fn in_words(rejections: &[Rejection]) -> String {
    let shown = rejections.iter().take(MACHINES_SHOWN);
    let mut words: Vec<String> = shown
        .map(
            |Rejection {
                 machine, reason, ..
             }| {
                let reason: String = on_one_line(reason).chars().take(REASON_LIMIT).collect();
                format!("'{machine}': {reason}")
            },
        )
        .collect();
    if let Some(others @ 1..) = rejections.len().checked_sub(MACHINES_SHOWN) {
        words.push(format!("and {others} others"));
    }
    words.join("; ")
}

/// Prints why machines were not chosen.
pub fn explain(request: &Request, rejections: &[Rejection]) {
    for Rejection {
        machine, reason, ..
    } in rejections
    {
        stderr_line!(
            "not offloading '{}' to '{machine}': {reason}",
            request.derivation
        );
    }
}

/// Probes the machines about which nothing recent is known, in parallel. Returns the machines about
/// which something is known then.
fn ask<'m, 'i>(
    able: Vec<Able<'m, 'i>>,
    directories: &HookDirectories,
    rejections: &mut Vec<Rejection>,
) -> Vec<Able<'m, 'i>> {
    let is_known = |able: &Able<'_, '_>| able.machine.pool.is_some() || able.health.is_fresh();
    let (mut known, unknown): (Vec<_>, Vec<_>) = able.into_iter().partition(is_known);
    let answers = parallel::map(&unknown, |able| {
        let deadline = Instant::now() + PROBE_TIMEOUT;
        catch_unwind(AssertUnwindSafe(|| {
            remote::probe(able.machine, directories, deadline)
        }))
    });
    for (able, answer) in unknown.into_iter().zip(answers) {
        let machine = able.machine;
        let rejection = match answer {
            Ok(Ok(vitals)) => {
                let answered = |health: &mut Health| health.answered(&vitals);
                let (health, stamp) = Health::update_stamped(directories, machine, answered);
                known.push(Able {
                    health,
                    stamp,
                    ..able
                });
                continue;
            }
            Ok(Err(error)) => failed(directories, machine, &error),
            Err(_) => Rejection::dead(machine, "asking it panicked".to_owned()),
        };
        rejections.push(rejection);
    }
    known
}

fn failed(directories: &HookDirectories, machine: &Machine, error: &remote::Error) -> Rejection {
    if let Some(reason) = host_locks::busy_with_transfer(directories, machine, error) {
        return Rejection::busy(machine, reason);
    }
    let reason = error.to_string();
    stderr_line!("{reason}");
    if !error.is_local() {
        Health::update(directories, machine, |health| health.failed(&reason));
    }
    Rejection::dead(machine, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::machine;

    #[test]
    fn the_reasons_are_one_line_that_does_not_grow_with_the_farm() {
        let full = Rejection::busy(&machine("one"), "its only slot is taken".to_owned());
        let dead = Rejection::dead(&machine("two"), "set aside:\n gone".to_owned());
        assert_eq!(
            in_words(&[full, dead]),
            "'one': its only slot is taken; 'two': set aside: gone"
        );
        let many: Vec<_> = (0..100)
            .map(|_| Rejection::dead(&machine("m"), "x".repeat(10_000)))
            .collect();
        let words = in_words(&many);
        assert!(
            words.len() < 2000 && words.ends_with("; and 94 others"),
            "{words}"
        );
    }
}
