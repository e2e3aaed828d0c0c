//! `guix-daemon`: a replacement for GNU Guix's build daemon.
//!
//! One run, from start to end: the command line is parsed to [`settings`]; the sockets are opened
//! ([`listen`]); each client gets a thread ([`serve`], [`session`]), which answers queries from the
//! [`store`] and passes builds to the scheduler ([`building`]).

mod activity;
mod building;
mod cancel;
mod change_owner;
mod check_setup;
mod client_limits;
mod connections;
mod daemon;
mod diagnostics;
mod discovery;
mod fetcher;
mod hangup;
mod hook_program;
mod listen;
mod options;
mod output;
mod platform;
mod request_error;
mod serve;
mod session;
mod settings;
mod shared_limit;
mod spawner;
mod stream;
mod substituter;
mod warnings;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::sys::stat::{Mode, umask};
use store::Directories;

use crate::options::Parsed;
use crate::settings::Settings;

fn main() -> ExitCode {
    // The process that forks builders is this same program, started with another name.
    building::sandbox::run_if_fork_server();
    match run() {
        Ok(code) => code,
        Err(error) => {
            output::print_error(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What a command line with options for settings asks for.
enum Action {
    Serve,
    CheckSetup,
    ChangeOwner(OsString),
}

/// Sets up the process before there is a second thread, and serves.
fn run() -> Result<ExitCode> {
    umask(Mode::from_bits_truncate(0o022));
    system::signal::expect_children()?;
    system::open_files::raise_limit().context("cannot raise the limit of open files")?;
    let (action, given) = match options::parse(std::env::args_os()) {
        Parsed::Serve(given) => (Action::Serve, given),
        Parsed::CheckSetup(given) => (Action::CheckSetup, given),
        Parsed::ChangeOwner(user, given) => (Action::ChangeOwner(user), given),
        Parsed::Print(text) => {
            output::print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        Parsed::Refuse(text, code) => {
            output::print_error(text.trim_end());
            return Ok(ExitCode::from(code));
        }
    };
    let directories = Directories::from_environment(&store::compiled_directories!())?;
    let mut settings = Settings::new(directories, given)?;
    diagnostics::start(settings.debug);
    settings.apply_named()?;
    match action {
        Action::Serve => {}
        Action::CheckSetup => return check_setup::run(&settings),
        Action::ChangeOwner(user) => return change_owner::run(&settings, &user),
    }
    client_limits::check_descriptors()?;
    let listeners = listen::open(&settings)?;
    warnings::log(&settings);
    store::writable::make_writable(&settings.directories)?;
    std::env::set_current_dir("/").context("cannot change directory to `/'")?;
    let _discover = discovery::start(&settings);
    listeners.announce();
    serve::run(listeners, settings)?;
    Ok(ExitCode::SUCCESS)
}
