//! The files of a commit, from the archive of Software Heritage, which is asked for the directory
//! with this hash, and otherwise for that of the commit or tag
//! (<https://archive.softwareheritage.org/api/>).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::git_command;
use super::output::Output;
use super::page::{self, Method};
use super::report;
use super::report::Progress;
use super::request::{GitRequest, Request};
use super::transfer::{Failure, Transfer};
use super::tree::Tree;

const ARCHIVE: &str = "https://archive.softwareheritage.org";
/// The variable of the daemon's environment that names another.
const VARIABLE: &str = "GUIX_FETCH_SWH_URL";
/// The variable with the password of somebody who may ask more often.
const TOKEN: &str = "GUIX_SWH_TOKEN";
/// The latest visits of a repository that are looked at for a tag.
const VISITS: usize = 30;
/// How often a directory that is being put together is asked for.
const MAX_QUESTIONS: u32 = 240;
const MAX_FAILURES: u32 = 3;
/// At most 60 questions are answered in an hour.
const FIRST_WAIT: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(30);

/// All characters but those that mean themselves in a part of a path.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The names of directories that may be the right one, best first: `swh:1:dir:…`.
pub fn places(request: &Request, git: &GitRequest) -> Vec<String> {
    let mut places = Vec::new();
    let (algorithm, hex) = (request.hash.hash.algorithm(), request.hash.hash.hex());
    let path = format!("/api/1/extid/nar-{algorithm}/hex:{hex}/?extid_version=1");
    match ask(&path).map(|page| text(&page, "target")) {
        Ok(Some(place)) => places.push(place),
        _ => report::line(&format!(
            "SWH: directory with nar-{algorithm} hash {hex} not found"
        )),
    }
    match of_commit(git) {
        Ok(id) => places.push(format!("swh:1:dir:{id}")),
        Err(reason) => report::line(&format!(
            "SWH: revision {:?} originating from {} could not be found ({reason})",
            git.commit, git.url
        )),
    }
    places.dedup();
    places.retain(|place| is_directory(place));
    places
}

