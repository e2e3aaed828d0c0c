//! Words of findings: commands that correct something, as far as this machine has the programs for
//! them, and numbers of things.

use bstr::{BStr, ByteSlice};
use system::ids;
use system::process::find_program;

/// How to install a package.
pub fn install(package: &str) -> String {
    if find_program("apt-get").is_some() {
        format!("apt-get install {package}")
    } else {
        format!("install the package {package}")
    }
}

/// How an ordinary user runs a command as root.
pub fn as_root(command: &str) -> String {
    if find_program("sudo").is_some() {
        format!("sudo {command}")
    } else {
        format!("as root: {command}")
    }
}

/// A number of things: `1 key`, `2 keys`.
pub fn number(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// How the store and everything that belongs to it is given to this user, whose daemon has these build
/// users.
pub fn change_owner(uid: u32, group: &BStr) -> String {
    let user = ids::user_name(uid);
    if uid != 0 {
        as_root(&format!("guix-daemon --change-owner={user}"))
    } else if group.is_empty() {
        format!("guix-daemon --change-owner={user}")
    } else {
        format!(
            "guix-daemon --build-users-group={} --change-owner={user}",
            group.to_str_lossy()
        )
    }
}
