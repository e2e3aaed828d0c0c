//! A farm in the midst of its work, as files: what the dashboard, and whatever else looks at a farm, can be tried with.
//!
//! It has worked for a day of the simulated clock, whose end is now. Clients have asked for something every half an
//! hour. Builds take so many times longer than those of a distribution that the farm is busy, but could do more; one in
//! three hundred is noted as failed.
//!
//! | file | |
//! |---|---|
//! | `machines.toml` | the machines, which no name server knows |
//! | `offload/history.sqlite` | what was built, and how the machines were |
//! | `offload/NAME:PORT/health.json` | what hooks have learnt about a machine |
//! | `offload/NAME:PORT/NUMBER` | a slot that is taken: by whoever locks that file |
//! | `status.json` | what a daemon would tell (`doc/spec/farm-status.md`) |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use farm::ItemName;
use farm::history::{
    self, AttemptResult, Kind, Limits, MachineState, State, Times, Writer, WriterOptions,
};
use farm::status::{self, Client, Running, Status, Wait};
use farm::waiting::Waiting;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::graph::Graph;
use crate::machines::Machine;
use crate::policy::Ours;
use crate::report::{Setting, estimates};
use crate::simulation::{self, Attempt, Outcome, Request, Scenario};

/// How long the farm has worked, in seconds.
const DAY: f64 = 86_400.0;
/// How often a client asks for something, in seconds.
const ASKED: f64 = 1800.0;
/// Which part of the farm's time all builds of the day take.
const BUSY: f64 = 0.7;
/// How many derivations depend on each other. Since builds take long, with more the farm would wait for few of them.
const PART: usize = 8;
/// How many clients there are.
const CLIENTS: usize = 3;
/// One of so many builds has failed.
const FAILING: usize = 300;
/// How many rows the history's writer is given at a time: it writes them while nobody waits, and has room for some.
const ROWS: usize = 500;
/// The port of all machines.
const PORT: u16 = 22;

/// What is built, again and again.
const NAMES: [&str; 16] = [
    "gcc-14.3.0",
    "texlive-20250308",
    "linux-libre-6.12.5",
    "python-3.11.11",
    "rust-1.85.1",
    "icecat-140.2.0",
    "ghc-9.8.4",
    "openjdk-21.0.2",
    "qtbase-6.8.2",
    "webkitgtk-2.48.1",
    "libreoffice-25.2.3",
    "llvm-19.1.7",
    "glib-2.83.3",
    "emacs-30.1",
    "cmake-3.31.6",
    "guile-3.0.9",
];

/// A farm that was simulated until now.
struct Farm {
    graph: Graph,
    estimates: Vec<Option<f64>>,
    machines: Vec<Machine>,
    requests: Vec<Request>,
    outcome: Outcome,
    /// Now, in seconds since the epoch.
    now: u64,
}

/// Simulates a farm for a day, and writes its files.
pub fn write(setting: &Setting, directory: &Path) -> Result<()> {
    let farm = Farm::simulated(setting);
    let offload = directory.join("offload");
    fs::create_dir_all(&offload).with_context(|| format!("creating {}", offload.display()))?;
    put(&directory.join("machines.toml"), &farm.machine_file())?;
    farm.write_history(&offload)?;
    for number in 0..farm.machines.len() {
        farm.write_machine(&offload, number)?;
    }
    let status = serde_json::to_string(&farm.status())?;
    put(&directory.join("status.json"), &status)
}

