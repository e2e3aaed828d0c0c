//! Choosing the transport: the one in the machine's entry; by default `socket`, unless its sshd
//! forbids forwarding and commands work. That result is cached for a while.

use std::fs;
use std::time::{Duration, Instant};

use super::destination::Destination;
use super::error::Error;
use super::transport::Transport;
use super::{commands_transport, socket_transport};
use crate::machines::TransportChoice;

/// How long it is cached that a machine forbids forwarding.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Connects to the machine's daemon.
pub(super) fn connect(
    destination: &Destination,
    deadline: Instant,
) -> Result<Box<dyn Transport>, Error> {
    match destination.machine.transport {
        TransportChoice::Socket => by_socket(destination, deadline),
        TransportChoice::Commands => by_commands(destination, deadline),
        TransportChoice::Auto => automatically(destination, deadline),
        TransportChoice::Command => Err(not_by_ssh(destination.name())),
    }
}

/// The error of who tries to reach a pool as if it was a host.
fn not_by_ssh(machine: &str) -> Error {
    Error::NoDaemon {
        machine: machine.to_owned(),
        reason: "it is a pool, which is not reached by SSH".to_owned(),
    }
}

fn by_socket(destination: &Destination, deadline: Instant) -> Result<Box<dyn Transport>, Error> {
    Ok(Box::new(socket_transport::connect(destination, deadline)?))
}

fn by_commands(destination: &Destination, deadline: Instant) -> Result<Box<dyn Transport>, Error> {
    Ok(Box::new(commands_transport::connect(
        destination,
        deadline,
    )?))
}

fn automatically(
    destination: &Destination,
    deadline: Instant,
) -> Result<Box<dyn Transport>, Error> {
    let mark = destination.file("forbids-forwarding");
    let age = fs::metadata(&mark).and_then(|metadata| metadata.modified());
    if age.is_ok_and(|written| written.elapsed().is_ok_and(|age| age < REMEMBERED)) {
        return by_commands(destination, deadline);
    }
    let refusal = match by_socket(destination, deadline) {
        Err(error @ Error::Forwarding { .. }) => error,
        other => return other,
    };
    // sshd replies the same when no daemon is listening; then commands don't work, either.
    match by_commands(destination, deadline) {
        Ok(transport) => {
            // Without the mark, both are just tried again.
            let _ = fs::write(mark, "");
            Ok(transport)
        }
        Err(error @ Error::SameStore { .. }) => Err(error),
        Err(_) => Err(refusal),
    }
}
