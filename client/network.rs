//! The program that touches the network for this one, `guix-fetch`: confined, as the user.

use std::path::PathBuf;

use store::Directories;
use substitutes::network::{self, GUIX_FETCH, Network};

/// The program's file, which may not exist.
pub fn program(directories: &Directories) -> PathBuf {
    GUIX_FETCH
        .find(&directories.installation)
        .unwrap_or_else(|| directories.installation.libexec.join(GUIX_FETCH.installed))
}

/// The program, to be started when there is something to ask.
pub fn network(directories: &Directories) -> Network {
    let program = program(directories);
    Network::new(move |socket| network::program(&program, socket).spawn())
}
