//! The options common to all commands that build, as in Guix.

use clap::Args;
use protocol::operations::SetOptions;
use substitutes::servers::{ListedBy, parse_list};

/// Parses a number of an option.
pub fn number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number from 0 to {}", u32::MAX))
}

/// Parses a number of an option that has to be 1 at least.
pub fn positive(text: &str) -> Result<u32, String> {
    match number(text) {
        Ok(0) | Err(_) => Err(format!("expected a whole number from 1 to {}", u32::MAX)),
        number => number,
    }
}

/// Checks a list of substitute servers.
pub fn servers(text: &str) -> Result<String, String> {
    match parse_list(text, ListedBy::Administrator) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// How to build.
#[derive(Args, Default)]
pub struct BuildOptions {
    /// Keep the build tree of failed builds
    #[arg(short = 'K', long)]
    pub keep_failed: bool,
    /// Keep going when some of the derivations fail
    #[arg(short, long)]
    keep_going: bool,
    /// Say what would be done, and don't do it
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Build when the substituter fails
    #[arg(long)]
    fallback: bool,
    /// Build instead of resorting to pre-built substitutes
    #[arg(long)]
    pub no_substitutes: bool,
    /// Fetch substitutes from URLS if they are authorized
    #[arg(long, value_name = "URLS", value_parser = servers)]
    substitute_urls: Option<String>,
    /// Accepted for compatibility; derivations are never grafted here
    #[arg(long)]
    no_grafts: bool,
    /// Do not attempt to offload builds
    #[arg(long, alias = "no-build-hook")]
    no_offload: bool,
    /// Mark builds as failed after SECONDS of silence
    #[arg(long, value_name = "SECONDS", value_parser = number)]
    max_silent_time: Option<u32>,
    /// Mark builds as failed after SECONDS of activity
    #[arg(long, value_name = "SECONDS", value_parser = number)]
    timeout: Option<u32>,
    /// Build N times in a row to detect non-determinism
    #[arg(long, value_name = "N", value_parser = positive)]
    rounds: Option<u32>,
    /// Allow the use of up to N CPU cores for each build
    #[arg(short, long, value_name = "N", value_parser = number)]
    cores: Option<u32>,
    /// Allow at most N build jobs
    #[arg(short = 'M', long, value_name = "N", value_parser = number)]
    max_jobs: Option<u32>,
    /// Show the daemon's debugging output at LEVEL
    #[arg(long, value_name = "LEVEL", default_value_t = 0, value_parser = number)]
    debug: u32,
}

impl BuildOptions {
    /// The options in the daemon's form.
    pub fn to_daemon(&self) -> SetOptions {
        let mut options = SetOptions {
            keep_failed: self.keep_failed,
            keep_going: self.keep_going,
            fallback: self.fallback,
            verbosity: self.debug,
            max_build_jobs: self.max_jobs,
            max_silent_time: self.max_silent_time,
            // The build tree of a build that fails on another machine could not be kept here.
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
        number("build-repeat", self.rounds.map(|rounds| rounds - 1));
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
        let user = system::ids::user_by_id(nix::unistd::getuid().as_raw())
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
