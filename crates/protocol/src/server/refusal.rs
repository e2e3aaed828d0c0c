//! Refusing a client.

use crate::codec::{put_bytes, put_long};
use crate::frames::{DAEMON_MAGIC, ERROR, status};
use crate::version::Version;

/// The bytes to send to a client that is refused, whatever it sends: the daemon's part of the
/// handshake, which ends with an error.
///
/// The status is for clients of version 0x108 and later.
pub fn refusal(message: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_long(&mut bytes, DAEMON_MAGIC.into());
    put_long(&mut bytes, Version::CURRENT.0.into());
    put_long(&mut bytes, ERROR);
    put_bytes(&mut bytes, message);
    put_long(&mut bytes, status::FAILURE.into());
    bytes
}
