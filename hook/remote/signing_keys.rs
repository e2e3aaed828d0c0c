//! The keys by which a machine and this host accept each other's items: asking for the machine's, and having
//! it authorise ours.

use std::time::Instant;

use super::destination::Destination;
use super::error::Error;
use super::remote_command;
use super::shell::quote;

/// The most bytes of a key, and of what a command prints.
const LIMIT: u64 = 64 << 10;

/// The public key that the machine signs with.
pub(super) fn ask(destination: &Destination, deadline: Instant) -> Result<Vec<u8>, Error> {
    const DOING: &str = "asking for its signing key";
    let script = "exec cat \"${GUIX_CONFIGURATION_DIRECTORY:-/etc/guix}/signing-key.pub\"";
    remote_command::run(destination, DOING, script, b"", LIMIT, deadline)?
        .if_successful(destination, DOING)
}

/// Has the machine accept what this host signs with the key. The account needs the permission to do so.
pub(super) fn authorize(
    destination: &Destination,
    key: &[u8],
    deadline: Instant,
) -> Result<(), Error> {
    const DOING: &str = "authorising our signing key";
    let programs = match &destination.machine.program {
        Some(program) => quote(program),
        None => "guix guix-client".to_owned(),
    };
    let script = format!(
        "for program in {programs}; do \
         command -v \"$program\" >/dev/null && exec \"$program\" archive --authorize; \
         done; echo 'neither guix nor guix-client is there' >&2; exit 127"
    );
    remote_command::run(destination, DOING, &script, key, LIMIT, deadline)?
        .if_successful(destination, DOING)
        .map(drop)
}
