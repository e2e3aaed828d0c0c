//! `builtin:download`: one file, from the first place that has it.

use std::path::Path;
use std::time::SystemTime;

use formats::mirrors::{self, MirrorLists};

use super::output::Output;
use super::place::{expand, internet_archive, scheme};
use super::report::{self, Progress};
use super::request::{FileRequest, Request};
use super::transfer::{Failure, Transfer};

/// Downloads to `output`, or says why it could not.
pub fn download(request: &Request, file: &FileRequest, output: &Path) {
    let place = Output::new(output, request.hash, file.executable);
    let progress = Progress::new(request.traces, request.item.as_str());
    let mut transfer = Transfer::new(place, progress);
    let mut kept = None;
    for url in urls(request, file) {
        match attempt(request, &mut transfer, &url) {
            Outcome::Right => return,
            Outcome::Wrong => kept = Some(url),
            Outcome::Failed { kept: true } => {}
            Outcome::Failed { kept: false } => kept = None,
            Outcome::Full => {
                kept = None;
                break;
            }
        }
    }
    if kept.is_none() {
        transfer.output().remove();
    }
    if kept.is_none() && file.disarchive && request.wants("disarchive") {
        let name = request.item.as_str();
        report::line(&format!("Trying to use Disarchive to assemble {name}..."));
        report::line("could not load Disarchive");
    }
    match kept {
        // The daemon compares the hashes, too, and reports them.
        Some(url) => report::line(&format!("no other contents; keeping those of {url:?}")),
        None => report::line(&format!(
            "failed to download {:?} from {}",
            request.item.as_str(),
            file.written
        )),
    }
}

/// All URLs, in order.
fn urls(request: &Request, file: &FileRequest) -> Vec<String> {
    let mut urls = Vec::new();
    let mut upstream = Vec::new();
    let lists = file.mirrors.as_deref().map(MirrorLists::parse);
    let lists = lists.unwrap_or_else(|| Ok(MirrorLists::default()));
    let lists = lists.unwrap_or_else(|error| {
        report::warning(&format!("cannot read the list of mirrors: {error}"));
        MirrorLists::default()
    });
    for url in &file.urls {
        match expand(url, &lists) {
            Some(expanded) => upstream.extend(expanded),
            None => report::warning(&format!("unsupported URL mirror kind: {url}")),
        }
    }
    if request.wants("upstream") {
        urls.extend(upstream.iter().cloned());
    }
    if request.wants("content-addressed-mirrors") {
        if let Some(expression) = &file.content_addressed {
            urls.extend(content_addressed(request, expression));
        }
    }
    if request.wants("internet-archive") {
        let first = upstream.first();
        urls.extend(first.and_then(|url| internet_archive(url, SystemTime::now())));
    }
    urls
}

fn content_addressed(request: &Request, expression: &str) -> Vec<String> {
    let name = request.item.name();
    let skipped = |error: &mirrors::Error| {
        report::warning(&format!("content-addressed mirror skipped: {error}"))
    };
    match mirrors::content_addressed(expression, name, &request.hash.hash) {
        Ok(found) => {
            found.problems.iter().for_each(skipped);
            found.urls
        }
        Err(error) => {
            skipped(&error);
            Vec::new()
        }
    }
}

/// How the attempt at one URL ended.
enum Outcome {
    /// The output is what was wanted.
    Right,
    /// It is something else.
    Wrong,
    /// Nothing more came; whether the output of an earlier attempt is still there.
    Failed { kept: bool },
    /// The output cannot be written: no other place helps.
    Full,
}

fn attempt(request: &Request, transfer: &mut Transfer, url: &str) -> Outcome {
    report::blank();
    report::line(&format!("Starting download of {}", request.item));
    report::line(&format!("From {url}..."));
    if !matches!(scheme(url).as_deref(), Some("http" | "https" | "ftp")) {
        report::line(&format!("skipping URI with unsupported scheme: {url:?}"));
        return Outcome::Failed { kept: true };
    }
    // What was pieced together may be of two versions of the file: once more, in one piece.
    for last in [false, true] {
        transfer.output().forget();
        let whole = match transfer.fetch(url) {
            Ok(whole) => whole,
            Err(Failure::Place(reason)) => {
                report::line(&reason);
                let kept = !transfer.output().is_begun();
                return Outcome::Failed { kept };
            }
            Err(Failure::Output(error)) => return unwritable(request, &error),
        };
        let actual = match transfer.output().finish() {
            Ok(actual) => actual,
            Err(error) => return unwritable(request, &error),
        };
        let expected = request.hash.hash;
        if actual == expected {
            return Outcome::Right;
        }
        report::mismatch(url, &expected, &actual);
        if whole || last {
            break;
        }
    }
    Outcome::Wrong
}

fn unwritable(request: &Request, error: &std::io::Error) -> Outcome {
    report::line(&format!("cannot write {}: {error}", request.item));
    Outcome::Full
}
