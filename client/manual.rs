//! `guix-client manual`: its own man page and shell completions, for `make doc`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

#[path = "../doc/pages.rs"]
mod pages;

/// The names of [`formats::Algorithm`].
const ALGORITHMS: &[&str] = &{
    let mut names = [""; formats::Algorithm::ALL.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = formats::Algorithm::ALL[index].name();
        index += 1;
    }
    names
};

/// Options of `guix-client manual`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where to leave `man/` and `completions/`
    directory: PathBuf,
}

/// Writes the documentation of `command`.
pub fn run(arguments: Arguments, command: clap::Command) -> Result<ExitCode> {
    pages::Page {
        command,
        environment: &[
            ("GUIX_DAEMON_SOCKET", "the daemon to talk to"),
            (
                "GUIX_STATE_DIRECTORY",
                "the state directory, where its socket is by default",
            ),
            (
                "GUIX_CONFIGURATION_DIRECTORY",
                "the directory of keys, ACL and machine file",
            ),
            ("NIX_STORE_DIR", "the store"),
            (
                "GUIX_OFFLOAD_MACHINES",
                "the machine file that `offload' reads instead of the usual ones",
            ),
            (
                "PAGER",
                "the pager of `log' on a terminal; `less' by default, and none if it is empty",
            ),
            (
                "http_proxy, https_proxy, ftp_proxy, all_proxy, no_proxy",
                "proxies for `weather' and `download'",
            ),
            (
                "GUIX_FETCH",
                "the program that touches the network for `weather' and `download'",
            ),
            ("NO_COLOR", "if set, nothing is printed in colors"),
        ],
        files: &[
            (
                concat!(env!("GUIX_CONFIGURATION_DIR"), "/signing-key.pub"),
                "this machine's key",
            ),
            (
                concat!(env!("GUIX_CONFIGURATION_DIR"), "/acl"),
                "whose signatures are accepted",
            ),
            (
                concat!(env!("GUIX_CONFIGURATION_DIR"), "/machines.scm"),
                "the build machines",
            ),
        ],
        exit: "0 on success; 1 if something failed, arguments are wrong, `gc --verify' leaves errors, \
               `weather' finds an item that cannot be substituted, or `offload test' finds something \
               wrong.",
        see_also: "guix-daemon(1), guix-offload(1)",
        values: &[
            ("verbosity", &["0", "1", "2", "3"]),
            ("hash", ALGORITHMS),
            ("verify", &["contents", "repair", "contents,repair"]),
        ],
    }
    .write(&arguments.directory)?;
    Ok(ExitCode::SUCCESS)
}
