//! The command line of `guix-daemon`: every option that Guix's daemon has or had, as data.
//!
//! Parsed by clap; the spellings, the abbreviations, the order in which options take effect, the
//! messages and the exit codes are those of GNU argp in Guix's `guix-daemon.cc`. Documented in the
//! manual, section "Invoking guix-daemon". What the options do is in `settings`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::builder::{StyledStr, ValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

/// The exit code for an invalid command line: `EX_USAGE`.
const USAGE_EXIT_CODE: u8 = 64;
/// The most columns that the help takes, as argp's.
const HELP_WIDTH: usize = 79;
/// The program's name in argp's messages.
pub const PROGRAM: &str = "guix-daemon";

/// Whether an option has an argument, and its name in the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    One(&'static str),
    /// Only in the form `--option=VALUE`.
    MaybeOne(&'static str),
}

use Takes::{MaybeOne, Nothing, One};

/// One option of the table.
struct Row {
    option: Name,
    long: &'static str,
    short: Option<char>,
    takes: Takes,
    /// For former names, which are accepted but not shown.
    hidden: bool,
    help: &'static str,
}

/// The meaning of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is named after its option.
pub enum Name {
    System,
    Cores,
    MaxJobs,
    Timeout,
    MaxSilentTime,
    DisableChroot,
    ChrootDirectory,
    BuildUsersGroup,
    NoSubstitutes,
    SubstituteUrls,
    Fetcher,
    MaxSubstitutions,
    NoOffload,
    CacheFailures,
    Rounds,
    LoseLogs,
    DisableLogCompression,
    LogCompression,
    History,
    Discover,
    DisableDeduplication,
    ImpersonateLinux26,
    GcKeepOutputs,
    GcKeepDerivations,
    Listen,
    Debug,
    IsolateHostLoopback,
}

const fn row(option: Name, long: &'static str, takes: Takes, help: &'static str) -> Row {
    Row {
        option,
        long,
        short: None,
        takes,
        hidden: false,
        help,
    }
}

impl Row {
    const fn short(self, short: char) -> Row {
        Row {
            short: Some(short),
            ..self
        }
    }

    const fn hidden(self) -> Row {
        Row {
            hidden: true,
            ..self
        }
    }
}

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row(Name::System, "system", One("SYSTEM"),
        "assume SYSTEM as the current system type"),
    row(Name::Cores, "cores", One("N"),
        "use N CPU cores to build each derivation; 0 means as many as available").short('c'),
    row(Name::MaxJobs, "max-jobs", One("N"),
        "allow at most N build jobs").short('M'),
    row(Name::Timeout, "timeout", One("SECONDS"),
        "mark builds as failed after SECONDS of activity"),
    row(Name::MaxSilentTime, "max-silent-time", One("SECONDS"),
        "mark builds as failed after SECONDS of silence"),
    row(Name::DisableChroot, "disable-chroot", Nothing,
        "disable chroot builds"),
    row(Name::ChrootDirectory, "chroot-directory", One("DIR"),
        "add DIR to the build chroot"),
    row(Name::BuildUsersGroup, "build-users-group", One("GROUP"),
        "perform builds as a user of GROUP"),
    row(Name::NoSubstitutes, "no-substitutes", Nothing,
        "do not use substitutes"),
    row(Name::SubstituteUrls, "substitute-urls", One("URLS"),
        "use URLS as the default list of substitute providers"),
    row(Name::Fetcher, "fetcher", One("PROGRAM"),
        "fetch substitutes and downloads with PROGRAM: guix-fetch or guix"),
    row(Name::MaxSubstitutions, "max-substitutions", One("N"),
        "fetch at most N substitutes at once for each request"),
    row(Name::NoOffload, "no-offload", Nothing,
        "do not attempt to offload builds"),
    row(Name::NoOffload, "no-build-hook", Nothing,
        "do not attempt to offload builds").hidden(),
    row(Name::CacheFailures, "cache-failures", Nothing,
        "cache build failures"),
    row(Name::Rounds, "rounds", One("N"),
        "build each derivation N times in a row"),
    row(Name::LoseLogs, "lose-logs", Nothing,
        "do not keep build logs"),
    row(Name::DisableLogCompression, "disable-log-compression", Nothing,
        "disable compression of the build logs").hidden(),
    row(Name::LogCompression, "log-compression", One("TYPE"),
        "use the specified compression type for build logs: none, gzip or bzip2"),
    row(Name::History, "history", One("DAYS"),
        "remember builds for DAYS, or `DAYS,ROWS'; `no' remembers none"),
    row(Name::Discover, "discover", MaybeOne("yes/no"),
        "use substitute servers discovered on the local network"),
    row(Name::DisableDeduplication, "disable-deduplication", Nothing,
        "disable automatic file \"deduplication\" in the store"),
    row(Name::DisableDeduplication, "disable-store-optimization", Nothing,
        "disable automatic file \"deduplication\" in the store").hidden(),
    row(Name::ImpersonateLinux26, "impersonate-linux-2.6", Nothing,
        "impersonate Linux 2.6"),
    row(Name::GcKeepOutputs, "gc-keep-outputs", MaybeOne("yes/no"),
        "tell whether the GC must keep outputs of live derivations"),
    row(Name::GcKeepDerivations, "gc-keep-derivations", MaybeOne("yes/no"),
        "tell whether the GC must keep derivations corresponding to live outputs"),
    row(Name::Listen, "listen", One("SOCKET"),
        "listen for connections on SOCKET"),
    row(Name::Debug, "debug", Nothing,
        "produce debugging output"),
    row(Name::IsolateHostLoopback, "isolate-host-loopback", Nothing,
        "do not allow fixed-output chroot builds to access the host loopback"),
];

