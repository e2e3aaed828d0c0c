//! `guix-client build`: builds derivations, and substitutes other items.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use formats::StorePath;
use protocol::operations::{BuildMode, SetOptions, Target};

use crate::log::{Detail, Log};
use crate::output;
use crate::plan::{Plan, plan, read_derivation};
use crate::roots;
use crate::session::Session;

/// What to build, and how.
#[derive(Args)]
pub struct Arguments {
    /// Derivations to build; other items are substituted
    #[arg(value_name = "FILE.drv")]
    items: Vec<OsString>,
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
    /// Print the build log's file name instead
    #[arg(long)]
    log_file: bool,
    /// Show nothing but results and errors
    #[arg(short, long)]
    quiet: bool,
    /// How much to show: 0 nothing, 1 what begins and ends, 3 all
    #[arg(short, long, value_name = "LEVEL", default_value_t = 3)]
    verbosity: u32,
    #[command(flatten)]
    options: Options,
}

/// How to build: the options that all of Guix's building commands have.
#[derive(Args, Default)]
pub struct Options {
    /// Keep the build tree of failed builds
    #[arg(short = 'K', long)]
    keep_failed: bool,
    /// Keep going when some of the derivations fail
    #[arg(short, long)]
    keep_going: bool,
    /// Say what would be done, and don't do it
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Build when the substituter fails
    #[arg(long)]
    fallback: bool,
    /// Build instead of resorting to pre-built substitutes
    #[arg(long)]
    no_substitutes: bool,
    /// Fetch substitutes from URLS if they are authorized
    #[arg(long, value_name = "URLS")]
    substitute_urls: Option<String>,
    /// Accepted and ignored: there is nothing to graft here
    #[arg(long)]
    no_grafts: bool,
    /// Do not attempt to offload builds
    #[arg(long, alias = "no-build-hook")]
    no_offload: bool,
    /// Mark builds as failed after SECONDS of silence
    #[arg(long, value_name = "SECONDS")]
    max_silent_time: Option<u32>,
    /// Mark builds as failed after SECONDS of activity
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Build N times in a row to detect non-determinism
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Allow the use of up to N CPU cores for each build
    #[arg(short, long, value_name = "N")]
    cores: Option<u32>,
    /// Allow at most N build jobs
    #[arg(short = 'M', long, value_name = "N")]
    max_jobs: Option<u32>,
    /// Show the daemon's debugging output at LEVEL
    #[arg(long, value_name = "LEVEL", default_value_t = 0)]
    debug: u32,
}

impl Options {
    /// The same, for the daemon.
    pub fn to_daemon(&self) -> SetOptions {
        let mut options = SetOptions {
            keep_failed: self.keep_failed,
            keep_going: self.keep_going,
            fallback: self.fallback,
            verbosity: self.debug,
            max_build_jobs: self.max_jobs,
            max_silent_time: self.max_silent_time,
            // What fails elsewhere can't be kept here.
            use_build_hook: Some(!self.no_offload && !self.keep_failed),
            build_cores: self.cores,
            use_substitutes: Some(!self.no_substitutes),
            ..SetOptions::default()
        };
        options.set("print-extended-build-trace", "1");
        options.set("multiplexed-build-output", "true");
        let mut number = |name, value: Option<u32>| {
            if let Some(value) = value {
                options.set(name, value.to_string());
            }
        };
        number("build-timeout", self.timeout);
        number("build-max-silent-time", self.max_silent_time);
        number("build-max-jobs", self.max_jobs);
        number("build-cores", self.cores);
        number(
            "build-repeat",
            self.rounds.map(|rounds| rounds.saturating_sub(1)),
        );
        let mut text = |name, value: Option<String>| {
            if let Some(value) = value {
                options.set(name, value);
            }
        };
        let urls = self.substitute_urls.as_ref();
        text(
            "substitute-urls",
            urls.map(|urls| urls.split_whitespace().collect::<Vec<_>>().join(" ")),
        );
        let user = nix::unistd::User::from_uid(nix::unistd::getuid())
            .ok()
            .flatten();
        text(
            "user-name",
            user.map(|user| user.name)
                .or_else(|| std::env::var("USER").ok()),
        );
        text(
            "terminal-columns",
            std::env::var("COLUMNS").ok().or(Some("80".to_owned())),
        );
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter();
        text(
            "locale",
            locale
                .filter_map(|name| std::env::var(name).ok())
                .find(|s| !s.is_empty()),
        );
        options
    }
}

