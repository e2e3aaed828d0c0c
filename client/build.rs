//! `guix-client build`: builds derivations, and substitutes other items.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use formats::StorePath;
use protocol::operations::{BuildMode, Target};

use crate::builds::{Builds, Place};
use crate::daemon::Daemon;
use crate::hello::Hello;
use crate::log::Log;
use crate::log_printer::{Detail, LogPrinter};
use crate::options::{BuildOptions, number};
use crate::output::{self, Surface};
use crate::plan::{self, BuildPlan, read_derivation};
use crate::roots;
use crate::view::{Expected, View};

/// Set by offload hooks that run this program on a build machine, to a word that no builder knows:
/// then the daemon's log is printed as it is received, with builder output marked.
const FRAMES_VARIABLE: &str = "GUIX_OFFLOAD_FRAMES";
/// The beginning of the line that is printed before such a log; the word follows.
const FRAMES: &str = "guix-offload-frames";
/// The first minor version of the protocol in which daemons mark builder output.
const MARKS_BUILDER_OUTPUT: u32 = 0x63;

/// What to build, and how.
#[derive(Args)]
pub struct Arguments {
    /// Derivations to build; other items are substituted
    #[arg(value_name = "FILE.drv")]
    items: Vec<OsString>,
    /// Build a new derivation that needs nothing, and say where it was built
    #[arg(long, conflicts_with_all = ["items", "check", "repair", "log_file"])]
    hello: bool,
    /// Make ROOT a symbolic link to the result, and keep that from being collected
    #[arg(short, long = "root", value_name = "ROOT")]
    root: Vec<PathBuf>,
    /// Print the names of derivations, and don't build
    #[arg(short, long)]
    derivations: bool,
    /// Build again what is there, and compare
    #[arg(long, conflicts_with = "repair")]
    check: bool,
    /// Build again what is damaged
    #[arg(long)]
    repair: bool,
    /// Print the names of the build logs, and don't build
    #[arg(long)]
    log_file: bool,
    /// Show nothing but results and errors
    #[arg(short, long)]
    quiet: bool,
    /// How much to show: 0 nothing, 1 what begins and ends, 3 all
    #[arg(short, long, value_name = "LEVEL", default_value_t = 3, value_parser = number)]
    verbosity: u32,
    /// What to show below the log: `auto', on a terminal, what runs and how much is done; `plain', nothing
    #[arg(long, value_name = "FORM", default_value = "auto", value_parser = ["auto", "plain"])]
    progress: String,
    #[command(flatten)]
    options: BuildOptions,
}

impl Arguments {
    /// Whether nothing is to be shown but lines.
    fn is_plain(&self) -> bool {
        self.progress == "plain"
    }
}