const HELP: &str = "help";
const HELP_SHORT: &str = "help-short";
const USAGE: &str = "usage";
const VERSION: &str = "version";
const CHECK_SETUP: &str = "check-setup";
const CHANGE_OWNER: &str = "change-owner";

/// An option as given, with its argument if there is one.
pub type Given = (Name, Option<OsString>);

/// What to do according to the command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Serve, with these options, which take effect in this order.
    Serve(Vec<Given>),
    /// Check the installation of a daemon with these options.
    CheckSetup(Vec<Given>),
    /// Give the store of a daemon with these options to this user.
    ChangeOwner(OsString, Vec<Given>),
    /// Print this and exit successfully.
    Print(String),
    /// Print this to standard error and exit with this code.
    Refuse(String, u8),
}

/// The command line for clap, from which completions and the manual page are also generated.
pub fn command() -> Command {
    let mut command = Command::new(PROGRAM)
        .about("perform derivation builds and store accesses")
        .after_help(
            "This program is a daemon meant to run in the background.  It serves requests sent \
             over a Unix-domain socket.  It accesses the store, and builds derivations on behalf \
             of its clients.",
        )
        .override_usage("guix-daemon [OPTION...]")
        .help_template(
            "Usage: {usage}\nguix-daemon -- {about}\n\n{options}{after-help}\n\n\
             Mandatory or optional arguments to long options are also mandatory or optional\n\
             for any corresponding short options.\n",
        )
        .max_term_width(HELP_WIDTH)
        .infer_long_args(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .version(version_line());
    for row in TABLE {
        let mut arg = Arg::new(row.long)
            .long(row.long)
            .help(row.help)
            .hide(row.hidden)
            .action(ArgAction::Append)
            // An argument may begin with a hyphen.
            .allow_hyphen_values(row.takes != Nothing)
            .value_parser(ValueParser::os_string());
        if let Some(short) = row.short {
            arg = arg.short(short);
        }
        arg = match row.takes {
            Nothing => arg.num_args(0).default_missing_value(""),
            One(name) => arg.num_args(1).value_name(name),
            // clap does not distinguish an empty argument from a missing one, so a missing one is
            // read as NUL.
            MaybeOne(name) => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("\0")
                .value_name(name),
        };
        command = command.arg(arg);
    }
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .help(help)
            .action(ArgAction::SetTrue)
    };
    command
        .arg(flag(HELP, "give this help list").short('?'))
        .arg(
            Arg::new(HELP_SHORT)
                .short('h')
                .hide(true)
                .action(ArgAction::SetTrue),
        )
        .arg(flag(
            CHECK_SETUP,
            "look over the installation, change nothing, and say how to mend what is wrong",
        ))
        .arg(
            Arg::new(CHANGE_OWNER)
                .long(CHANGE_OWNER)
                .help("give store, state and logs to USER, while no daemon runs")
                .num_args(1)
                .value_name("USER")
                .value_parser(ValueParser::os_string()),
        )
        .arg(flag(USAGE, "give a short usage message"))
        .arg(flag(VERSION, "print program version").short('V'))
}

/// The first line of `--version`.
pub fn version_line() -> String {
    format!("{PROGRAM} (GNU Guix) {}", env!("GUIX_VERSION"))
}

/// What `--version` prints: Guix's line, and whether builds can be offloaded.
fn version() -> String {
    let offload = if cfg!(have_daemon_offload_hook) {
        "offloading: built in"
    } else {
        "offloading: not built in"
    };
    format!("{}\n{offload}\n", version_line())
}

