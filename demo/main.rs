//! The part of `make demo` that is easier in Rust than in a shell: it finds Lua's source, writes the
//! derivations, and reports at the end which machine built what.
//!
//! `demo/run` and `demo/inside`, which call it, contain the rest.

mod connection;
mod picture;
mod plan;
mod report;
mod source;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

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
        _ => bail!(
            "usage: demo system | source-of CRATE | derive GATHERED PLAN | \
             report PLAN MACHINES SECONDS | picture OUTPUT"
        ),
    }
    Ok(())
}
