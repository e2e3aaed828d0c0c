//! Starting this program again as somebody else.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::ids::{self, Account};

/// Starts this program again as this user, with the same arguments, and with HOME, USER and LOGNAME of that user, in the place of this process, which has to
/// be root's. Returns only if that fails, and then the process may have lost its privileges.
pub fn as_user(account: &Account) -> io::Error {
    let started = || -> io::Result<io::Error> {
        let program = std::env::current_exe()?;
        ids::set_groups(&ids::groups_of(&account.name, account.gid)?)?;
        ids::set_gid(account.gid)?;
        ids::set_uid(account.uid)?;
        let mut again = Command::new(program);
        again.args(std::env::args_os().skip(1));
        // What is looked for in the home directory is not root's.
        again.env("HOME", &account.home);
        again.envs([("USER", &account.name), ("LOGNAME", &account.name)]);
        Ok(again.exec())
    };
    started().unwrap_or_else(|error| error)
}
