//! The daemon's settings, and those that each client may change for itself.
//!
//! [`Settings`] belong to the administrator and never change once the daemon serves.
//! [`SessionSettings`] begin as a copy of the administrator's defaults and are changed by the
//! protocol's SetOptions ([`crate::session`]). Documented in Guix's `nix/libstore/globals.cc` and
//! in the manual, "Invoking guix-daemon".

mod error;
mod session_settings;
mod values;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use bstr::{BString, ByteSlice};
use farm::history::Limits;
use store::Directories;
use substitutes::servers::{ListedBy, parse_list};

pub use self::error::Error;
pub use self::session_settings::{LogType, SessionSettings};
use self::values::{Integer, check_integer, parse_rounds, words};
use crate::fetcher::Fetcher;
use crate::hook_program::HookProgram;
use crate::options::{Given, Name, yes_or_no};

/// How many items are fetched at once for each request, unless the administrator says otherwise.
const MAX_SUBSTITUTIONS: u32 = 8;

/// How build logs are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogCompression {
    /// Not at all.
    None,
    /// `.gz`.
    Gzip,
    /// `.bz2`.
    Bzip2,
}

/// The administrator's settings.
#[derive(Debug)]
pub struct Settings {
    /// The directories of the store, the state, the logs and the configuration, and the `guix`
    /// program.
    pub directories: Directories,
    /// Where to listen; if empty, on the default socket.
    pub endpoints: Vec<OsString>,
    /// The program that is asked whether to offload a build.
    pub hook: HookProgram,
    /// The program that touches the network.
    pub fetcher: Fetcher,
    /// How many items are fetched at once for each request; at least one.
    pub max_substitutions: u32,
    /// How build logs are compressed.
    pub log_compression: LogCompression,
    /// How much of what was built is remembered; nothing if not at all.
    pub history: Option<Limits>,
    /// Whether fixed-output builds may connect to servers on this machine's loopback device.
    pub use_host_loopback: bool,
    /// Whether to run `guix discover`.
    pub discover: bool,
    /// Whether to log debugging messages.
    pub debug: bool,
    /// The settings that sessions start with.
    pub session: Arc<SessionSettings>,
}

impl Settings {
    /// The settings according to the `given` options and the environment.
    pub fn new(directories: Directories, given: Vec<Given>) -> Result<Settings, Error> {
        let mut settings = Settings {
            hook: HookProgram::none(),
            fetcher: Fetcher::new(&directories),
            max_substitutions: MAX_SUBSTITUTIONS,
            directories,
            endpoints: Vec::new(),
            log_compression: LogCompression::Gzip,
            history: Limits::from_environment().map_err(Error::Argument)?,
            use_host_loopback: true,
            discover: false,
            debug: false,
            session: Arc::new(SessionSettings::initial()),
        };
        for (name, value) in given {
            settings.apply_option(name, value)?;
        }
        if settings.session.hook_allowed {
            settings.hook = HookProgram::from_environment(&settings.directories);
        }
        Ok(settings)
    }

    fn session_mut(&mut self) -> &mut SessionSettings {
        Arc::make_mut(&mut self.session)
    }

