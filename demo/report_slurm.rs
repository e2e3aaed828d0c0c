//! Reports which job of a Slurm cluster built what, on which node, and how long it had to wait.
//!
//! The hook's messages tell which job got a build, and Slurm's own list of jobs that have ended
//! (`JobCompType=jobcomp/filetxt`) tells the rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::report::new_table;
use crate::step::Step;

/// The names of the jobs of the pool `cluster` begin with this.
const OURS: &str = "guix-cluster-";

/// A job that has ended, as Slurm has it.
#[derive(Debug, PartialEq, Eq)]
struct Job {
    node: String,
    /// In seconds.
    waited: u64,
    ran: u64,
}

/// Prints the report; fails unless every step was built by one job, and all jobs have ended.
/// `messages` has what the client printed, `jobs` is Slurm's list.
pub fn print(steps: &[Step], messages: &Path, jobs: &Path, seconds: &str) -> Result<()> {
    let read =
        |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    let messages = read(messages)?;
    let messages = String::from_utf8_lossy(&messages);
    let list = read(jobs)?;
    let jobs = jobs_of(&String::from_utf8_lossy(&list))?;
    let mut builds: BTreeMap<u64, usize> = jobs.keys().map(|number| (*number, 0)).collect();

    let mut table = new_table(["derivation", "job", "node"]);
    for step in steps {
        let found: Vec<_> = messages
            .lines()
            .filter_map(|line| offloaded(line, &step.drv))
            .collect();
        let [(number, node)] = found[..] else {
            bail!("{} was built by {} jobs", step.drv, found.len());
        };
        let job = jobs.get(&number);
        let job = job.with_context(|| format!("Slurm knows no end of job {number}"))?;
        ensure!(
            job.node == node,
            "job {number} was on {}, not on {node}",
            job.node
        );
        *builds.entry(number).or_default() += 1;
        table.add_row([step.name.clone(), number.to_string(), node.to_owned()]);
    }
    println!("{table}\n");

    let mut table = new_table(["node", "job", "waited", "ran", "built"]);
    for (number, job) in &jobs {
        table.add_row([
            job.node.clone(),
            number.to_string(),
            format!("{} s", job.waited),
            format!("{} s", job.ran),
            builds[number].to_string(),
        ]);
    }
    println!("{table}\n");
    ensure!(
        jobs.values().any(|job| job.waited > 0),
        "no job had to wait for its node"
    );

    let last = steps.last().context("an empty plan")?;
    let output =
        fs::read_to_string(&last.output).with_context(|| format!("cannot read {}", last.output))?;
    println!("{}:\n{output}", last.output);
    println!(
        "{} derivations, {seconds} s, by {} jobs of Slurm; the head built none, and no job is left.",
        steps.len(),
        jobs.len()
    );
    Ok(())
}

/// The job and the node, if a message says that `drv` is built there:
/// `NAME> offloading 'DRV' to 'cluster' (job 12 on node-one)...`.
fn offloaded<'a>(line: &'a str, drv: &str) -> Option<(u64, &'a str)> {
    let (_, rest) = line.split_once("offloading '")?;
    let rest = rest.strip_prefix(drv)?;
    let place = rest
        .strip_prefix("' to 'cluster' (job ")?
        .strip_suffix(")...")?;
    let (number, node) = place.split_once(" on ")?;
    Some((number.parse().ok()?, node))
}

/// Our jobs in Slurm's list, by number.
fn jobs_of(list: &str) -> Result<BTreeMap<u64, Job>> {
    let mut jobs = BTreeMap::new();
    for line in list.lines() {
        let fields: BTreeMap<&str, &str> = line
            .split_whitespace()
            .filter_map(|field| field.split_once('='))
            .collect();
        let field = |name: &str| {
            let value = fields.get(name).copied();
            value.with_context(|| format!("no {name} in {line:?}"))
        };
        if !field("Name")?.starts_with(OURS) {
            continue;
        }
        let time = |name: &str| seconds(field(name)?);
        let (submitted, started) = (time("SubmitTime")?, time("StartTime")?);
        let job = Job {
            node: field("NodeList")?.to_owned(),
            waited: started.saturating_sub(submitted),
            ran: time("EndTime")?.saturating_sub(started),
        };
        let number = field("JobId")?;
        let number = number
            .parse()
            .with_context(|| format!("bad number {number:?}"))?;
        jobs.insert(number, job);
    }
    Ok(jobs)
}

/// A time as seconds from some point on: `2026-11-28T09:05:34`.
fn seconds(time: &str) -> Result<u64> {
    let parts: Option<Vec<u64>> = time
        .split(['-', 'T', ':'])
        .map(|part| part.parse().ok())
        .collect();
    let Some([year, month, day, hour, minute, second]) = parts.as_deref() else {
        bail!("bad time {time:?}");
    };
    // Days of the Gregorian calendar; a year begins in March.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (*year, month - 3),
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Ok(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_jobs_and_slurm_tells_the_rest() {
        let line = "a> offloading '/gnu/store/x-a.drv' to 'cluster' (job 12 on node-one)...";
        assert_eq!(
            offloaded(line, "/gnu/store/x-a.drv"),
            Some((12, "node-one"))
        );
        assert_eq!(offloaded(line, "/gnu/store/x-b.drv"), None);
        let list = "JobId=12 UserId=root(0) Name=guix-cluster-0-ab JobState=COMPLETED NodeList=node-one \
                    StartTime=2027-01-01T00:00:03 EndTime=2027-01-01T00:01:00 \
                    SubmitTime=2026-12-31T23:59:58 ExitCode=0:0\n\
                    JobId=13 Name=other\n";
        let job = Job {
            node: "node-one".to_owned(),
            waited: 5,
            ran: 57,
        };
        assert_eq!(jobs_of(list).unwrap(), BTreeMap::from([(12, job)]));
        assert!(seconds("Unknown").is_err());
        let (before, after) = (
            seconds("2028-02-29T23:59:59").unwrap(),
            seconds("2028-03-01T00:00:00").unwrap(),
        );
        assert_eq!(after - before, 1);
    }
}
