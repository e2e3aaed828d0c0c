//! The right to have a session on a connection. sshd allows ten by default (`MaxSessions`), and some
//! administrators fewer. Each of our sessions holds a session slot, which is a lock file; when all
//! slots of one connection are taken, the next session takes one of another connection. The kernel
//! frees the slot of a hook that is killed.
//!
//! How many sessions a machine allows is learned when it refuses one, and is in a file until a new
//! first connection is made.

use std::fs;
use std::io;

use system::lock::{LockFile, Mode};

use super::destination::Destination;
use super::master;

/// Sessions per connection: fewer than sshd allows, because it may notice late that one has ended.
const MOST: u32 = 8;

/// A slot that is held.
pub(super) struct SessionSlot {
    /// The number of its connection.
    pub connection: u32,
    _lock: LockFile,
}

/// Takes a free slot.
pub(super) fn take(destination: &Destination) -> io::Result<SessionSlot> {
    let limit = limit(destination);
    for connection in 0..master::MASTERS {
        for slot in 0..limit {
            if let Some(lock) = try_take(destination, connection, slot)? {
                // Slots of higher numbers may be held since before the limit was learned.
                if limit < MOST && taken(destination, connection)? > limit {
                    break;
                }
                return Ok(SessionSlot {
                    connection,
                    _lock: lock,
                });
            }
        }
    }
    Err(io::Error::other("too many commands run there already"))
}

fn try_take(destination: &Destination, connection: u32, slot: u32) -> io::Result<Option<LockFile>> {
    let lock = LockFile::open(destination.master_file(connection, &format!(".s{slot}")))?;
    Ok(lock.try_lock(Mode::Exclusive)?.then_some(lock))
}

/// How many slots of a connection are held.
fn taken(destination: &Destination, connection: u32) -> io::Result<u32> {
    let mut taken = 0;
    for slot in 0..MOST {
        taken += u32::from(try_take(destination, connection, slot)?.is_none());
    }
    Ok(taken)
}

/// Notes that sshd refused the session of a slot. Returns whether it did so because of our other
/// sessions on that connection; otherwise it has not noticed that one has ended, or allows none.
pub(super) fn refused(destination: &Destination, slot: &SessionSlot) -> io::Result<bool> {
    let taken = taken(destination, slot.connection)?;
    if taken <= 1 {
        return Ok(false);
    }
    let allowed = (taken - 1).min(limit(destination));
    fs::write(destination.session_limit(), allowed.to_string())?;
    Ok(true)
}

fn limit(destination: &Destination) -> u32 {
    let learned = fs::read_to_string(destination.session_limit()).ok();
    let learned = learned.and_then(|text| text.parse().ok());
    learned.unwrap_or(MOST).clamp(1, MOST)
}