    fn apply_option(&mut self, name: Name, value: Option<OsString>) -> Result<(), Error> {
        let flag = || yes_or_no(value.as_deref()).map_err(Error::Argument);
        let text = || BString::from(value.clone().unwrap_or_default().into_vec());
        match name {
            Name::System => self.session_mut().system = named(text(), "a system type")?,
            Name::Cores => self.set_number::<u32>("build-cores", text())?,
            Name::MaxJobs => self.set_number::<u32>("build-max-jobs", text())?,
            Name::Timeout => self.set_number::<i64>("build-timeout", text())?,
            Name::MaxSilentTime => self.set_number::<i64>("build-max-silent-time", text())?,
            Name::DisableChroot => self.session_mut().use_chroot = false,
            Name::ChrootDirectory => {
                check_chroot_directory(&text())?;
                let session = self.session_mut();
                let mut all = session
                    .get("build-extra-chroot-dirs")
                    .cloned()
                    .unwrap_or_default();
                if !all.is_empty() {
                    all.push(b' ');
                }
                all.extend_from_slice(&text());
                session.set("build-extra-chroot-dirs", all);
            }
            Name::BuildUsersGroup => self.session_mut().build_users_group = text(),
            Name::NoSubstitutes => self.session_mut().set("build-use-substitutes", "false"),
            Name::SubstituteUrls => {
                // Guix's daemon takes anything, and then nobody gets substitutes.
                let urls = text().to_string();
                if let Err(error) = parse_list(&urls, ListedBy::Administrator) {
                    return Err(Error::Argument(format!("'--substitute-urls': {error}")));
                }
                self.session_mut().set("substitute-urls", urls);
            }
            Name::Fetcher => {
                let named = Fetcher::named(&text(), &self.directories);
                self.fetcher = named.map_err(Error::Argument)?;
            }
            Name::MaxSubstitutions => {
                let number = text().to_str().ok().and_then(|text| text.parse().ok());
                self.max_substitutions = number.filter(|number| *number > 0).ok_or_else(|| {
                    let largest = u32::MAX;
                    Error::Argument(format!(
                        "'--max-substitutions': expected a whole number from 1 to {largest}, not `{}'",
                        text()
                    ))
                })?;
            }
            Name::NoOffload => {
                let session = self.session_mut();
                session.hook_allowed = false;
                session.use_build_hook = false;
            }
            Name::CacheFailures => self.session_mut().cache_failure = true,
            Name::Rounds => {
                let repeat = parse_rounds(&text())?.saturating_sub(1);
                self.session_mut().set("build-repeat", repeat.to_string());
            }
            Name::LoseLogs => self.session_mut().keep_log = false,
            Name::DisableLogCompression => self.log_compression = LogCompression::None,
            Name::LogCompression => {
                self.log_compression = match text().as_slice() {
                    b"none" => LogCompression::None,
                    b"gzip" => LogCompression::Gzip,
                    b"bzip2" => LogCompression::Bzip2,
                    _ => {
                        let reason = format!("{}: unknown compression type", text());
                        return Err(Error::Argument(reason));
                    }
                }
            }
            Name::History => {
                let limits = Limits::parse(&text().to_str_lossy());
                let wrong = |error| Error::Argument(format!("'--history': {error}"));
                self.history = limits.map_err(wrong)?;
            }
            Name::Discover => {
                self.discover = flag()?;
                let word = if self.discover { "true" } else { "false" };
                self.session_mut().set("discover", word);
            }
            Name::DisableDeduplication => self.session_mut().auto_optimise_store = false,
            Name::ImpersonateLinux26 => self.session_mut().impersonate_linux_26 = true,
            Name::GcKeepOutputs => self.session_mut().gc_keep_outputs = flag()?,
            Name::GcKeepDerivations => self.session_mut().gc_keep_derivations = flag()?,
            Name::Listen => self.endpoints.extend(value),
            Name::Debug => {
                self.debug = true;
                self.session_mut().verbosity = store::Level::Debug as u32;
            }
            Name::IsolateHostLoopback => self.use_host_loopback = false,
        }
        Ok(())
    }

    fn set_number<N: Integer>(&mut self, name: &'static str, text: BString) -> Result<(), Error> {
        check_integer::<N>(name, &text)?;
        self.session_mut().set(name, text);
        Ok(())
    }

    /// Checks the settings by name and applies them.
    pub fn apply_named(&mut self) -> Result<(), Error> {
        self.session_mut().apply_named()
    }
}

/// The argument, unless it is empty.
fn named(text: BString, what: &str) -> Result<BString, Error> {
    if text.is_empty() {
        return Err(Error::Argument(format!("'': not {what}")));
    }
    Ok(text)
}

/// Checks an argument of `--chroot-directory`: `DIR` or `INSIDE=OUTSIDE`, or several, with blanks
/// between them.
fn check_chroot_directory(text: &BString) -> Result<(), Error> {
    let words: Vec<&[u8]> = words(text).collect();
    let absolute = |word: &&[u8]| word.split_str("=").all(|name| name.starts_with(b"/"));
    if words.is_empty() || !words.iter().all(absolute) {
        let reason = format!("'{text}': not an absolute directory name");
        return Err(Error::Argument(reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
