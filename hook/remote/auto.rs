//! Which transport a machine gets: the one that its entry names, or else `socket` unless its sshd
//! forbids forwarding and commands work. That is remembered for a while.

use std::fs;
use std::time::{Duration, Instant};

use super::link::Link;
use super::{Error, Transport, commands, socket};
use crate::machines::TransportChoice;

/// For how long a machine that forbids forwarding isn't asked again.
const MEMORY: Duration = Duration::from_secs(3600);

/// Connects.
pub(super) fn connect(link: &Link, deadline: Instant) -> Result<Box<dyn Transport>, Error> {
    match link.machine.transport {
        TransportChoice::Socket => by_socket(link, deadline),
        TransportChoice::Commands => by_commands(link, deadline),
        TransportChoice::Auto => find_out(link, deadline),
    }
}

fn by_socket(link: &Link, deadline: Instant) -> Result<Box<dyn Transport>, Error> {
    Ok(Box::new(socket::connect(link, deadline)?))
}

fn by_commands(link: &Link, deadline: Instant) -> Result<Box<dyn Transport>, Error> {
    Ok(Box::new(commands::connect(link, deadline)?))
}

fn find_out(link: &Link, deadline: Instant) -> Result<Box<dyn Transport>, Error> {
    let memory = link.file("forbids-forwarding");
    let age = fs::metadata(&memory).and_then(|metadata| metadata.modified());
    if age.is_ok_and(|written| written.elapsed().is_ok_and(|age| age < MEMORY)) {
        return by_commands(link, deadline);
    }
    let refusal = match by_socket(link, deadline) {
        Err(error @ Error::Forwarding { .. }) => error,
        other => return other,
    };
    // sshd gives the same answer when no daemon listens; then commands don't work, either.
    match by_commands(link, deadline) {
        Ok(transport) => {
            // Without it both are only tried again.
            let _ = fs::write(memory, "");
            Ok(transport)
        }
        Err(error @ Error::SameStore { .. }) => Err(error),
        Err(_) => Err(refusal),
    }
}