fn put(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

impl Farm {
    fn simulated(setting: &Setting) -> Farm {
        let parts = 0..setting.derivations.div_ceil(PART) as u64;
        let part = |number| Graph::like_a_distribution(PART, setting.seed + number);
        let mut graph = Graph::side_by_side(parts.map(part));
        let derivations = graph.len();
        let machines = setting.machines(derivations);
        let capacity: f64 = (machines.iter())
            .map(|machine| machine.speed * machine.slots as f64 * DAY)
            .sum();
        let work: f64 = graph.derivations.iter().map(|one| one.seconds).sum();
        let factor = BUSY * capacity / work;
        for derivation in &mut graph.derivations {
            derivation.seconds *= factor;
            // The longest takes six hours as it is.
            derivation.seconds = derivation.seconds.min(DAY / 4.0);
        }
        let mut random = StdRng::seed_from_u64(setting.seed + 1);
        let estimates = estimates(&graph, &mut random);
        let count = (DAY / ASKED) as usize;
        let each = graph.len().div_ceil(count).max(1);
        let goals: Vec<u32> = (0..graph.len() as u32).collect();
        let requests = goals
            .chunks(each)
            .enumerate()
            .map(|(number, goals)| Request {
                time: number as f64 * ASKED,
                client: number % CLIENTS,
                goals: goals.to_vec(),
            });
        let requests: Vec<Request> = requests.collect();
        let scenario = Scenario {
            line: setting.line,
            between_failures: setting.between_failures,
            besides: 0.0,
            most_slots: usize::MAX,
            until: DAY,
            requests: requests.clone(),
            seed: setting.seed + 3,
        };
        let mut policy = Ours::new(StdRng::seed_from_u64(setting.seed + 4), estimates.clone());
        let there = setting.machines(derivations);
        let outcome = simulation::run(&graph, &estimates, there, &scenario, &mut policy);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Farm {
            graph,
            estimates,
            machines,
            requests,
            outcome,
            now: now.map_or(0, |now| now.as_secs()),
        }
    }

    /// A time of the simulation, in seconds since the epoch.
    fn time(&self, time: f64) -> u64 {
        self.now.saturating_sub((DAY - time) as u64)
    }

    fn machine_file(&self) -> String {
        let mut text = String::new();
        for (number, machine) in self.machines.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "[[machine]]\nname = \"{}\"\nport = {PORT}\nsystems = [\"x86_64-linux\"]\nuser = \"offload\"\n\
                 speed = {:?}\nparallel-builds = {}\n\
                 host-key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBGs6Yo9fJsGp7Jq3rZ1f0m3vJp7wD9m0Yx7pQ1kq3bK\"\n",
                name_of(number),
                machine.speed,
                machine.slots,
            );
        }
        text
    }

    fn write_history(&self, offload: &Path) -> Result<()> {
        let writer = Writer::new(WriterOptions {
            directory: offload.to_owned(),
            limits: Limits::default(),
            patience: Duration::from_secs(60),
            warn: Arc::new(|text| eprintln!("{text}")),
        });
        let mut ended: Vec<(usize, &Attempt)> = self.outcome.attempts.iter().enumerate().collect();
        ended.retain(|(_, attempt)| attempt.ended.is_some());
        ended.sort_by(|(_, one), (_, other)| {
            let ends = one.ended.unwrap_or(DAY);
            ends.total_cmp(&other.ended.unwrap_or(DAY))
        });
        for rows in ended.chunks(ROWS) {
            for (number, attempt) in rows {
                writer.attempt(self.row(*number, attempt), None);
            }
            writer.finish();
        }
        let first = (0..self.machines.len()).map(|machine| (0.0, machine, true));
        let changes: Vec<_> = first.chain(self.outcome.changes.iter().copied()).collect();
        for rows in changes.chunks(ROWS) {
            for &(time, machine, is_up) in rows {
                writer.state(self.state(time, machine, is_up));
            }
            writer.finish();
        }
        Ok(())
    }

    fn row(&self, number: usize, attempt: &Attempt) -> history::Attempt {
        let ended = attempt.ended.unwrap_or(DAY);
        let (begun, sent, bytes_sent) = attempt.sent.unwrap_or((ended, ended, 0));
        let built = attempt.built.unwrap_or(ended);
        let between = |from: f64, to: f64| Duration::from_secs_f64((to - from).max(0.0));
        let (result, reason) = match (attempt.is_lost, number % FAILING) {
            (true, _) => (AttemptResult::MachineFailed, "the connection was closed"),
            (_, 0) => (AttemptResult::Failed, "builder failed with exit code 1"),
            _ => (AttemptResult::Done, ""),
        };
        let bytes = self.graph.derivations[attempt.goal as usize].bytes;
        history::Attempt {
            time: self.time(ended),
            derivation: file_name(attempt.goal),
            item: ItemName::of(package(attempt.goal)),
            system: "x86_64-linux".to_owned(),
            machine: key_of(attempt.machine),
            speed: self.machines[attempt.machine].speed,
            kind: Kind::Build,
            times: Times {
                waited: between(attempt.began, begun),
                sent: between(begun, sent),
                built: between(sent, built),
                retrieved: between(built, ended),
            },
            bytes_sent,
            bytes_retrieved: match result {
                AttemptResult::Done => bytes,
                _ => 0,
            },
            result,
            reason: reason.to_owned(),
        }
    }

    fn state(&self, time: f64, machine: usize, is_up: bool) -> MachineState {
        let slots = self.machines[machine].slots as u32;
        MachineState {
            time: self.time(time),
            machine: key_of(machine),
            state: match is_up {
                true => State::Ready,
                false => State::SetAside,
            },
            reason: match is_up {
                true => String::new(),
                false => failure_of(machine),
            },
            load: 0.0,
            cores: slots,
            free_bytes: 200 << 30,
            slots,
        }
    }

    /// What is being built on a machine.
    fn running(&self, machine: usize) -> impl Iterator<Item = &Attempt> {
        let on = move |attempt: &&Attempt| attempt.machine == machine && attempt.ended.is_none();
        self.outcome.attempts.iter().filter(on)
    }

    /// Writes what hooks know of a machine.
    fn write_machine(&self, offload: &Path, number: usize) -> Result<()> {
        let directory = offload.join(key_of(number));
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let running: Vec<&Attempt> = self.running(number).collect();
        for (slot, attempt) in running.iter().enumerate() {
            let occupant = serde_json::json!({
                "pid": 1,
                "derivation": path(attempt.goal),
                "since": self.time(attempt.began),
            });
            put(&directory.join(slot.to_string()), &occupant.to_string())?;
        }
        let changes = || {
            self.outcome
                .changes
                .iter()
                .filter(|(_, one, _)| *one == number)
        };
        let failures = changes().filter(|(_, _, is_up)| !is_up).count();
        let is_up = changes().next_back().is_none_or(|(_, _, is_up)| *is_up);
        let ended = self.outcome.attempts.iter();
        let ended =
            ended.filter(|one| one.machine == number && one.ended.is_some() && !one.is_lost);
        let error = failure_of(number);
        let health = serde_json::json!({
            "asked": self.now,
            "load": running.len(),
            "cores": self.machines[number].cores,
            "free_bytes": (40_u64 + (number as u64 * 37) % 900) << 30,
            "builds": ended.count(),
            "failures": u32::from(!is_up),
            "all_failures": failures,
            "last_error": (!is_up).then_some(error),
            // For as long as somebody looks at these files.
            "aside_until": if is_up { 0 } else { self.now + 3000 },
        });
        put(&directory.join("health.json"), &health.to_string())
    }

    /// What a daemon would tell.
    fn status(&self) -> Status {
        let mut done = vec![false; self.graph.len()];
        let mut running: BTreeMap<u32, &Attempt> = BTreeMap::new();
        for attempt in &self.outcome.attempts {
            match attempt.ended {
                Some(_) => done[attempt.goal as usize] |= !attempt.is_lost,
                None => _ = running.insert(attempt.goal, attempt),
            }
        }
        let of =
            |(number, request): (usize, &Request)| self.request(number, request, &done, &running);
        let requests = self.requests.iter().enumerate().map(of);
        Status {
            time: self.now,
            requests: requests
                .filter(|one| one.running + one.waiting > 0)
                .collect(),
            ..Status::default()
        }
    }

    fn request(
        &self,
        number: usize,
        request: &Request,
        done: &[bool],
        running: &BTreeMap<u32, &Attempt>,
    ) -> status::Request {
        let goals = || request.goals.iter().copied();
        let mut builds: Vec<Running> = goals()
            .filter_map(|goal| Some(self.build(running.get(&goal)?)))
            .collect();
        builds.sort_by_key(|build| std::cmp::Reverse(build.elapsed_s));
        let left = goals().filter(|goal| !done[*goal as usize] && !running.contains_key(goal));
        let waits: Vec<Wait> = left
            .map(|goal| {
                let inputs = &self.graph.derivations[goal as usize].inputs;
                let missing = inputs.iter().filter(|input| !done[**input as usize]);
                let why = match missing.count() {
                    0 => Waiting::Machine(Some("all slots are taken".to_owned())),
                    missing => Waiting::Inputs(missing as u64),
                };
                Wait {
                    path: path(goal),
                    why: why.name().to_owned(),
                    text: why.about("it"),
                    retry_s: None,
                }
            })
            .collect();
        let mut reasons = BTreeMap::new();
        for wait in &waits {
            *reasons.entry(wait.why.clone()).or_insert(0) += 1;
        }
        let (runs, wait) = (builds.len(), waits.len());
        let shown = |count: usize| count.saturating_sub(status::GOALS_SHOWN) as u64;
        builds.truncate(status::GOALS_SHOWN);
        let last = request.goals.last().copied().unwrap_or(0);
        status::Request {
            number: number as u64 + 1,
            client: Client {
                uid: Some(40_000 + request.client as u32),
                address: None,
            },
            since: self.time(request.time),
            targets: vec![path(last)],
            answered: true,
            done: goals().filter(|goal| done[*goal as usize]).count() as u64,
            running: runs as u64,
            waiting: wait as u64,
            critical_path: builds.iter().take(5).map(|one| one.path.clone()).collect(),
            unlisted_builds: shown(runs),
            unlisted_waits: shown(wait),
            builds,
            waits: waits.into_iter().take(status::GOALS_SHOWN).collect(),
            reasons,
            ..status::Request::default()
        }
    }

    fn build(&self, attempt: &Attempt) -> Running {
        let speed = self.machines[attempt.machine].speed;
        let usual = self.estimates[attempt.goal as usize].map(|seconds| (seconds / speed) as u64);
        Running {
            path: path(attempt.goal),
            place: format!("machine {}", name_of(attempt.machine)),
            elapsed_s: (DAY - attempt.began) as u64,
            usual_s: usual,
            long_s: usual.map(|usual| usual * 13 / 10),
        }
    }
}

