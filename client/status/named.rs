//! `guix-client status NAME…`: what becomes of single derivations and items, and why they wait.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use farm::ItemName;
use farm::status::{Client, Request, Running, Status, Wait};
use formats::printable::{printable, printable_json};
use formats::store_path::name_without_hash;
use serde::Serialize;

use super::words::{build_row, name, time_of, who};
use crate::output;

/// A goal of a request, for programs.
#[derive(Debug, Serialize)]
struct Found<'a> {
    /// The request's number.
    request: u64,
    client: &'a Client,
    /// What it does, if it runs.
    build: Option<&'a Running>,
    /// Why it waits, if it does.
    wait: Option<&'a Wait>,
    /// Whether the request's longest path leads through it.
    is_on_critical_path: bool,
}

/// Shows the goals with these names. It is an error if none of them is known.
pub(super) fn show(names: &[String], status: &Status, is_json: bool) -> Result<ExitCode> {
    let found = find(names, status);
    let mut out = output::stdout();
    if is_json {
        let pretty = serde_json::to_string_pretty(&found)?;
        writeln!(out, "{}", printable_json(&pretty))?;
    } else {
        for one in &found {
            writeln!(out, "{}", in_words(one))?;
        }
    }
    out.flush()?;
    if found.is_empty() {
        bail!("{}", unknown(names, status));
    }
    Ok(ExitCode::SUCCESS)
}

/// What runs and what waits of these, request by request.
fn find<'a>(names: &[String], status: &'a Status) -> Vec<Found<'a>> {
    let is_meant = |path: &str| names.iter().any(|name| means(name, path));
    let of_request = |request: &'a Request| {
        let one = move |path: &str, build, wait| Found {
            request: request.number,
            client: &request.client,
            build,
            wait,
            is_on_critical_path: request.critical_path.iter().any(|other| other == path),
        };
        let builds = request.builds.iter();
        let builds = builds.map(move |build| (build.path.as_str(), Some(build), None));
        let waits = request.waits.iter();
        let waits = waits.map(move |wait| (wait.path.as_str(), None, Some(wait)));
        builds
            .chain(waits)
            .map(move |(path, build, wait)| (path, one(path, build, wait)))
    };
    let all = status.requests.iter().flat_map(of_request);
    let meant = all.filter(|(path, _)| is_meant(path));
    meant.map(|(_, found)| found).collect()
}

/// Whether somebody who writes this means that item: its file's name, its name with or without version.
fn means(text: &str, path: &str) -> bool {
    let base = path.rsplit('/').next().unwrap_or(path);
    let full = name_without_hash(path);
    let plain = full.strip_suffix(".drv").unwrap_or(full);
    [path, base, full, plain].contains(&text) || ItemName::of(path).name == text
}

fn in_words(found: &Found<'_>) -> String {
    let whose = format!("request {} of {}", found.request, who(found.client));
    let urgent = match found.is_on_critical_path {
        true => "; the longest path leads through it",
        false => "",
    };
    match (found.build, found.wait) {
        (Some(build), _) => {
            let [name, place, elapsed, usually] =
                build_row(build).map(|cell| printable(&cell).into_owned());
            format!("{name} ({whose}) runs for {elapsed}, {place}, usually {usually}{urgent}")
        }
        (None, Some(wait)) => {
            let retry = match wait.retry_s {
                Some(seconds) => format!("; it is tried again in {}", time_of(seconds)),
                None => String::new(),
            };
            let why = printable(&wait.text);
            format!("{} ({whose}) waits: {why}{retry}{urgent}", name(&wait.path))
        }
        (None, None) => whose,
    }
}

/// That nothing was found, and how sure that is.
pub(super) fn unknown(names: &[String], status: &Status) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    let quoted = quoted.join(", ");
    let is_whole = |request: &Request| request.unlisted_builds == 0 && request.unlisted_waits == 0;
    let are_whole = status.requests.iter().all(is_whole);
    let busy = status.requests.iter().any(|request| !request.answered);
    if are_whole && !busy && status.unlisted_requests == 0 {
        return format!("nothing called {quoted} runs or waits");
    }
    format!(
        "nothing called {quoted} is among what the daemon tells of; there is more that it does not tell of"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/gnu/store/7jhl46sxb6yi6ppz8kka0hlsm1ih0qlg-hello-2.12.drv";

    #[test]
    fn people_name_items_in_many_ways() {
        let base = &PATH["/gnu/store/".len()..];
        for text in [PATH, base, "hello-2.12.drv", "hello-2.12", "hello"] {
            assert!(means(text, PATH), "{text}");
        }
        for text in ["", "hell", "hello-2", "2.12"] {
            assert!(!means(text, PATH), "{text}");
        }
    }

    #[test]
    fn what_is_not_told_of_may_be_there() {
        let mut status = Status::default();
        let names = ["x".to_owned()];
        assert_eq!(unknown(&names, &status), "nothing called 'x' runs or waits");
        status.requests.push(Request {
            answered: true,
            unlisted_waits: 1,
            ..Request::default()
        });
        assert!(unknown(&names, &status).contains("there is more"));
    }
}