/// Builds.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let detail = match (arguments.quiet, arguments.verbosity) {
        (true, _) | (_, 0) => Detail::Nothing,
        (_, 1 | 2) => Detail::Events,
        _ => Detail::Everything,
    };
    let mut session = Session::open()?;
    if arguments.options.keep_failed && !session.local {
        let text = "'--keep-failed' ignored since you are talking to a remote daemon";
        output::warning("build", text);
    }
    session.daemon.set_options(&arguments.options.to_daemon())?;

    let mut items: Vec<Target> = Vec::new();
    for argument in &arguments.items {
        items.push(target(&session, argument)?);
    }
    if items.is_empty() {
        output::warning("build", "no arguments specified, nothing to do");
    }
    let derivations: Vec<StorePath> = items
        .iter()
        .map(|item| &item.path)
        .filter(|path| path.is_derivation())
        .cloned()
        .collect();
    if arguments.log_file {
        return log_files(&session, &items);
    }
    if arguments.derivations {
        output::lines(&derivations)?;
        let derivations: Vec<_> = derivations.into_iter().map(|path| vec![path]).collect();
        return register(&mut session, &derivations, &arguments.root);
    }

    let mode = match (arguments.check, arguments.repair) {
        (true, _) => BuildMode::Check,
        (_, true) => BuildMode::Repair,
        _ => BuildMode::Normal,
    };
    let options = &arguments.options;
    if options.dry_run || detail > Detail::Nothing {
        let again = mode != BuildMode::Normal;
        let plan = plan(
            &mut session.daemon,
            &derivations,
            !options.no_substitutes,
            again,
        )?;
        tell(&plan, options.dry_run);
        if options.dry_run && !(plan.build.is_empty() && plan.download.is_empty()) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if !items.is_empty() {
        // `guix-client build … 2>&1 | head` must not build to the end, however silent the builder.
        output::end_with_reader_of_stderr();
        let mut log = Log::new(output::stderr(), detail, output::is_watched());
        let built = session
            .daemon
            .build_paths(items, mode, &mut |text| log.write(text));
        log.finish()?;
        built?;
    }
    let outputs = derivations
        .iter()
        .map(|path| outputs(&mut session, path))
        .collect::<Result<Vec<_>>>()?;
    output::lines(outputs.iter().flatten())?;
    register(&mut session, &outputs, &arguments.root)
}

/// `ITEM`, or `ITEM!OUTPUT,…`.
fn target(session: &Session, argument: &OsString) -> Result<Target> {
    let text = argument.to_string_lossy();
    let (path, outputs) = text.split_once('!').unwrap_or((&text, ""));
    match session.directories.store.parse(path) {
        Ok(path) => {
            let outputs = outputs
                .split(',')
                .filter(|id| !id.is_empty())
                .map(str::to_owned);
            Ok(Target {
                path,
                outputs: outputs.collect::<BTreeSet<_>>(),
            })
        }
        Err(_) => bail!("{text}: no item of {}", session.directories.store),
    }
}

/// Says what will, or would, be done, in the words of Guix.
fn tell(plan: &Plan, dry_run: bool) {
    let mut err = output::stderr();
    let will = if dry_run { "would" } else { "will" };
    let mut list = |one: &str,
                    many: &str,
                    verb: &str,
                    paths: &mut dyn ExactSizeIterator<Item = &StorePath>| {
        let what = match paths.len() {
            0 => return,
            1 => one,
            _ => many,
        };
        let _ = writeln!(err, "The following {what} {will} be {verb}:");
        paths.for_each(|path| _ = writeln!(err, "  {path}"));
    };
    list("derivation", "derivations", "built", &mut plan.build.iter());
    list("file", "files", "downloaded", &mut plan.download.iter());
}

/// Where the outputs of a derivation are, in the order of their names.
fn outputs(session: &mut Session, path: &StorePath) -> Result<Vec<StorePath>> {
    match read_derivation(path, &session.directories.store) {
        Ok(derivation) => Ok(derivation.output_paths().cloned().collect()),
        // The store is elsewhere: its daemon knows.
        Err(_) => Ok(session
            .daemon
            .query_derivation_outputs(path)?
            .into_iter()
            .collect()),
    }
}

fn register(
    session: &mut Session,
    results: &[Vec<StorePath>],
    links: &[PathBuf],
) -> Result<ExitCode> {
    // Guix pairs the first result with the last root given.
    for (paths, link) in results.iter().zip(links.iter().rev()) {
        roots::register(&mut session.daemon, paths, link)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the names of the items' build logs.
fn log_files(session: &Session, items: &[Target]) -> Result<ExitCode> {
    for item in items {
        let base = item.path.base_name();
        let (start, rest) = base.split_at_checked(2).unwrap_or((base, ""));
        let directory = session.directories.log.join("drvs").join(start);
        let names = [".gz", ".bz2", ""].map(|suffix| directory.join(format!("{rest}{suffix}")));
        match names.iter().find(|name| name.exists()) {
            Some(name) => output::lines([name.display()])?,
            None => bail!("no build log for '{}'", item.path),
        }
    }
    Ok(ExitCode::SUCCESS)
}
