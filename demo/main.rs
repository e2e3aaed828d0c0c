//! The part of `make demo` that is easier in Rust than in a shell: it finds Lua's source, writes the
//! derivations, and reports at the end which machine built what.
//!
//! `demo/run` and `demo/inside`, which call it, contain the rest.

mod connection;
mod picture;
mod plan;
mod report;
mod source;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use system::mount;
use system::namespace::{self, Namespaces};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["system"] => println!("{}", env!("GUIX_SYSTEM")),
        ["source-of", crate_name] => println!("{}", source::lua_of(crate_name)?.display()),
        ["derive", gathered, plan] => {
            let mut store = connection::Connection::open()?;
            let steps = plan::derive(&mut store, Path::new(gathered))?;
            plan::save(&steps, Path::new(plan))?;
        }
        ["report", plan, machines, seconds] => {
            report::print(&plan::load(Path::new(plan))?, Path::new(machines), seconds)?;
        }
        ["picture", output] => print!("{}", picture::draw(&std::fs::read_to_string(output)?)),
        ["in-mount-namespace", program, arguments @ ..] => {
            in_mount_namespace(program, arguments)?;
        }
        _ => bail!(
            "usage: guix-demo system | source-of CRATE | in-mount-namespace COMMAND... | \
             derive GATHERED PLAN | report PLAN MACHINES SECONDS | picture OUTPUT"
        ),
    }
    Ok(())
}

/// Executes a program in a mount namespace whose root is our root directory, even if that is a plain
/// chroot, where `unshare --mount` fails.
fn in_mount_namespace(program: &str, arguments: &[&str]) -> Result<()> {
    namespace::unshare(Namespaces::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let directory = std::env::current_dir().context("cannot find the working directory")?;
    mount::make_chroot_the_root().context("cannot make the root directory a mount point")?;
    std::env::set_current_dir(directory).context("cannot go back to the working directory")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot execute {program}"))
}
