//! Reports which machine built what, how long it took, and how much went over the network.
//!
//! All of it is measured where it happened: the build machine that has the log of a build has built
//! it, the log's times say how long it took, and the counters of the network interfaces how much
//! was sent.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};

use crate::step::Step;

#[derive(Default)]
struct Tally {
    builds: usize,
    busy: Duration,
}

/// Prints the report; fails unless every step was built, and each machine built some.
pub fn print(steps: &[Step], machines: &Path, seconds: &str) -> Result<()> {
    let hosts = ["build-one", "build-two"];
    let mut tallies: BTreeMap<&str, Tally> =
        hosts.iter().map(|host| (*host, Tally::default())).collect();

    let mut table = new_table(["derivation", "built by", "time"]);
    for step in steps {
        let mut built = hosts
            .iter()
            .filter_map(|host| Some((*host, log_of(&machines.join(host), &step.drv)?)));
        let Some((host, time)) = built.next() else {
            bail!("{} was built by neither machine", step.drv);
        };
        if built.next().is_some() {
            bail!("{} was built twice", step.drv);
        }
        let tally = tallies.entry(host).or_default();
        tally.builds += 1;
        tally.busy += time;
        table.add_row([step.name.clone(), host.to_owned(), format_time(time)]);
    }
    println!("{table}\n");

    let traffic = traffic()?;
    let mut table = new_table(["machine", "builds", "busy", "sent to it", "retrieved"]);
    for (host, tally) in &tallies {
        let (received, sent) = traffic.get(*host).copied().unwrap_or_default();
        table.add_row([
            (*host).to_owned(),
            tally.builds.to_string(),
            format_time(tally.busy),
            indicatif::HumanBytes(sent).to_string(),
            indicatif::HumanBytes(received).to_string(),
        ]);
        if tally.builds == 0 {
            bail!("{host} built nothing");
        }
    }
    println!("{table}\n");

    let last = steps.last().context("an empty plan")?;
    let output =
        fs::read_to_string(&last.output).with_context(|| format!("cannot read {}", last.output))?;
    println!("{}:\n{output}", last.output);
    println!(
        "{} derivations, {seconds} s, on two machines; the head built none.",
        steps.len()
    );
    Ok(())
}

/// An empty table.
pub fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A time as the tables have it.
pub fn format_time(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// How long the daemon of `machine` wrote the log of `drv`; `None` if it has no log.
pub fn log_of(machine: &Path, drv: &str) -> Option<Duration> {
    let base = drv.rsplit('/').next()?;
    let (first, rest) = base.split_at_checked(2)?;
    let directory = machine.join("var/log/guix/drvs").join(first);
    ["", ".gz", ".bz2"].iter().find_map(|suffix| {
        let metadata = fs::metadata(directory.join(format!("{rest}{suffix}"))).ok()?;
        let (begun, ended) = (metadata.created().ok()?, metadata.modified().ok()?);
        Some(ended.duration_since(begun).unwrap_or_default())
    })
}

/// Bytes received and sent, by interface. The head's interfaces are named after the machines.
fn traffic() -> Result<BTreeMap<String, (u64, u64)>> {
    let counters = fs::read_to_string("/proc/self/net/dev").context("cannot read /proc/net/dev")?;
    Ok(counters
        .lines()
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let numbers: Vec<u64> = numbers
                .split_whitespace()
                .map_while(|number| number.parse().ok())
                .collect();
            Some((
                name.trim().to_owned(),
                (*numbers.first()?, *numbers.get(8)?),
            ))
        })
        .collect())
}
