//! Makes the man pages and the shell completions of the daemon and of its hook from their tables
//! of options, and the manual as HTML and Texinfo; `guix-client manual` makes its own pages.
//!
//! `make` runs both with a directory, where they leave `man/`, `completions/`, `html/` and
//! `guix-daemon.texi`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Arg, Command};

mod book;
#[allow(dead_code, unused_imports)]
#[path = "../daemon/options.rs"]
mod daemon_options;
mod html;
mod man;
mod pages;
mod texinfo;

use book::Book;
use pages::Page;

/// The chapter that is a man page, too.
const MACHINE_FILES: man::Title = man::Title {
    name: "guix-offload-machines",
    section: "5",
    about: "the files that describe build machines",
    see_also: "guix-offload(1), guix-client-offload(1), ssh_config(5)",
};

fn pages() -> Vec<Page> {
    vec![
        Page {
            command: daemon_options::command(),
            environment: &[
                ("NIX_BUILD_HOOK", "the build hook; empty: none"),
                (
                    "GUIX_BUILD_HOOK_TIMEOUT",
                    "seconds to wait for a hook's answer; 300 by default",
                ),
                (
                    "GUIX_OFFLOAD_MACHINES, GUIX_OFFLOAD_VERBOSE",
                    "for the hook: see guix-offload(1)",
                ),
                (
                    "GUIX_OFFLOAD_HISTORY",
                    "what --history says, which takes precedence",
                ),
                (
                    "LISTEN_PID, LISTEN_FDS",
                    "the sockets that a service manager passes on; --listen is ignored then",
                ),
                (
                    "NIX_IGNORE_SYMLINK_STORE",
                    "accept a store below a symbolic link",
                ),
                (
                    "GUIX_DAEMON_LOG",
                    "what is printed, by target and level: debug, or warn,guix_daemon::build=trace",
                ),
                ("NIX_STORE_DIR, NIX_STORE", "the store"),
                ("GUIX_STATE_DIRECTORY", "the state directory"),
                ("GUIX_DATABASE_DIRECTORY", "the directory of the database"),
                ("GUIX_LOG_DIRECTORY", "the directory of build logs"),
                (
                    "GUIX_CONFIGURATION_DIRECTORY",
                    "the directory of keys and of the machine file",
                ),
                (
                    "GUIX_FETCH",
                    "the program that touches the network; empty: none, and Guix's instead",
                ),
                (
                    "GUIX, NIX_BIN_DIR",
                    "Guix's own program, for substitutes and downloads with --fetcher=guix; the directory \
                     where it is looked for",
                ),
                (
                    "GUIX_ALLOW_UNAUTHENTICATED_SUBSTITUTES",
                    "yes: every substitute server is believed, which makes whoever is on the way to it \
                     decide what is in the store",
                ),
                (
                    "http_proxy, https_proxy, ftp_proxy, all_proxy, no_proxy",
                    "proxies for substitutes and downloads",
                ),
                (
                    "GUIX_FETCH_NAR_SERVERS, GUIX_FETCH_SWH_URL, GUIX_SWH_TOKEN",
                    "where lost Git repositories are looked for",
                ),
                (
                    "XDG_CACHE_HOME",
                    "where what substitute servers said is kept, in guix/substitute, instead of the state \
                     directory",
                ),
                (
                    "TMPDIR",
                    "where build directories are made; /tmp by default",
                ),
            ],
            files: &[
                (
                    concat!(env!("GUIX_STATE_DIR"), "/daemon-socket/socket"),
                    "where clients connect",
                ),
                (
                    concat!(env!("GUIX_STATE_DIR"), "/db/db.sqlite"),
                    "what the store holds",
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
            exit: "64 for a command line that cannot be understood, 1 for anything else that keeps \
               the daemon from running.",
            see_also: "guix-client(1), guix-offload(1)",
            values: &[("log-compression", &["none", "gzip", "bzip2"])],
        },
        Page {
            command: hook(),
            environment: &[
                (
                    "GUIX_OFFLOAD_MACHINES",
                    "the machine file to read instead of the usual ones",
                ),
                (
                    "GUIX_OFFLOAD_VERBOSE",
                    "if set, say why machines are chosen or not",
                ),
                (
                    "GUIX_CONFIGURATION_DIRECTORY",
                    "the directory of the machine file and of the keys",
                ),
                (
                    "GUIX_STATE_DIRECTORY",
                    "the state directory, with slots and locks in offload/",
                ),
            ],
            files: &[
                (
                    concat!(env!("GUIX_CONFIGURATION_DIR"), "/machines.scm"),
                    "the build machines",
                ),
                (
                    concat!(env!("GUIX_CONFIGURATION_DIR"), "/machines.toml"),
                    "the same, in TOML",
                ),
                (
                    concat!(env!("GUIX_CONFIGURATION_DIR"), "/machines"),
                    "the same, in the form of Nix",
                ),
            ],
            exit: "0 when the derivation was built, or nothing was accepted; 100 when its build failed; \
               101 when it ran into a time limit; 1 for trouble that may pass.",
            see_also: "guix-daemon(1), guix-client(1), guix-offload-machines(5), ssh(1)",
            values: &[],
        },
    ]
}

/// The hook is run by daemons and has no options to speak of.
fn hook() -> Command {
    let argument =
        |name: &'static str, help: &'static str| Arg::new(name).required(true).help(help);
    Command::new("guix-offload")
        .about("build derivations on other machines, for a build daemon")
        .long_about(
            "Started by guix-daemon, which writes one line for each derivation to its standard \
             input; answers on standard output, and copies the log of the build to descriptor 4. \
             People use `guix-client offload'.\n\n\
             `guix-offload worker' is what a scheduler or a container engine runs on a node: a build \
             machine for as long as its standard input stays open, with a store of its own, which it \
             removes at its end. It needs no privilege where user namespaces are allowed, and starts \
             the `guix-daemon' that lies beside it, or in ../../bin. Options of a worker: \
             --daemon=FILE, the daemon's program; --key=PREFIX, sign by the keys in PREFIX.sec and \
             PREFIX.pub instead of new ones; --directory=DIR, make the worker's directory in DIR \
             instead of $TMPDIR or /tmp; --socket=FILE, pass connections on to the daemon that \
             serves on this socket, with its store and its keys; --patience=N, wait for the head's \
             first words for N seconds instead of 60. Its exit status is 0 when the head wanted no \
             more.",
        )
        .disable_help_flag(true)
        .arg(argument("SYSTEM", "the daemon's system type"))
        .arg(argument(
            "MAX-SILENT-TIME",
            "seconds without output after which builds end; 0: none",
        ))
        .arg(argument(
            "PRINT-BUILD-TRACE",
            "1 to tell of builds in lines that begin with @",
        ))
        .arg(argument(
            "BUILD-TIMEOUT",
            "seconds after which builds end; 0: none",
        ))
}

fn main() -> ExitCode {
    let Some(out) = std::env::args_os().nth(1) else {
        eprintln!("usage: guix-manual DIRECTORY");
        return ExitCode::FAILURE;
    };
    match run(Path::new(&out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guix-manual: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(out: &Path) -> Result<()> {
    for page in pages() {
        page.write(out)?;
    }
    let book = Book::read(Path::new("doc/src"))?;
    let man = out.join("man");
    man::write(&book, "machine-files", &MACHINE_FILES, &man)?;
    for name in ["machines.scm", "machines.toml"] {
        man::write_alias(name, &MACHINE_FILES, &man)?;
    }
    html::write(&book, &out.join("html"))?;
    texinfo::write(&book, &out.join("guix-daemon.texi"), "guix-daemon.info")
}
