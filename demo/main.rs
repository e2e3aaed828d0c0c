//! The part of `make demo` that is easier in Rust than in a shell: it finds Lua's source, writes the
//! derivations, and reports at the end which machine built what.
//!
//! `demo/run`, and `demo/inside` and `demo/inside-slurm`, which call it, contain the rest.

mod connection;
mod fresh;
mod picture;
mod plan;
mod publish;
mod report;
mod report_slurm;
mod source;
mod step;
mod writer;

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
            step::save(&steps, Path::new(plan))?;
        }
        ["report", plan, machines, seconds] => {
            report::print(&step::load(Path::new(plan))?, Path::new(machines), seconds)?;
        }
        ["report-slurm", plan, messages, jobs, seconds] => {
            let steps = step::load(Path::new(plan))?;
            report_slurm::print(&steps, Path::new(messages), Path::new(jobs), seconds)?;
        }
        ["publish", directory, list, items @ ..] => {
            let mut store = connection::Connection::open()?;
            let items = items.iter().map(|item| store.directory().parse(item));
            let items = items.collect::<Result<Vec<_>, _>>()?;
            let published = publish::publish(&mut store, items, Path::new(directory))?;
            fresh::save(&published, Path::new(list))?;
        }
        ["derive-fresh", gathered, list, url, source, plan] => {
            let mut store = connection::Connection::open()?;
            let published = fresh::load(&store, Path::new(list))?;
            let gathered = Path::new(gathered);
            let steps = fresh::derive(&mut store, gathered, &published, url, Path::new(source))?;
            step::save(&steps, Path::new(plan))?;
        }
        ["report-fresh", plan, list, machine, seconds] => {
            let mut store = connection::Connection::open()?;
            let published = fresh::load(&store, Path::new(list))?;
            let steps = step::load(Path::new(plan))?;
            fresh::report(&mut store, &steps, &published, Path::new(machine), seconds)?;
        }
        ["picture", output] => print!("{}", picture::draw(&std::fs::read_to_string(output)?)),
        ["in-mount-namespace", program, arguments @ ..] => {
            in_mount_namespace(program, arguments)?;
        }
        _ => bail!(
            "usage: guix-demo system | source-of CRATE | in-mount-namespace COMMAND... | \
             derive GATHERED PLAN | report PLAN MACHINES SECONDS | \
             report-slurm PLAN MESSAGES JOBS SECONDS | publish DIRECTORY LIST ITEM... | \
             derive-fresh GATHERED LIST URL SOURCE PLAN | report-fresh PLAN LIST MACHINE SECONDS | \
             picture OUTPUT"
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