/// Whether this is the name of a directory, and nothing else in a path.
fn is_directory(place: &str) -> bool {
    let id = place.strip_prefix("swh:1:dir:").unwrap_or_default();
    id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The directory of a commit or tag.
fn of_commit(git: &GitRequest) -> Result<String, String> {
    let commit = &git.commit;
    let is_id = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    let revision = match is_id {
        true => ask(&format!("/api/1/revision/{commit}/"))?,
        false => of_tag(git)?,
    };
    text(&revision, "directory").ok_or_else(|| "no directory".to_owned())
}

fn of_tag(git: &GitRequest) -> Result<Value, String> {
    let origin = ask(&format!("/api/1/origin/{}/get/", git.url))?;
    let visits = text(&origin, "origin_visits_url").ok_or("no visits")?;
    let visits = ask(&format!("{visits}?per_page={VISITS}"))?;
    let visits = visits.as_array().ok_or("no visits")?;
    let name = format!("refs/tags/{}", git.commit);
    for visit in visits.iter().take(VISITS) {
        let snapshot = match text(visit, "snapshot_url") {
            Some(url) if text(visit, "status").as_deref() == Some("full") => ask(&url)?,
            _ => continue,
        };
        let branch = match snapshot.get("branches").and_then(|it| it.get(&name)) {
            Some(branch) => branch.clone(),
            None => {
                // A page of branches has no more than a thousand.
                let from = utf8_percent_encode(&name, IN_PATH);
                let id = text(&snapshot, "id").unwrap_or_default();
                let id = utf8_percent_encode(&id, IN_PATH);
                let path = format!("/api/1/snapshot/{id}/?branches_count=1&branches_from={from}");
                let page = ask(&path)?;
                match page.get("branches").and_then(|it| it.get(&name)) {
                    Some(branch) => branch.clone(),
                    None => continue,
                }
            }
        };
        let mut target = follow(&branch)?;
        if text(&branch, "target_type").as_deref() == Some("release") {
            target = follow(&target)?;
        }
        return Ok(target);
    }
    Err("no such tag".to_owned())
}

/// What `target_url` of an answer leads to.
fn follow(value: &Value) -> Result<Value, String> {
    let url = text(value, "target_url").ok_or("no target")?;
    ask(&url)
}

/// Fetches a directory to `tree`. If that fails, an earlier tree may be gone.
pub fn fetch(place: &str, request: &Request, tree: &Tree, scratch: &Path) -> Result<(), String> {
    report::line(&format!("SWH: fetching {place}"));
    let bundle = scratch.join("bundle.tar.gz");
    let url = cooked(place)?;
    let progress = Progress::new(request.traces, request.item.as_str());
    let mut transfer = Transfer::new(Output::unhashed(&bundle), progress);
    let result = match transfer.fetch(&url) {
        Ok(_) => unpack(&bundle, tree),
        Err(Failure::Place(reason)) => Err(reason),
        Err(Failure::Output(error)) => Err(format!("cannot write {}: {error}", bundle.display())),
    };
    // There may be none.
    let _ = fs::remove_file(&bundle);
    result
}

/// Has the directory put together, and returns its URL.
fn cooked(place: &str) -> Result<String, String> {
    let path = format!("/api/1/vault/flat/{place}/");
    let mut failures = 0;
    let mut answer = match page::get(&address(&path)?, Method::Get, token().as_deref())? {
        (404, _) => request_cooking(&path)?,
        (_, answer) => answer,
    };
    for _ in 0..MAX_QUESTIONS {
        let message = text(&answer, "progress_message");
        match text(&answer, "status").as_deref() {
            Some("done") => {
                let url = text(&answer, "fetch_url").ok_or("no URL of the directory")?;
                return address(&url);
            }
            Some("failed") => {
                failures += 1;
                let message = message.unwrap_or_default();
                report::line(&format!("SWH vault: failure: {message}"));
                if failures == MAX_FAILURES {
                    break;
                }
                report::line("SWH vault: retrying...");
                answer = request_cooking(&path)?;
                continue;
            }
            Some("new") => {
                report::line("SWH vault: requested bundle cooking, waiting for completion...");
                std::thread::sleep(FIRST_WAIT);
            }
            Some("pending") => {
                if let Some(message) = message {
                    report::line(&format!("SWH vault: {message}"));
                }
                std::thread::sleep(WAIT);
            }
            _ => break,
        }
        answer = ask(&path)?;
    }
    Err(format!(
        "object {place} could not be fetched from the vault"
    ))
}

fn request_cooking(path: &str) -> Result<Value, String> {
    match page::get(&address(path)?, Method::Post, token().as_deref())? {
        (200, answer) => Ok(answer),
        (status, _) => Err(format!("{path}: {status}")),
    }
}

/// Unpacks a compressed tape archive that has one directory.
fn unpack(bundle: &Path, tree: &Tree) -> Result<(), String> {
    tree.remove()
        .and_then(|()| fs::create_dir(tree.path()))
        .map_err(|error| format!("{}: {error}", tree.path().display()))?;
    let tar = git_command::find("tar").ok_or("tar is not installed")?;
    let mut command = Command::new(tar);
    command.env_clear().env("PATH", git_command::PATH.join(":"));
    command.args([
        "--extract",
        "--gzip",
        "--strip-components=1",
        "--no-same-owner",
        "--file",
    ]);
    command.arg(bundle).arg("--directory").arg(tree.path());
    match git_command::run(command) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("tar failed: {status}")),
        Err(error) => Err(format!("tar: {error}")),
    }
}

/// The answer to a question, which must be there.
fn ask(path: &str) -> Result<Value, String> {
    match page::get(&address(path)?, Method::Get, token().as_deref())? {
        (200, answer) => Ok(answer),
        (status, _) => Err(format!("{path}: {status}")),
    }
}

/// The URL of a path; an answer may have the whole URL.
fn address(path: &str) -> Result<String, String> {
    let base = std::env::var(VARIABLE).unwrap_or_else(|_| ARCHIVE.to_owned());
    let base = base.trim_end_matches('/');
    match path.strip_prefix(base) {
        Some(rest) if rest.starts_with('/') => Ok(path.to_owned()),
        _ if path.starts_with('/') => Ok(format!("{base}{path}")),
        _ => Err(format!("{path:?} is somewhere else")),
    }
}

fn token() -> Option<String> {
    std::env::var(TOKEN).ok().filter(|token| !token.is_empty())
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}