/// Builds.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut daemon = Daemon::connect()?;
    if arguments.options.keep_failed && !daemon.is_local {
        let text = "'--keep-failed' ignored since you are talking to a remote daemon";
        output::warning("build", text);
    }
    let options = arguments.options.to_daemon();
    daemon.connection.set_options(&options)?;

    let mut targets = arguments
        .items
        .iter()
        .map(|argument| target(&daemon, argument))
        .collect::<Result<Vec<_>>>()?;
    let hello = match arguments.hello {
        true => Some(Hello::add(&mut daemon)?),
        false => None,
    };
    targets.extend(hello.iter().map(|hello| Target {
        path: hello.path.clone(),
        outputs: BTreeSet::new(),
    }));
    if targets.is_empty() {
        output::warning("build", "no arguments specified, nothing to do");
    }
    let paths: Vec<StorePath> = targets.iter().map(|target| target.path.clone()).collect();
    if arguments.log_file {
        for path in &paths {
            let log = Log::find(&mut daemon, path)?;
            output::lines([log.file.display()])?;
        }
    } else if arguments.derivations {
        let derivations = paths.iter().filter(|path| path.is_derivation());
        output::lines(derivations.clone())?;
        let results: Vec<_> = derivations.map(|path| vec![path.clone()]).collect();
        make_roots(&mut daemon, &results, &arguments.root)?;
    } else {
        if !arguments.options.dry_run {
            check_roots(&daemon, &paths, &arguments.root)?;
        }
        let begin = Instant::now();
        let built = build(&mut daemon, &arguments, targets);
        let time = begin.elapsed();
        if let Err(error) = &built {
            if frames_secret(&daemon).is_some() {
                if let Some(protocol::client::Error::Daemon { status, .. }) = error.downcast_ref() {
                    // A hook needs more information than Guix's exit code.
                    output::error("build", error);
                    return Ok(ExitCode::from(u8::try_from(*status).unwrap_or(1)));
                }
            }
        }
        let builds = match built? {
            Validity::AllValid(builds) => builds,
            Validity::Planned => return Ok(ExitCode::SUCCESS),
        };
        // As in Guix, items other than derivations are their own results, and are not printed.
        let mut results = Vec::new();
        for path in paths {
            if path.is_derivation() {
                let outputs = outputs(&mut daemon, &path)?;
                output::lines(&outputs)?;
                results.push(outputs);
            } else {
                results.push(vec![path]);
            }
        }
        make_roots(&mut daemon, &results, &arguments.root)?;
        if let Some(hello) = &hello {
            report(&daemon, hello, &builds, time)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what `--hello` has shown.
fn report(daemon: &Daemon, hello: &Hello, builds: &Builds, time: Duration) -> Result<()> {
    let contents = hello.contents(daemon)?;
    let seconds = time.as_secs_f64();
    let by = match builds.place_of(hello.path.as_str()) {
        Place::Machine(machine) => format!("the build machine '{machine}'"),
        Place::Daemon => "the daemon itself, not offloaded".to_owned(),
        Place::Unknown => "the daemon".to_owned(),
    };
    let text = format!("built in {seconds:.2} s by {by}. {contents}");
    output::info("build", &text);
    Ok(())
}

/// Whether the targets are valid after [`build`].
enum Validity {
    /// They are, and these builds were done.
    AllValid(Builds),
    /// They need not be: nothing was built.
    Planned,
}

/// Builds the targets and prints a message.
fn build(daemon: &mut Daemon, arguments: &Arguments, targets: Vec<Target>) -> Result<Validity> {
    let detail = match (arguments.quiet, arguments.verbosity) {
        (true, _) | (_, 0) => Detail::Nothing,
        (_, 1 | 2) => Detail::Events,
        _ => Detail::Everything,
    };
    let mode = match (arguments.check, arguments.repair) {
        (true, _) => BuildMode::Check,
        (_, true) => BuildMode::Repair,
        _ => BuildMode::Normal,
    };
    let paths: Vec<StorePath> = targets.iter().map(|target| target.path.clone()).collect();
    let dry_run = arguments.options.dry_run;
    let secret = frames_secret(daemon).filter(|_| !dry_run);
    let mut expected = Expected::default();
    if dry_run || detail > Detail::Nothing && secret.is_none() {
        let connection = &mut daemon.connection;
        let substitutes = !arguments.options.no_substitutes;
        let plan = plan::of_build(connection, &paths, substitutes, mode != BuildMode::Normal)?;
        print_plan(&plan, dry_run);
        if dry_run {
            assert_obtainable(plan.unobtainable.first())?;
            return Ok(match plan.is_empty() {
                true => Validity::AllValid(Builds::default()),
                false => Validity::Planned,
            });
        }
        expected = Expected {
            builds: plan.build.len(),
            fetches: plan.download.len(),
            bytes: plan.download_size,
        };
    }
    if targets.is_empty() {
        return Ok(Validity::AllValid(Builds::default()));
    }
    if let Some(secret) = secret {
        return build_in_frames(daemon, targets, mode, &secret);
    }
    // `guix-client build … 2>&1 | head` must not continue to the end while the builder prints
    // nothing.
    output::end_with_reader_of(io::stderr());
    let surface = Surface::of_stderr();
    let has_view = detail > Detail::Nothing && surface != Surface::Lines && !arguments.is_plain();
    // Without one, there are lines.
    let view = has_view.then(|| View::start(expected, &paths, surface == Surface::Colors).ok());
    let mut log = LogPrinter::new(output::stderr(), detail, surface, expected, view.flatten());
    let built = daemon
        .connection
        .build_paths(targets, mode, &mut |text| log.write(text));
    let builds = log.finish()?;
    built?;
    // Daemons don't report items without a substitute.
    for path in paths.iter().filter(|path| !path.is_derivation()) {
        let valid = daemon.connection.is_valid_path(path)?;
        assert_obtainable((!valid).then_some(path))?;
    }
    Ok(Validity::AllValid(builds))
}

/// The value of [`FRAMES_VARIABLE`], if the daemon marks builder output.
fn frames_secret(daemon: &Daemon) -> Option<String> {
    let secret = std::env::var(FRAMES_VARIABLE).ok()?;
    let is_word = !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_word && daemon.connection.version().minor() >= MARKS_BUILDER_OUTPUT).then_some(secret)
}

/// Builds for an offload hook, which itself separates builder output from the daemon's messages:
/// prints what the daemon sends, after a line that no builder can print.
fn build_in_frames(
    daemon: &mut Daemon,
    targets: Vec<Target>,
    mode: BuildMode,
    secret: &str,
) -> Result<Validity> {
    output::end_with_reader_of(io::stderr());
    let mut err = output::stderr();
    writeln!(err, "{FRAMES} {secret}")?;
    let built = daemon
        .connection
        .build_paths(targets, mode, &mut |text| _ = err.write_all(text));
    built?;
    Ok(Validity::AllValid(Builds::default()))
}

fn assert_obtainable(missing: Option<&StorePath>) -> Result<()> {
    match missing {
        None => Ok(()),
        Some(path) => bail!(
            "`{path}' is not in the store, and there is no substitute for it; `guix-client weather \
             {path}' says what the servers have"
        ),
    }
}

/// `ITEM`, or `ITEM!OUTPUT,…`.
fn target(daemon: &Daemon, argument: &OsString) -> Result<Target> {
    let text = argument.to_string_lossy();
    let (path, outputs) = text.split_once('!').unwrap_or((&text, ""));
    let Ok(path) = daemon.directories.store.parse(path) else {
        bail!("{text}: not an item of {}", daemon.directories.store);
    };
    let outputs = outputs.split(',').filter(|id| !id.is_empty());
    Ok(Target {
        path,
        outputs: outputs.map(str::to_owned).collect::<BTreeSet<_>>(),
    })
}

/// Prints what will, or would, be done, with Guix's messages.
fn print_plan(plan: &BuildPlan, dry_run: bool) {
    let mut err = output::stderr();
    let will = if dry_run { "would" } else { "will" };
    let mut list = |one: &str, many: &str, verb: &str, paths: &[&StorePath]| {
        let what = match paths.len() {
            0 => return,
            1 => one,
            _ => many,
        };
        let mut text = format!("The following {what} {will} be {verb}:\n");
        for path in paths {
            text += &format!("  {path}\n");
        }
        let _ = err.write_all(text.as_bytes());
    };
    let build: Vec<_> = plan.build.iter().collect();
    list("derivation", "derivations", "built", &build);
    let download: Vec<_> = plan.download.iter().collect();
    list("file", "files", "downloaded", &download);
}

/// The outputs of a derivation, in the order of their names.
fn outputs(daemon: &mut Daemon, path: &StorePath) -> Result<Vec<StorePath>> {
    match read_derivation(path, &daemon.directories.store) {
        Ok(derivation) => Ok(derivation.output_paths().cloned().collect()),
        // The store is on another host, where the daemon can read it.
        Err(_) => {
            let outputs = daemon.connection.query_derivation_outputs(path)?;
            Ok(outputs.into_iter().collect())
        }
    }
}

/// Whether [`make_roots`] can do its work, as far as that is known before the build: of derivations
/// that cannot be read here the number of outputs is not.
fn check_roots(daemon: &Daemon, paths: &[StorePath], links: &[PathBuf]) -> Result<()> {
    for (path, link) in paths.iter().zip(links.iter().rev()) {
        if !path.is_derivation() {
            roots::check(1, link)?;
        } else if let Ok(derivation) = read_derivation(path, &daemon.directories.store) {
            roots::check(derivation.output_paths().count(), link)?;
        }
    }
    Ok(())
}

/// Creates links to results: like Guix, pairs the first result with the last `--root`.
fn make_roots(daemon: &mut Daemon, results: &[Vec<StorePath>], links: &[PathBuf]) -> Result<()> {
    for (paths, link) in results.iter().zip(links.iter().rev()) {
        roots::register(&mut daemon.connection, paths, link)?;
    }
    Ok(())
}
