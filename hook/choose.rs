//! Choosing a build machine (`doc/spec/offload.md`, sections 3, 6, 10 and 24).
//!
//! The network is only used without any lock; the choice itself is made under the machine-choice
//! lock and takes no time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use system::clock::unix_time;

use crate::health::Health;
use crate::machines::Machine;
use crate::remote::{self, Home};
use crate::request::Request;
use crate::say;
use crate::slots::{self, Slot};

/// How long a machine may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(15);
/// Builds need at least this much space, as in Guix.
const ENOUGH_SPACE: u64 = 100 << 20;

/// A machine that will do, and the right to use it.
pub struct Chosen<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Its slot.
    pub slot: Slot,
    /// Where it is noted that it has been given a build.
    home: PathBuf,
    /// The machine's load was measured then: later measurements include our build.
    asked: u64,
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        // What has ended is no load any more.
        Health::update(&self.home, self.machine, |health| {
            if health.asked == self.asked {
                health.given = health.given.saturating_sub(1);
            }
        });
    }
}

/// Why a machine was not chosen.
pub struct Reason {
    /// Its name.
    pub machine: String,
    /// For people.
    pub text: String,
    /// It does not work, as opposed to being busy.
    pub dead: bool,
}

impl Reason {
    fn busy(machine: &Machine, text: String) -> Reason {
        let machine = machine.name.clone();
        Reason {
            machine,
            text,
            dead: false,
        }
    }

    fn dead(machine: &Machine, text: String) -> Reason {
        let dead = true;
        Reason {
            dead,
            ..Reason::busy(machine, text)
        }
    }
}

/// The machines that could ever build it.
pub fn candidates<'a>(machines: &'a [Machine], request: &Request) -> Vec<&'a Machine> {
    let mut seen = Vec::new();
    let mut fitting = Vec::new();
    for machine in machines {
        let has = |feature: &String| {
            machine.features.contains(feature) || machine.mandatory_features.contains(feature)
        };
        let fits = machine.systems.contains(&request.system)
            && request.features.iter().all(has)
            && machine
                .mandatory_features
                .iter()
                .all(|feature| request.features.contains(feature));
        // An entry given twice would lend the same slots twice.
        if fits && !seen.contains(&machine.key()) {
            seen.push(machine.key());
            fitting.push(machine);
        }
    }
    fitting
}

/// The best of the candidates that can take a build now, or why none can.
pub fn choose<'a>(
    candidates: &[&'a Machine],
    home: &Home,
    request: &Request,
    verbose: bool,
) -> std::io::Result<Result<Chosen<'a>, Vec<Reason>>> {
    let mut reasons = Vec::new();
    let mut able = Vec::new();
    for &machine in candidates {
        let health = Health::load(&home.directory, machine);
        if health.aside_until > unix_time() {
            let wait = health.aside_until - unix_time();
            let error = health.last_error.as_deref().unwrap_or("it failed");
            let text = format!("set aside for {wait} s more: {error}");
            reasons.push(Reason::dead(machine, text));
        } else if !has_free_slot(&home.directory, machine)? {
            let text = format!("all {} slots are taken", machine.parallel_builds);
            reasons.push(Reason::busy(machine, text));
        } else {
            able.push((machine, health));
        }
    }
    let mut able = ask(able, home, &mut reasons);
    able.retain(|(machine, health)| match unsuitable(machine, health) {
        Some(text) => {
            reasons.push(Reason::busy(machine, text));
            false
        }
        None => {
            if verbose {
                let load = health.normalized_load();
                say!("normalized load on machine '{}' is {load:.2}", machine.name);
            }
            true
        }
    });
    let _choice = slots::wait_for(&home.directory, "machine-choice")?;
    // What others have been given while we were asking counts, too.
    for (machine, health) in &mut able {
        health.given = Health::load(&home.directory, machine).given;
    }
    rank(&mut able);
    for (machine, _) in able {
        if let Some(slot) = slots::acquire(&home.directory, machine, &request.derivation)? {
            let health = Health::update(&home.directory, machine, |health| health.given += 1);
            if verbose {
                explain(request, &reasons);
            }
            return Ok(Ok(Chosen {
                machine,
                slot,
                home: home.directory.clone(),
                asked: health.asked,
            }));
        }
        let text = "its last slot was taken a moment ago".to_owned();
        reasons.push(Reason::busy(machine, text));
    }
    Ok(Err(reasons))
}

