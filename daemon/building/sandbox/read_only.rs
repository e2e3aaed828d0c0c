//! A view of this machine in which a program that fetches finds everything read-only, but for a few
//! directories.

use std::io;
use std::path::Path;

use system::ids;
use system::mount;
use system::namespace::{self, IdMap, Namespaces};

/// The devices that the program can use.
pub(super) const DEVICES: [&str; 6] = [
    "/dev/full",
    "/dev/null",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
];

/// Moves this process, which has one thread, to namespaces of its own, of users and mounts.
pub(super) fn enter_namespaces() -> io::Result<()> {
    let ids = (ids::effective_uid(), ids::effective_gid());
    namespace::unshare(Namespaces::CLONE_NEWUSER | Namespaces::CLONE_NEWNS)?;
    map_same(ids)
}

/// Makes the ids of this process's new user namespace those outside: `ids`, its user and group.
pub(super) fn map_same((uid, gid): (u32, u32)) -> io::Result<()> {
    namespace::write_own_maps(IdMap::same(uid), IdMap::same(gid))
}

/// Makes everything read-only but `writable`, for this process, which has a mount namespace of its own.
/// It gets to the root directory by that.
pub(super) fn restrict_view(writable: &[&Path]) -> io::Result<()> {
    // The daemon may have been started in a chroot.
    mount::make_chroot_the_root()?;
    mount::make_read_only(writable, &DEVICES.map(Path::new))?;
    std::env::set_current_dir("/")
}
