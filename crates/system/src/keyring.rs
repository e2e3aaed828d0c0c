//! Kernel keyrings (`keyrings(7)`): what a process must not hand on to the next.
//!
//! A session keyring is inherited by every child, across changes of user; a user keyring lasts as
//! long as the user has processes, and longer while something refers to it. Neither belongs to a
//! namespace that a builder gets for itself, unless it has a user namespace of its own.

use std::io;

/// `KEYCTL_JOIN_SESSION_KEYRING`.
const JOIN_SESSION_KEYRING: libc::c_int = 1;
/// `KEYCTL_CLEAR`.
const CLEAR: libc::c_int = 7;
/// `KEY_SPEC_USER_KEYRING`.
const USER_KEYRING: libc::c_int = -4;
/// `KEY_SPEC_USER_SESSION_KEYRING`.
const USER_SESSION_KEYRING: libc::c_int = -5;

/// Gives this thread's process an empty session keyring of its own, instead of the inherited one.
///
/// A kernel without keyrings has nothing to hand on, and a filter that forbids the call also
/// forbids all others that could use a keyring: neither is an error.
pub fn join_new_session() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; the other arguments are numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    unless_unavailable(result)
}

/// Empties the keyrings of the user that this process runs as. Not for a user that people log in
/// as: it would take their keys.
pub fn clear_user_keyrings() -> io::Result<()> {
    for keyring in [USER_KEYRING, USER_SESSION_KEYRING] {
        // SAFETY: plain numbers.
        let result = unsafe { libc::syscall(libc::SYS_keyctl, CLEAR, keyring) };
        unless_unavailable(result)?;
    }
    Ok(())
}

fn unless_unavailable(result: libc::c_long) -> io::Result<()> {
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // No keyrings, no permission to use any, or (with `CLEAR`) none made yet.
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES | libc::ENOKEY) => Ok(()),
        _ => Err(error),
    }
}