/// Parses a command line, which begins with the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Parsed {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = command();
    let matches = match command.try_get_matches_from_mut(&arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let last = arguments.last().map(|word| word.to_string_lossy());
            let text = usage_error(&error, &last.unwrap_or_default());
            return Parsed::Refuse(text, USAGE_EXIT_CODE);
        }
    };
    if matches.get_flag(HELP) {
        return Parsed::Print(command.render_help().to_string());
    }
    if matches.get_flag(HELP_SHORT) {
        return Parsed::Refuse(refusal("invalid option -- 'h'"), USAGE_EXIT_CODE);
    }
    if matches.get_flag(USAGE) {
        return Parsed::Print(short_usage());
    }
    if matches.get_flag(VERSION) {
        return Parsed::Print(version());
    }
    let mut given: Vec<(usize, Given)> = Vec::new();
    for row in TABLE {
        let (Some(indices), Some(values)) = (
            matches.indices_of(row.long),
            matches.get_many::<OsString>(row.long),
        ) else {
            continue;
        };
        for (index, value) in indices.zip(values) {
            let value = match row.takes {
                Nothing => None,
                One(_) => Some(value.clone()),
                MaybeOne(_) => (value.as_bytes() != b"\0").then(|| value.clone()),
            };
            given.push((index, (row.option, value)));
        }
    }
    given.sort_by_key(|(index, _)| *index);
    let given = given.into_iter().map(|(_, given)| given).collect();
    if let Some(user) = matches.get_one::<OsString>(CHANGE_OWNER) {
        Parsed::ChangeOwner(user.clone(), given)
    } else if matches.get_flag(CHECK_SETUP) {
        Parsed::CheckSetup(given)
    } else {
        Parsed::Serve(given)
    }
}

fn short_usage() -> String {
    let mut text = format!("Usage: {PROGRAM}");
    let mut column = text.len();
    let mut add = |word: String| {
        if column + 1 + word.len() > 78 {
            text.push_str("\n           ");
            column = 11;
        }
        column += 1 + word.len();
        text.push(' ');
        text.push_str(&word);
    };
    for row in TABLE.iter().filter(|row| !row.hidden) {
        add(match row.takes {
            Nothing => format!("[--{}]", row.long),
            One(name) => format!("[--{}={name}]", row.long),
            MaybeOne(name) => format!("[--{}[={name}]]", row.long),
        });
    }
    add(format!("[--{CHECK_SETUP}]"));
    add(format!("[--{CHANGE_OWNER}=USER]"));
    for flag in [HELP, USAGE, VERSION] {
        add(format!("[--{flag}]"));
    }
    text.push('\n');
    text
}

fn refusal(reason: &str) -> String {
    format!(
        "{PROGRAM}: {reason}\n\
         Try `{PROGRAM} --help' or `{PROGRAM} --usage' for more information.\n"
    )
}

/// argp's message for this error. `last` is the last word of the command line: if an option lacks
/// its argument, that is the option as it was typed, of which clap only reports the long name.
fn usage_error(error: &clap::Error, last: &str) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::StyledStr(text)) => plain(text),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    let given = context(ContextKind::InvalidValue);
    // clap includes the name of the option's value: "--system <SYSTEM>".
    let option = argument.split([' ', '[', '=']).next().unwrap_or_default();
    let reason = match error.kind() {
        ErrorKind::UnknownArgument if option.starts_with("--") => {
            let name = &option[2..];
            let candidates = candidates(name);
            if candidates.len() > 1 {
                let list: Vec<String> = candidates
                    .iter()
                    .map(|candidate| format!("'--{candidate}'"))
                    .collect();
                format!(
                    "option '{option}' is ambiguous; possibilities: {}",
                    list.join(" ")
                )
            } else {
                format!("unrecognized option '{argument}'")
            }
        }
        ErrorKind::UnknownArgument if option.len() > 1 && option.starts_with('-') => {
            format!(
                "invalid option -- '{}'",
                option.chars().nth(1).unwrap_or('?')
            )
        }
        ErrorKind::UnknownArgument => "Too many arguments".to_owned(),
        ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues if given.is_empty() => {
            match last.chars().next_back() {
                Some(short) if !last.starts_with("--") => {
                    format!("option requires an argument -- '{short}'")
                }
                _ => format!("option '{option}' requires an argument"),
            }
        }
        ErrorKind::TooManyValues | ErrorKind::WrongNumberOfValues => {
            format!("option '{option}' doesn't allow an argument")
        }
        _ => error.to_string().trim_end().to_owned(),
    };
    refusal(&reason)
}

/// The long options that begin with `prefix`.
fn candidates(prefix: &str) -> Vec<&'static str> {
    let flags = [CHECK_SETUP, CHANGE_OWNER, HELP, USAGE, VERSION];
    TABLE
        .iter()
        .map(|row| row.long)
        .chain(flags)
        .filter(|long| long.starts_with(prefix))
        .collect()
}

fn plain(text: &StyledStr) -> String {
    text.to_string()
}

/// Parses `yes` or `no` in upper or lower case; no argument means yes.
pub fn yes_or_no(value: Option<&OsStr>) -> Result<bool, String> {
    let Some(value) = value else { return Ok(true) };
    if value.eq_ignore_ascii_case("yes") {
        Ok(true)
    } else if value.eq_ignore_ascii_case("no") {
        Ok(false)
    } else {
        Err(format!(
            "'{}': invalid Boolean value",
            Path::new(value).display()
        ))
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
