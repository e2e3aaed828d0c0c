//! Kernel keyrings (`keyrings(7)`), which a process must not pass on to builders.
//!
//! A session keyring is inherited by every child, even if it changes its user; a user keyring lasts
//! as long as the user has processes, and longer while something refers to it. Neither belongs to a
//! namespace that a builder has, unless it has its own user namespace.

use std::io;

use crate::kernel_list;

/// `KEYCTL_JOIN_SESSION_KEYRING`.
const JOIN_SESSION_KEYRING: libc::c_int = 1;
/// `KEYCTL_CLEAR`.
const CLEAR: libc::c_int = 7;
/// `KEY_SPEC_USER_KEYRING`.
const USER_KEYRING: libc::c_int = -4;
/// `KEY_SPEC_USER_SESSION_KEYRING`.
const USER_SESSION_KEYRING: libc::c_int = -5;

/// Replaces this process's inherited session keyring by a new, empty one.
///
/// A kernel without keyrings has nothing to inherit, and a filter that forbids this call also
/// forbids all others that use keyrings, so neither is an error.
pub fn join_new_session() -> io::Result<()> {
    // SAFETY: a null name requests an anonymous keyring; the other arguments are numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    unless_unavailable(result)
}

/// Empties the keyrings of this process's user. Must not be called as a user that people log in as,
/// who would lose their keys.
pub fn clear_user_keyrings() -> io::Result<()> {
    // To clear them would make them first.
    if !has_keys(crate::ids::effective_uid()) {
        return Ok(());
    }
    for keyring in [USER_KEYRING, USER_SESSION_KEYRING] {
        // SAFETY: only numbers are passed.
        let result = unsafe { libc::syscall(libc::SYS_keyctl, CLEAR, keyring) };
        unless_unavailable(result)?;
    }
    Ok(())
}

/// Whether a user has any keys, according to the kernel's list (`proc_key_users(5)`: a line for each
/// user, with the number first). Without such a list, it may have.
fn has_keys(uid: u32) -> bool {
    let Ok(users) = kernel_list::read("/proc/key-users") else {
        return true;
    };
    let mut numbers = users.lines().filter_map(|line| line.split(':').next());
    numbers.any(|number| number.trim().parse() == Ok(uid))
}

fn unless_unavailable(result: libc::c_long) -> io::Result<()> {
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Keyrings aren't supported or not permitted, or (with `CLEAR`) none was created yet.
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES | libc::ENOKEY) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_of_users_is_understood() {
        if std::fs::exists("/proc/key-users").unwrap() {
            // Keyrings of the kernel itself.
            assert!(has_keys(0));
            assert!(!has_keys(0x7fff_fffe));
        }
    }
}
