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

impl IdMap {
    /// The id that has the same number inside and outside.
    #[must_use]
    pub fn same(id: u32) -> IdMap {
        IdMap {
            inside: id,
            outside: id,
        }
    }
}

/// Writes the id maps of this process's new user namespace, with one user and one group, and denies
/// `setgroups` (as the kernel requires of unprivileged writers).
pub fn write_own_maps(user: IdMap, group: IdMap) -> io::Result<()> {
    write("/proc/self/setgroups", "deny")?;
    write_own_user_map(user)?;
    let map = format!("{} {} 1", group.inside, group.outside);
    write("/proc/self/gid_map", &map)
}

/// Writes the map of users of this process's new user namespace, with one user. The map of groups is
/// left to others.
pub fn write_own_user_map(user: IdMap) -> io::Result<()> {
    let map = format!("{} {} 1", user.inside, user.outside);
    write("/proc/self/uid_map", &map)
}

fn write(path: &str, text: &str) -> io::Result<()> {
    fs::write(path, text)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write `{path}': {error}")))
}

/// Moves this process into a new user namespace, and into `others`. All ids of the present one have
/// the same numbers in the new one, whose maps have its own user and all groups; `setgroups` is
/// denied there. `/proc` has to be that of this process's PID namespace.
///
/// Fails if this process has several threads.
pub fn enter_with_same_ids(others: Namespaces) -> io::Result<()> {
    let user = IdMap::same(crate::ids::effective_uid());
    let groups = identity_map(&fs::read_to_string("/proc/self/gid_map")?)?;
    let namespaces = others | Namespaces::CLONE_NEWUSER;
    if let [(gid, 1)] = groups[..] {
        unshare(namespaces)?;
        return write_own_maps(user, IdMap::same(gid));
    }
    // Several groups can be mapped only by a process that stays behind.
    let map: String = groups
        .iter()
        .map(|(first, count)| format!("{first} {first} {count}\n"))
        .collect();
    let path = format!("/proc/{}/gid_map", std::process::id());
    let (wait, go) = crate::pipe::pipe()?;
    let helper = fork(Namespaces::empty())?;
    let Some(helper) = helper else {
        drop(go);
        // Without a byte, the namespace could not be entered.
        let entered = nix::unistd::read(&wait, &mut [0]);
        let written = match entered {
            Ok(1) => fs::write(path, map),
            _ => Ok(()),
        };
        let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        crate::process::exit_now(written.map_or_else(errno, |()| 0));
    };
    drop(wait);
    let entered = unshare(namespaces).and_then(|()| {
        write("/proc/self/setgroups", "deny")?;
        write_own_user_map(user)?;
        Ok(nix::unistd::write(&go, b"g").map(drop)?)
    });
    drop(go);
    let ended = crate::process::Child::new(helper, false)?.wait()?;
    entered?;
    match ended.code() {
        Some(0) => Ok(()),
        Some(number) => {
            let error = io::Error::from_raw_os_error(number);
            let text = format!("cannot map groups: {error}");
            Err(io::Error::new(error.kind(), text))
        }
        None => Err(io::Error::other("what maps groups was killed")),
    }
}

/// The ranges of a namespace's own ids (first, count) in one of its maps.
fn identity_map(map: &str) -> io::Result<Vec<(u32, u32)>> {
    let range = |line: &str| {
        let mut words = line.split_whitespace();
        let first = words.next()?.parse().ok()?;
        Some((first, words.nth(1)?.parse().ok()?))
    };
    let ranges: Option<_> = map.lines().map(range).collect();
    ranges.ok_or_else(|| io::Error::other("the map of ids can't be read"))
}

/// Forks this single-threaded process into new namespaces, as a child of *this process's parent*
/// (so that the parent can watch it after this process has ended). Returns the new process's id, or
/// `None` in the new process.
///
/// Fails if this process has several threads: the copy would not have them.
pub fn fork_sibling(namespaces: Namespaces) -> io::Result<Option<i32>> {
    fork(namespaces | Namespaces::CLONE_PARENT)
}

/// Writes the id maps of a process that is in a new user namespace and is this one's child, with one
/// user and one group. Only root may map other ids than its own; for others, `setgroups` is denied
/// there, as the kernel requires.
pub fn write_maps_of(pid: i32, user: IdMap, group: IdMap) -> io::Result<()> {
    if crate::ids::effective_uid() != 0 {
        write(&format!("/proc/{pid}/setgroups"), "deny")?;
    }
    for (map, ids) in [("uid_map", user), ("gid_map", group)] {
        let line = format!("{} {} 1", ids.inside, ids.outside);
        write(&format!("/proc/{pid}/{map}"), &line)?;
    }
    Ok(())
}

/// Forks this process, which has to have a single thread, into new namespaces. Returns the new
/// process's id, or `None` in the new process.
///
/// Fails if this process has several threads: the copy would not have them.
pub fn fork_into(namespaces: Namespaces) -> io::Result<Option<i32>> {
    fork(namespaces)
}

/// Forks this process, which has to have a single thread. Returns the new process's id, or `None` in the
/// new process.
fn fork(flags: Namespaces) -> io::Result<Option<i32>> {
    if !has_one_thread()? {
        return Err(io::Error::other(
            "cannot fork a process with several threads",
        ));
    }
    let flags = flags.bits() as libc::c_ulong | libc::SIGCHLD as libc::c_ulong;
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