/// A machine's name.
fn name_of(machine: usize) -> String {
    format!("build{:04}.example.invalid", machine + 1)
}

/// What hooks and the history call a machine.
fn key_of(machine: usize) -> String {
    format!("{}:{PORT}", name_of(machine))
}

/// Why one that has failed cannot be used.
fn failure_of(machine: usize) -> String {
    format!("connecting to '{}': no route to host", name_of(machine))
}

/// What a derivation makes.
fn package(goal: u32) -> &'static str {
    NAMES[goal as usize % NAMES.len()]
}

/// A derivation's file name.
fn file_name(goal: u32) -> String {
    // Some number in the alphabet of store paths: any multiplier does that is odd.
    const ALPHABET: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let mut number = u64::from(goal + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut hash = String::new();
    for _ in 0..32 {
        hash.push(char::from(ALPHABET[(number >> 59) as usize]));
        number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
    }
    format!("{hash}-{}.drv", package(goal))
}

fn path(goal: u32) -> String {
    format!("/gnu/store/{}", file_name(goal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm::history::Reader;

    #[test]
    fn a_small_farm_has_all_its_files() {
        let directory = std::env::temp_dir().join(format!("guix-farm-{}", std::process::id()));
        let setting = Setting {
            machines: 10,
            waits: false,
            alike: false,
            derivations: 500,
            line: 1250e6,
            between_failures: 10.0 * 3600.0,
            seed: 1,
        };
        write(&setting, &directory).unwrap();
        let text = fs::read_to_string(directory.join("status.json")).unwrap();
        let status: Status = serde_json::from_str(&text).unwrap();
        let running: u64 = status.requests.iter().map(|one| one.running).sum();
        assert!((1..80).contains(&running), "{running}");
        let machines = fs::read_to_string(directory.join("machines.toml")).unwrap();
        assert_eq!(machines.matches("[[machine]]").count(), 10);
        let offload = directory.join("offload");
        let reader = Reader::open(&offload, Duration::from_secs(10)).unwrap();
        let (mut done, mut lost) = (0, 0);
        let reader = reader.unwrap();
        reader
            .attempts_after(0, 0, |attempt| match attempt.result {
                AttemptResult::MachineFailed => lost += 1,
                _ => done += 1,
            })
            .unwrap();
        let told: u64 = status.requests.iter().map(|one| one.done).sum();
        assert!(
            done > 100 && done as u64 >= told && lost > 0,
            "{done}, {lost}"
        );
        let slots = fs::read_dir(&offload).unwrap().filter_map(|one| {
            let entries = fs::read_dir(one.unwrap().path()).ok()?;
            Some(
                entries
                    .filter(|one| one.as_ref().unwrap().file_name() != "health.json")
                    .count(),
            )
        });
        assert_eq!(slots.sum::<usize>() as u64, running);
        fs::remove_dir_all(directory).unwrap();
    }
}
