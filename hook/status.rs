//! `offload status` and `offload test`: the build machines, for people and for monitoring.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use protocol::client::{Address, Options};
use serde::Serialize;
use store::Directories;
use system::clock::unix_time;

use crate::choose;
use crate::health::Health;
use crate::machines::{self, Machine, Machines};
use crate::remote::{self, Vitals};
use crate::run::home;
use crate::say;
use crate::slots::{self, Occupant};

/// How long a machine may take for each answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Which machines.
#[derive(Debug, Clone, Default)]
pub struct Which {
    file: Option<PathBuf>,
    pattern: Option<String>,
}

impl Which {
    /// From `[FILE [PATTERN]]`; a pattern is a part of a name, with `*` for anything.
    pub fn new(words: &[impl AsRef<str>]) -> Result<Which> {
        if words.len() > 2 {
            bail!("wrong number of arguments");
        }
        let word = |index: usize| words.get(index).map(|word| word.as_ref().to_owned());
        Ok(Which {
            file: word(0).map(PathBuf::from),
            pattern: word(1),
        })
    }

    fn load(&self, directories: &Directories) -> Result<Machines> {
        let mut found = match &self.file {
            Some(file) => machines::load_file(file)?,
            None => machines::load(&directories.configuration)?,
        };
        if let Some(pattern) = &self.pattern {
            found
                .machines
                .retain(|machine| matches(pattern, &machine.name));
        }
        let mut seen = Vec::new();
        found.machines.retain(|machine| {
            let new = !seen.contains(&machine.key());
            seen.push(machine.key());
            new
        });
        for problem in &found.problems {
            say!("warning: {problem}");
        }
        Ok(found)
    }
}

/// Whether the pieces between `*` occur in this order; `^` and `$` hold them to the ends.
fn matches(pattern: &str, name: &str) -> bool {
    let text = format!("^{name}$");
    let mut rest = text.as_str();
    for piece in pattern
        .split('*')
        .map(|piece| piece.strip_suffix('.').unwrap_or(piece))
    {
        match rest.find(piece) {
            Some(place) => rest = &rest[place + piece.len()..],
            None => return false,
        }
    }
    true
}

/// How the status is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For a terminal.
    Table,
    /// For programs.
    Json,
    /// For Prometheus, in its text format.
    Prometheus,
}

/// All about one machine.
#[derive(Debug, Serialize)]
struct Status {
    name: String,
    port: u16,
    systems: Vec<String>,
    features: Vec<String>,
    slots: u32,
    slots_used: usize,
    reachable: bool,
    /// Why not.
    error: Option<String>,
    kernel: Option<String>,
    architecture: Option<String>,
    host_name: Option<String>,
    normalized_load: Option<f64>,
    /// Load from which on it gets nothing.
    overload_threshold: Option<f64>,
    free_bytes: Option<u64>,
    round_trip_ms: Option<f64>,
    clock_offset_s: Option<f64>,
    builds: u64,
    failures: u64,
    last_error: Option<String>,
    /// Seconds that it gets no builds for.
    set_aside_s: u64,
    building: Vec<Option<Occupant>>,
}

