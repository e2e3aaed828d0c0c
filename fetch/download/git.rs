//! `builtin:git-download`: the files of one commit, from the repository or from an archive of such
//! files.

use std::fs;
use std::io;
use std::path::Path;

use super::git_command::{Failed, Git, PROTOCOLS};
use super::place::scheme;
use super::report;
use super::request::{GitRequest, Request};
use super::tree::Tree;
use super::{nar_server, software_heritage};

/// Fetches to `output`, or says why it could not.
pub fn download(request: &Request, git: &GitRequest, output: &Path) {
    if let Err(error) = try_places(request, git, output) {
        report::line(&format!("cannot write {}: {error}", request.item));
        // As far as there is anything.
        let _ = Tree::new(output).and_then(|tree| tree.remove());
    }
}

fn try_places(request: &Request, git: &GitRequest, output: &Path) -> io::Result<()> {
    let tree = Tree::new(output)?;
    let scratch = std::env::current_dir()?;
    let home = scratch.join("home");
    fs::create_dir_all(&home)?;
    let mut kept = false;
    if request.wants("upstream") {
        match check_out(git, &tree, &home) {
            Ok(()) if is_right(request, &tree, "upstream")? => return Ok(()),
            Ok(()) => kept = true,
            Err(Failed(reason)) => {
                report::line(&format!("git-fetch: {reason}"));
                tree.remove()?;
            }
        }
    }
    if request.wants("nar") {
        for url in nar_server::urls(&request.item) {
            match nar_server::fetch(request, &url, &tree, &scratch)? {
                nar_server::Fetched::Whole if is_right(request, &tree, &url)? => return Ok(()),
                nar_server::Fetched::Whole => kept = true,
                nar_server::Fetched::Part => kept = false,
                nar_server::Fetched::Nothing => {}
            }
        }
    }
    // Archived directories are without submodules.
    if request.wants("swh") && !git.recursive {
        report::line("Trying to download from Software Heritage...");
        for place in software_heritage::places(request, git) {
            match software_heritage::fetch(&place, request, &tree, &scratch) {
                Ok(()) => {
                    apply_attributes(&tree, &home)?;
                    if is_right(request, &tree, &place)? {
                        return Ok(());
                    }
                    kept = true;
                }
                Err(reason) => report::line(&format!("SWH: {reason}")),
            }
        }
    }
    match kept {
        // The daemon compares the hashes, too, and reports them.
        true => report::line("no other contents; keeping the last ones"),
        false => tree.remove()?,
    }
    Ok(())
}

/// Whether the tree has the hash that is expected. One that is not of an archive is for the daemon
/// to judge.
fn is_right(request: &Request, tree: &Tree, place: &str) -> io::Result<bool> {
    let actual = tree.hash(&request.hash)?;
    let expected = request.hash.hash;
    let Some(actual) = actual.filter(|actual| *actual != expected) else {
        return Ok(true);
    };
    report::mismatch(place, &expected, &actual);
    Ok(false)
}

/// Fetches the commit, first without history.
fn check_out(git: &GitRequest, tree: &Tree, home: &Path) -> Result<(), Failed> {
    let (url, commit) = (git.url.as_str(), git.commit.as_str());
    if commit.starts_with('-') {
        return Err(Failed(format!("{commit:?} is not a commit")));
    }
    match scheme(url) {
        Some(scheme) if PROTOCOLS.contains(&scheme.as_str()) => {}
        _ => return Err(Failed(format!("unsupported scheme: {url:?}"))),
    }
    let unwritable = |error: io::Error| Failed(error.to_string());
    fs::create_dir(tree.path()).map_err(unwritable)?;
    let command = Git::new(tree.path(), home)?;
    command.run(&["init", "--template=", "--initial-branch=main"])?;
    command.run(&["remote", "add", "--", "origin", url])?;
    match command.run(&["fetch", "--depth", "1", "--", "origin", commit]) {
        Ok(()) => command.run(&["checkout", "FETCH_HEAD"])?,
        Err(Failed(_)) => {
            report::line("Failed to do a shallow fetch; retrying a full fetch...");
            command.run(&["fetch", "--", "origin"])?;
            command.run(&["checkout", commit, "--"])?;
        }
    }
    if git.recursive {
        command.run(&["submodule", "update", "--init", "--recursive"])?;
    }
    tree.remove_repository(git.recursive).map_err(unwritable)
}

/// Changes files as `.gitattributes` demands, which a checkout does, but an archive doesn't have.
fn apply_attributes(tree: &Tree, home: &Path) -> io::Result<()> {
    let attributes = tree.path().join(".gitattributes");
    if attributes.symlink_metadata().is_err() {
        return Ok(());
    }
    let apply = || {
        let command = Git::new(tree.path(), home)?;
        command.run(&["init", "--quiet", "--template="])?;
        command.run(&["add", "."])?;
        command.run(&["commit", "--quiet", "-a", "-m", "init"])?;
        command.run(&["read-tree", "--empty"])?;
        command.run(&["reset", "--quiet", "--hard"])
    };
    if let Err(Failed(reason)) = apply() {
        report::line(&format!("SWH: {reason}"));
    }
    tree.remove_repository(false)
}