/// Says why machines were not chosen.
pub fn explain(request: &Request, reasons: &[Reason]) {
    for Reason { machine, text, .. } in reasons {
        say!(
            "not offloading '{}' to '{machine}': {text}",
            request.derivation
        );
    }
}

fn has_free_slot(home: &Path, machine: &Machine) -> std::io::Result<bool> {
    Ok(slots::taken(home, machine)?.len() < machine.parallel_builds as usize)
}

/// Asks the machines of which nothing recent is known how they are, all at once.
fn ask<'a>(
    able: Vec<(&'a Machine, Health)>,
    home: &Home,
    reasons: &mut Vec<Reason>,
) -> Vec<(&'a Machine, Health)> {
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = able
            .into_iter()
            .map(|(machine, health)| {
                let question = (!health.is_fresh()).then(|| {
                    scope.spawn(move || remote::probe(machine, home, Instant::now() + PATIENCE))
                });
                (machine, health, question)
            })
            .collect();
        let wait = |(machine, health, question): (
            &'a Machine,
            Health,
            Option<std::thread::ScopedJoinHandle<'_, _>>,
        )| { (machine, health, question.map(|question| question.join())) };
        asked.into_iter().map(wait).collect()
    });
    let mut known = Vec::new();
    for (machine, health, answer) in answers {
        match answer {
            None => known.push((machine, health)),
            Some(Ok(Ok(vitals))) => {
                let health =
                    Health::update(&home.directory, machine, |health| health.answered(&vitals));
                known.push((machine, health));
            }
            Some(Ok(Err(error))) => {
                let error: remote::Error = error;
                let text = error.to_string();
                if let Some(text) = busy(machine, home, &error) {
                    reasons.push(Reason::busy(machine, text));
                    continue;
                }
                say!("{text}");
                if !error.is_local() {
                    Health::update(&home.directory, machine, |health| health.failed(&text));
                }
                reasons.push(Reason::dead(machine, text));
            }
            Some(Err(_)) => {
                let text = "asking it panicked".to_owned();
                reasons.push(Reason::dead(machine, text));
            }
        }
    }
    known
}

/// Behind store items, an answer may take longer than anybody waits: then this says so. Were the
/// machine dead, those who move them would notice.
pub fn busy(machine: &Machine, home: &Home, error: &remote::Error) -> Option<String> {
    let busy = error.is_silence() && slots::is_transferring(&home.directory, machine);
    busy.then(|| format!("{error} (its connection is busy with store items)"))
}

fn unsuitable(machine: &Machine, health: &Health) -> Option<String> {
    let load = health.normalized_load();
    if let Some(threshold) = machine
        .overload_threshold
        .filter(|threshold| load >= *threshold)
    {
        return Some(format!("its load {load:.2} is not below {threshold:.2}"));
    }
    if health.free_bytes < ENOUGH_SPACE {
        let free = health.free_bytes as f64 / f64::from(1 << 20);
        say!(
            "skipping machine '{}' because it is low on disk space ({free:.2} MiB free)",
            machine.name
        );
        return Some(format!("it is low on disk space ({free:.2} MiB free)"));
    }
    None
}

/// Less loaded first, then the faster; equals in random order, so that hooks that choose at the
/// same time choose differently.
fn rank(machines: &mut [(&Machine, Health)]) {
    machines.shuffle(&mut rand::rng());
    // Loads that hardly differ are equal.
    let load = |health: &Health| (health.normalized_load() * 4.0).min(1e6) as u64;
    machines.sort_by(|(a, a_health), (b, b_health)| {
        load(a_health)
            .cmp(&load(b_health))
            .then(b.speed.total_cmp(&a.speed))
    });
}
