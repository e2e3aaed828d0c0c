//! `guix-client status`: what the daemon builds for everybody, what waits and why, and when it will
//! probably be done.

mod named;
mod words;

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use farm::status::{Machine, Request, Status, Wait};
use formats::printable::{printable, printable_json};
use protocol::client::Error;
use protocol::operations::FarmStatus;

use crate::daemon::Daemon;
use crate::output;
use crate::table::table;
use words::{build_row, time_of, who};

pub use words::name;

/// How many goals that wait are shown of a request.
const WAITS_SHOWN: usize = 20;
/// How many derivations of a path are shown, at each end.
const PATH_ENDS: usize = 4;
/// How many targets are shown.
const TARGETS_SHOWN: usize = 3;

/// What to show, and how.
#[derive(Args)]
pub struct Arguments {
    /// Only what runs or waits of these: store files, or names with or without version
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

/// Asks the daemon, and prints what it says.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let text = explain(Daemon::connect()?.connection.query_farm_status())?;
    let unreadable = "the daemon's answer cannot be read";
    if !arguments.names.is_empty() {
        let status: Status = serde_json::from_slice(&text).context(unreadable)?;
        return named::show(&arguments.names, &status, arguments.format == "json");
    }
    let mut out = output::stdout();
    if arguments.format == "json" {
        let value: serde_json::Value = serde_json::from_slice(&text).context(unreadable)?;
        let pretty = serde_json::to_string_pretty(&value)?;
        writeln!(out, "{}", printable_json(&pretty))?;
    } else {
        let status: Status = serde_json::from_slice(&text).context(unreadable)?;
        let width = system::terminal::width(&std::io::stdout());
        out.write_all(shown(&status, width).as_bytes())?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A daemon's answer as JSON, or why there is none.
pub fn explain(answer: Result<FarmStatus, Error>) -> Result<Vec<u8>> {
    match answer {
        Ok(answer) => Ok(answer.0.into()),
        Err(Error::Daemon { message, .. }) if message.contains("invalid operation") => {
            bail!(
                "this daemon cannot tell what it does: it is Guix's own, or an older one; \
                 `guix-client processes' shows its sessions"
            );
        }
        Err(error) => Err(error.into()),
    }
}

/// Everything, for people.
fn shown(status: &Status, width: Option<u16>) -> String {
    let mut text = String::new();
    for request in &status.requests {
        let _ = writeln!(text, "{}", summary(request, status.time));
        if !request.builds.is_empty() {
            let rows = request.builds.iter().map(build_row);
            let headings = ["running", "where", "for", "usually"];
            text.push_str(&table(headings, rows, width));
        }
        if !request.waits.is_empty() {
            let rows = request.waits.iter().take(WAITS_SHOWN).map(wait_row);
            text.push_str(&table(["waiting", "why"], rows, width));
            let all = usize::try_from(request.waiting).unwrap_or(usize::MAX);
            if let Some(more @ 1..) = all.checked_sub(request.waits.len().min(WAITS_SHOWN)) {
                let reasons: Vec<String> = (request.reasons.iter())
                    .map(|(reason, count)| format!("{reason}: {count}"))
                    .collect();
                let reasons = reasons.join(", ");
                let _ = writeln!(text, "and {more} more; in all {}", printable(&reasons));
            }
        }
        text.push('\n');
    }
    if status.requests.is_empty() {
        text.push_str("nothing is being built\n");
    }
    if status.unlisted_requests > 0 {
        let _ = writeln!(text, "and {} more requests", status.unlisted_requests);
    }
    if let Some(error) = &status.machines_error {
        let words = match status.machines.is_empty() {
            true => "the build machines are unknown",
            false => "build machines are missing",
        };
        let _ = writeln!(text, "{words}: {}", printable(error));
    }
    if !status.machines.is_empty() {
        let rows = status.machines.iter().map(machine_row);
        text.push_str(&table(["machine", "slots", "gets"], rows, width));
        if status.unlisted_machines > 0 {
            let _ = writeln!(text, "and {} more", status.unlisted_machines);
        }
    }
    text
}

/// The lines about a request as a whole.
fn summary(request: &Request, time: u64) -> String {
    let mut text = format!(
        "request {} of {}, for {}: {}",
        request.number,
        who(&request.client),
        time_of(time.saturating_sub(request.since)),
        targets(request),
    );
    if !request.answered {
        text.push_str("\n  it is busy, and does not say what it does");
        return text;
    }
    let _ = write!(
        text,
        "\n  {} done, {} running, {} waiting, {} failed; ",
        request.done, request.running, request.waiting, request.failed
    );
    match request.end {
        None => text.push_str("it is unknown when it will end"),
        Some(end) => {
            let (earliest, latest) = (time_of(end.earliest_s), time_of(end.latest_s));
            let _ = write!(text, "probably {earliest} to {latest} more");
        }
    }
    if request.critical_path.len() > 1 {
        let _ = write!(text, "\n  longest path: {}", path(request));
    }
    text
}

fn targets(request: &Request) -> String {
    let shown = request.targets.iter().take(TARGETS_SHOWN);
    let mut names: Vec<String> = shown.map(|path| name(path)).collect();
    let more = (request.targets.len() - names.len()) as u64;
    let more = more.saturating_add(request.unlisted_targets);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// Both ends of the critical path, by name.
pub fn path(request: &Request) -> String {
    let names = &request.critical_path;
    let unlisted = usize::try_from(request.unlisted_path).unwrap_or(usize::MAX);
    let all = names.len().saturating_add(unlisted);
    let mut shown: Vec<String> = names
        .iter()
        .take(PATH_ENDS)
        .map(|path| name(path))
        .collect();
    if all > 2 * PATH_ENDS {
        let end = match request.unlisted_path {
            0 => PATH_ENDS,
            _ => 0, // the end isn't known
        };
        shown.push(format!("{} more", all - PATH_ENDS - end));
        shown.extend(names[names.len() - end..].iter().map(|path| name(path)));
    } else {
        shown.extend(names.iter().skip(PATH_ENDS).map(|path| name(path)));
    }
    shown.join(" → ")
}

fn wait_row(wait: &Wait) -> [String; 2] {
    let retry = match wait.retry_s {
        Some(seconds) => format!(" (tried again in {seconds} s)"),
        None => String::new(),
    };
    [name(&wait.path), format!("{}{retry}", wait.text)]
}

fn machine_row(machine: &Machine) -> [String; 3] {
    let state = match &machine.why_not {
        Some(reason) => format!("nothing: {reason}"),
        None => "builds".to_owned(),
    };
    let slots = format!("{}/{}", machine.slots_used, machine.slots);
    [machine.name.clone(), slots, state]
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm::status::{End, Running};

    #[test]
    fn hostile_names_are_shown_as_text() {
        let evil = "/gnu/store/x-\u{1b}[2J\nevil.drv".to_owned();
        let status = Status {
            time: 100,
            requests: vec![Request {
                number: 1,
                answered: true,
                targets: vec![evil.clone()],
                critical_path: vec![evil.clone(), evil.clone()],
                waiting: 1,
                waits: vec![Wait {
                    path: evil.clone(),
                    text: evil.clone(),
                    ..Wait::default()
                }],
                builds: vec![Running {
                    path: evil.clone(),
                    place: evil.clone(),
                    ..Running::default()
                }],
                ..Request::default()
            }],
            machines: vec![Machine {
                name: evil.clone(),
                why_not: Some(evil),
                ..Machine::default()
            }],
            ..Status::default()
        };
        let text = shown(&status, Some(80));
        assert!(
            !text.contains('\u{1b}') && text.contains(r"\u{1b}"),
            "{text}"
        );
    }

    #[test]
    fn machines_that_are_missing_are_not_all_unknown() {
        let mut status = Status {
            machines_error: Some("one: no host-key".to_owned()),
            ..Status::default()
        };
        let text = shown(&status, Some(80));
        assert!(
            text.contains("\nthe build machines are unknown: one: no host-key\n"),
            "{text}"
        );
        status.machines = vec![Machine::default()];
        let text = shown(&status, Some(80));
        assert!(
            text.contains("\nbuild machines are missing: one: no host-key\n"),
            "{text}"
        );
    }

    #[test]
    fn numbers_may_be_as_large_as_they_can_be() {
        let path = "/gnu/store/00000000000000000000000000000000-x.drv".to_owned();
        let most = u64::MAX;
        let request = Request {
            number: most,
            answered: true,
            targets: vec![path.clone()],
            unlisted_targets: most,
            critical_path: vec![path.clone(); 2],
            unlisted_path: most,
            done: most,
            running: most,
            waiting: most,
            failed: most,
            waits: vec![Wait {
                path: path.clone(),
                retry_s: Some(most),
                ..Wait::default()
            }],
            unlisted_waits: most,
            builds: vec![Running {
                path,
                elapsed_s: most,
                usual_s: Some(most - 1),
                long_s: Some(most),
                ..Running::default()
            }],
            unlisted_builds: most,
            end: Some(End {
                earliest_s: most,
                latest_s: most,
            }),
            ..Request::default()
        };
        let status = Status {
            time: most,
            requests: vec![request.clone(), request],
            unlisted_requests: most,
            ..Status::default()
        };
        let text = shown(&status, Some(80));
        assert!(text.contains(&format!("x, {most} more")), "{text}");
        assert!(text.contains("more; in all"), "{text}");
        assert!(named::unknown(&["y".to_owned()], &status).contains("there is more"));
    }

    #[test]
    fn a_long_path_is_shown_by_its_ends_and_the_end_by_bounds() {
        let request = Request {
            number: 7,
            answered: true,
            since: 40,
            targets: vec!["/gnu/store/00000000000000000000000000000000-top.drv".to_owned()],
            critical_path: (0..20)
                .map(|number| format!("/gnu/store/00000000000000000000000000000000-n{number}.drv"))
                .collect(),
            end: Some(End {
                earliest_s: 60,
                latest_s: 7200,
            }),
            ..Request::default()
        };
        assert_eq!(
            summary(&request, 100),
            "request 7 of an unknown client, for 60 seconds: top\n  \
             0 done, 0 running, 0 waiting, 0 failed; probably 60 seconds to 2 hours more\n  \
             longest path: n0 → n1 → n2 → n3 → 12 more → n16 → n17 → n18 → n19"
        );
    }
}
