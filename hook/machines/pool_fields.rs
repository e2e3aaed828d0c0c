//! Conversion of the fields of a pool: entries with `transport = "command"`.

use std::collections::BTreeMap;

use formats::datum::{Datum, Value};

use super::pool::{Pool, Queue, Scheduler, Trust};
use super::template::{self, Placeholder};
use super::values::{
    FieldResult, absolute, choice, expected, integer, string, strings, user_name, word,
};

/// The fields that only pools have.
pub const FIELDS: [&str; 17] = [
    "scheduler",
    "command",
    "cancel",
    "pending",
    "busy",
    "options",
    "resources",
    "run-as",
    "worker",
    "worker-key",
    "memory",
    "queue",
    "queue-limit",
    "idle",
    "job-minutes",
    "trust",
    "heartbeat",
];

/// Sets the field with this name, which has to be one of [`FIELDS`].
pub fn set(pool: &mut Pool, name: &str, value: &Datum) -> FieldResult<()> {
    match name {
        "scheduler" => {
            pool.scheduler = match choice(value)?.as_str() {
                "slurm" => Some(Scheduler::Slurm),
                "podman" => Some(Scheduler::Podman),
                _ => return Err("expected \"slurm\" or \"podman\"".into()),
            }
        }
        "command" => pool.command = Some(command_line(value)?),
        "cancel" => pool.cancel = Some(command_line(value)?),
        "pending" => pool.pending = Some(command_line(value)?),
        "busy" => pool.busy = Some(strings(value)?),
        "options" => pool.options = strings(value)?,
        "resources" => pool.resources = resources(value)?,
        "run-as" => pool.run_as = Some(user_name(value)?),
        "worker" => pool.worker = Some(file_name(value)?),
        "worker-key" => pool.worker_key = Some(file_name(value)?),
        "memory" => pool.memory = Some(integer(value, 1, 1 << 30)? as u32),
        "queue" => {
            pool.queue = match choice(value)?.as_str() {
                "wait" => Queue::Wait,
                "now" => Queue::Now,
                _ => return Err("expected \"wait\" or \"now\"".into()),
            }
        }
        "queue-limit" => pool.queue_limit = seconds(value, 100_000)?,
        "idle" => pool.idle = integer(value, 0, 86_400)? as u32,
        "job-minutes" => pool.job_minutes = Some(integer(value, 1, 100_000)? as u32),
        "trust" => {
            pool.trust = match choice(value)?.as_str() {
                "pool" => Trust::Pool,
                "connection" => Trust::Connection,
                _ => return Err("expected \"pool\" or \"connection\"".into()),
            }
        }
        "heartbeat" => pool.heartbeat = integer(value, 1, 3600)? as u32,
        _ => return Err("extraneous field initializer".into()),
    }
    Ok(())
}

/// What is wrong with the fields together: the field, and a message.
pub fn check(pool: &Pool) -> Result<(), (&'static str, String)> {
    let Some(command) = &pool.command else {
        return match pool.scheduler {
            Some(_) => Ok(()),
            None => Err(("command", "missing field initializer".into())),
        };
    };
    for (name, is_given) in [
        ("options", !pool.options.is_empty()),
        ("resources", !pool.resources.is_empty()),
    ] {
        if is_given && !template::has(command, Placeholder::Options) {
            let message = "`command' has no word `{options}' for them";
            return Err((name, message.into()));
        }
    }
    Ok(())
}

/// Checks a command line: a program, and words for it, with placeholders.
fn command_line(value: &Datum) -> FieldResult<Vec<String>> {
    let words = strings(value)?;
    for word in &words {
        template::pieces(word)?;
    }
    match words.first() {
        None => Err("names no program".into()),
        Some(program) if program.contains('{') => Err("its program is a placeholder".into()),
        Some(_) => Ok(words),
    }
}

/// Checks a number of minutes, and converts it to seconds.
fn seconds(value: &Datum, most: u32) -> FieldResult<u32> {
    match value.value {
        Value::Number(minutes) if (0.0..=f64::from(most)).contains(&minutes) => {
            Ok((minutes * 60.0).ceil() as u32)
        }
        _ => expected(&format!("a number from 0 to {most}"), value),
    }
}

/// Checks a file name in a job.
fn file_name(value: &Datum) -> FieldResult<String> {
    absolute(value)?;
    string(value)
}

/// Checks a table: a list of lists, each with a feature and words for it.
fn resources(value: &Datum) -> FieldResult<BTreeMap<String, Vec<String>>> {
    let table = || {
        let mut table = BTreeMap::new();
        for row in value.list()? {
            let (feature, words) = row.list()?.split_first()?;
            let words = words.iter().map(string).collect::<FieldResult<_>>();
            table.insert(word(feature).ok()?, words.ok()?);
        }
        Some(table)
    };
    match table() {
        Some(table) => Ok(table),
        None => expected("features, each with a list of words", value),
    }
}