/// Asks all machines at the same time, and prints on `out` what is known of them.
pub fn run_status(
    directories: &Directories,
    which: &Which,
    form: Form,
    out: &mut dyn io::Write,
) -> Result<()> {
    let text = show(&gather(directories, which)?, form)?;
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The same every `seconds`, until interrupted.
pub fn watch(
    directories: &Directories,
    which: &Which,
    seconds: u64,
    out: &mut dyn io::Write,
) -> Result<()> {
    loop {
        let text = show(&gather(directories, which)?, Form::Table)?;
        // Clears the screen, so that the table stays where it is.
        write!(out, "\x1b[H\x1b[2J{text}")?;
        out.flush()?;
        std::thread::sleep(Duration::from_secs(seconds.max(1)));
    }
}

fn gather(directories: &Directories, which: &Which) -> Result<Vec<Status>> {
    let home = home(directories)?;
    let found = which.load(directories)?;
    let answers = at_once(&found.machines, |machine| {
        remote::probe(machine, &home, Instant::now() + PATIENCE)
    });
    let mut all = Vec::new();
    for (machine, answer) in found.machines.iter().zip(answers) {
        let building = slots::taken(&home.directory, machine).context("looking at build slots")?;
        let health = match &answer {
            Ok(vitals) => {
                Health::update(&home.directory, machine, |health| health.answered(vitals))
            }
            Err(_) => Health::load(&home.directory, machine),
        };
        let (vitals, error) = match answer {
            Ok(vitals) => (Some(vitals), None),
            Err(error) => {
                let busy = choose::busy(machine, &home, &error);
                (None, Some(busy.unwrap_or_else(|| error.to_string())))
            }
        };
        let known = |get: fn(&Vitals) -> String| vitals.as_ref().map(get);
        all.push(Status {
            name: machine.name.clone(),
            port: machine.port,
            systems: machine.systems.clone(),
            features: machine.features.clone(),
            slots: machine.parallel_builds,
            slots_used: building.len(),
            reachable: vitals.is_some(),
            error,
            kernel: known(|vitals| vitals.kernel.clone()),
            architecture: known(|vitals| vitals.architecture.clone()),
            host_name: known(|vitals| vitals.host_name.clone()),
            normalized_load: vitals.as_ref().map(|_| health.normalized_load()),
            overload_threshold: machine.overload_threshold,
            free_bytes: vitals.as_ref().map(|vitals| vitals.free_bytes),
            round_trip_ms: vitals.as_ref().map(|_| health.round_trip),
            clock_offset_s: vitals.as_ref().map(|vitals| vitals.clock_offset),
            builds: health.builds,
            failures: health.all_failures,
            last_error: health.last_error.clone(),
            set_aside_s: health.aside_until.saturating_sub(unix_time()),
            building,
        });
    }
    Ok(all)
}

/// Does something with each machine, with all of them at the same time.
fn at_once<T: Send>(machines: &[Machine], act: impl Fn(&Machine) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> = machines
            .iter()
            .map(|machine| scope.spawn(move || act(machine)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

fn show(all: &[Status], form: Form) -> Result<String> {
    Ok(match form {
        Form::Table => table(all),
        Form::Json => serde_json::to_string_pretty(all)? + "\n",
        Form::Prometheus => prometheus(all),
    })
}

fn table(all: &[Status]) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "machine",
        "systems",
        "slots",
        "load",
        "free",
        "round trip",
        "done/failed",
        "state",
    ]);
    for one in all {
        let dash = || "-".to_owned();
        let mut state = match (&one.error, one.set_aside_s) {
            (Some(error), _) => error.clone(),
            (None, 0) => match (one.normalized_load, one.overload_threshold) {
                (Some(load), Some(threshold)) if load >= threshold => {
                    format!("gets nothing: its load is not below {threshold:.2}")
                }
                _ => "ready".to_owned(),
            },
            (None, seconds) => format!(
                "set aside for {seconds} s: {}",
                one.last_error.as_deref().unwrap_or("")
            ),
        };
        for occupant in &one.building {
            let _ = match occupant {
                Some(Occupant {
                    derivation, since, ..
                }) => {
                    let item = derivation.rsplit('/').next().unwrap_or(derivation);
                    write!(state, "\n{} s: {item}", unix_time().saturating_sub(*since))
                }
                None => write!(state, "\nsome other hook's build"),
            };
        }
        table.add_row([
            format!("{}:{}", one.name, one.port),
            one.systems.join(" "),
            format!("{}/{}", one.slots_used, one.slots),
            one.normalized_load
                .map_or_else(dash, |load| format!("{load:.2}")),
            one.free_bytes
                .map_or_else(dash, |free| format!("{} MiB", free >> 20)),
            one.round_trip_ms
                .map_or_else(dash, |time| format!("{time:.1} ms")),
            format!("{}/{}", one.builds, one.failures),
            state,
        ]);
    }
    format!("{table}\n")
}

fn prometheus(all: &[Status]) -> String {
    let mut text = String::new();
    type Value = fn(&Status) -> Option<f64>;
    let metrics: [(&str, &str, &str, Value); 9] = [
        ("up", "gauge", "Whether the machine answers", |one| {
            Some(f64::from(u8::from(one.reachable)))
        }),
        (
            "slots",
            "gauge",
            "Builds that the machine takes at once",
            |one| Some(f64::from(one.slots)),
        ),
        (
            "slots_used",
            "gauge",
            "Builds that the machine has now",
            |one| Some(one.slots_used as f64),
        ),
        (
            "load",
            "gauge",
            "Load, 1 being all processors busy",
            |one| one.normalized_load,
        ),
        ("free_bytes", "gauge", "Free space in the store", |one| {
            one.free_bytes.map(|free| free as f64)
        }),
        (
            "round_trip_seconds",
            "gauge",
            "From a question to its answer",
            |one| one.round_trip_ms.map(|time| time / 1000.0),
        ),
        (
            "set_aside_seconds",
            "gauge",
            "How long the machine gets no builds",
            |one| Some(one.set_aside_s as f64),
        ),
        ("builds_total", "counter", "Builds done", |one| {
            Some(one.builds as f64)
        }),
        (
            "failures_total",
            "counter",
            "Failures of the machine",
            |one| Some(one.failures as f64),
        ),
    ];
    for (name, kind, help, value) in metrics {
        let _ = writeln!(
            text,
            "# HELP guix_offload_{name} {help}\n# TYPE guix_offload_{name} {kind}"
        );
        for one in all {
            if let Some(value) = value(one) {
                let _ = writeln!(
                    text,
                    "guix_offload_{name}{{machine=\"{}:{}\"}} {value}",
                    one.name, one.port
                );
            }
        }
    }
    text
}

/// Tries everything that must hold; whether all of it does.
pub fn run_test(directories: &Directories, which: &Which, out: &mut dyn io::Write) -> Result<bool> {
    let home = home(directories)?;
    let found = which.load(directories)?;
    let files: Vec<String> = found
        .files
        .iter()
        .map(|file| format!("'{}'", file.display()))
        .collect();
    writeln!(
        out,
        "testing {} build machines defined in {}...",
        found.machines.len(),
        files.join(", ")
    )?;
    // The machines take their time.
    out.flush()?;
    let results = at_once(&found.machines, |machine| {
        let daemon = Address::from_environment(&directories.state)
            .and_then(|address| address.connect(&directories.store, &Options::default()));
        remote::test(machine, &home, PATIENCE, daemon.ok().as_mut())
    });
    let mut failed = !found.problems.is_empty();
    for (machine, checks) in found.machines.iter().zip(results) {
        writeln!(out, "{}:{}", machine.name, machine.port)?;
        for check in checks {
            match check.result {
                Ok(text) => writeln!(out, "  right  {:<16} {text}", check.what)?,
                Err(text) => {
                    failed = true;
                    // A public key goes over many lines.
                    let words: Vec<&str> = text.split_whitespace().collect();
                    writeln!(out, "  wrong  {:<16} {}", check.what, words.join(" "))?;
                }
            }
            if let Some(remedy) = check.remedy {
                writeln!(out, "         {:<16} {remedy}", "to mend it:")?;
            }
        }
    }
    out.flush()?;
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_are_parts_of_names() {
        assert!(matches("build", "build1.example") && matches("b.*d1", "build1.example"));
        assert!(
            matches("^build", "build1") && !matches("^uild", "build1") && !matches("x", "build1")
        );
    }
}
