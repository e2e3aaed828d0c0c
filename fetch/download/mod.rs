//! `guix-fetch perform-download DRV OUTPUT`: the builder of `builtin:download` and
//! `builtin:git-download` (`doc/spec/downloads.md`), for our daemon and for Guix's.
//!
//! It runs as a build user, who may reach the network, and first of all gives up what else that
//! user may do (`confine.rs`). The derivation (`request.rs`) says where the contents may come from
//! and which hash they have. Each place is tried (`file.rs`, `git.rs`) until one has served the
//! right contents. The daemon checks the hash in any case; nothing here is trusted.
//!
//! The exit status is as with Guix's program: 1 if the derivation is refused, and 0 otherwise. If no
//! place had the file, there is no output; if all had something else, the output is what the last
//! one had, and the daemon reports the hashes.

mod confine;
mod file;
mod git;
mod git_command;
mod nar_server;
mod output;
mod page;
mod place;
mod report;
mod request;
mod software_heritage;
mod transfer;
mod tree;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use request::{Kind, Refusal, Request};

/// Runs the subcommand with these arguments.
pub fn run(arguments: &[OsString]) -> ExitCode {
    match perform(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal(reason)) => {
            report::error(&reason);
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: &[OsString]) -> Result<(), Refusal> {
    let [derivation, output] = arguments else {
        return Err(Refusal::usage());
    };
    let output = PathBuf::from(output);
    let request = Request::read(derivation, &output)?;
    confine::confine(&output)?;
    match &request.kind {
        Kind::File(file) => file::download(&request, file, &output),
        Kind::Git(git) => git::download(&request, git, &output),
    }
    Ok(())
}
