//! Namespaces, and the id maps of user namespaces.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

pub use nix::sched::CloneFlags as Namespaces;

/// Moves this process into new namespaces (for a PID namespace, its future children).
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    Ok(nix::sched::unshare(namespaces)?)
}

/// One line of a user namespace's id map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// The id in the namespace.
    pub inside: u32,
    /// The corresponding id in the parent namespace.
    pub outside: u32,
}

/// Writes the id maps of this process's new user namespace, with one user and one group, and denies
/// `setgroups` (as the kernel requires of unprivileged writers).
pub fn write_own_maps(user: IdMap, group: IdMap) -> io::Result<()> {
    let write = |name: &str, text: String| {
        let path = format!("/proc/self/{name}");
        fs::write(&path, text).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write `{path}': {error}"))
        })
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{} {} 1", user.inside, user.outside))?;
    write("gid_map", format!("{} {} 1", group.inside, group.outside))
}

/// Forks this single-threaded process into new namespaces, as a child of *this process's parent*
/// (so that the parent can watch it after this process has ended). Returns the new process's id, or
/// `None` in the new process.
///
/// Fails if this process has several threads: the copy would not have them.
pub fn fork_sibling(namespaces: Namespaces) -> io::Result<Option<i32>> {
    if !has_one_thread()? {
        return Err(io::Error::other(
            "cannot fork a process with several threads",
        ));
    }
    let flags = (namespaces | Namespaces::CLONE_PARENT).bits() as libc::c_ulong
        | libc::SIGCHLD as libc::c_ulong;
    let nil: libc::c_ulong = 0;
    // SAFETY: without CLONE_VM this is a fork; there is only one thread (checked above), so no lock
    // is held by a thread that doesn't exist in the copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, nil, nil, nil, nil) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid as i32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether this process has a single thread.
fn has_one_thread() -> io::Result<bool> {
    let threads = "/proc/self/task";
    // Links of a directory: its name, `.', and `..' in each subdirectory.
    Ok(fs::metadata(threads)?.nlink() == 3 || fs::read_dir(threads)?.count() == 1)
}

/// Sets the NIS domain name of this process's UTS namespace.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length belong to the same string.
    if unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
