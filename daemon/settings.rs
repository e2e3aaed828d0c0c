//! What the daemon was told to do, and what each client may have changed for itself.
//!
//! [`Settings`] belong to the administrator and never change once the daemon serves.
//! [`SessionSettings`] begin as a copy of the administrator's defaults and are changed by the
//! protocol's SetOptions ([`crate::session`]). As in Guix, settings also have names and texts
//! ([`SessionSettings::named`]), which helper programs get in `_NIX_OPTIONS`. Documented in
//! Guix's `nix/libstore/globals.cc` and in the manual, "Invoking guix-daemon".

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use bstr::{BString, ByteSlice, ByteVec};
use store::Directories;

use crate::hook_program::HookProgram;
use crate::options::{Given, Name, yes_or_no};

/// Where substitutes come from if nobody says otherwise.
const SUBSTITUTE_URLS: &str = "https://bordeaux.guix.gnu.org https://ci.guix.gnu.org";

/// How build logs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogCompression {
    /// As they are.
    None,
    /// `.gz`.
    Gzip,
    /// `.bz2`.
    Bzip2,
}

/// What the administrator decided.
#[derive(Debug)]
pub struct Settings {
    /// The store, the state, the logs, the configuration, and the `guix` program.
    pub directories: Directories,
    /// Where to listen; empty for the usual socket.
    pub endpoints: Vec<OsString>,
    /// The program that is asked whether a build can be offloaded.
    pub hook: HookProgram,
    /// How build logs are kept.
    pub log_compression: LogCompression,
    /// Fixed-output builds may talk to programs that listen on this machine's loopback.
    pub use_host_loopback: bool,
    /// Run `guix discover` beside the daemon.
    pub discover: bool,
    /// Messages for finding bugs.
    pub debug: bool,
    /// What a client that says nothing gets.
    pub session: Arc<SessionSettings>,
}

/// How nested log lines are shown (`log-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogType {
    /// With bars before them.
    Pretty,
    /// With escape sequences.
    Escapes,
    /// As they are.
    Flat,
}

/// What holds for one client.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields have the settings' own names.
pub struct SessionSettings {
    /// Keep the directories of failed builds.
    pub keep_failed: bool,
    /// Go on with other goals when one has failed.
    pub keep_going: bool,
    /// Build what could not be substituted.
    pub fallback: bool,
    /// Messages up to this level are shown; a [`store::Level`] as a number.
    pub verbosity: u32,
    /// Build output is shown if [`SessionSettings::verbosity`] is at least this.
    pub build_verbosity: u32,
    pub log_type: LogType,
    /// Print `@ …` lines.
    pub print_build_trace: bool,
    pub multiplexed_build_output: bool,
    /// Ask the hook. Only [`SessionSettings::hook_allowed`] may turn it on.
    pub use_build_hook: bool,
    pub max_build_jobs: u32,
    pub build_cores: u32,
    /// Whether and how long, in seconds, a build may be silent; 0 or less is for ever.
    pub max_silent_time: i64,
    /// Whether and how long, in seconds, a build may run; 0 or less is for ever.
    pub build_timeout: i64,
    pub system: BString,
    pub use_substitutes: bool,
    pub build_users_group: BString,
    pub use_chroot: bool,
    pub impersonate_linux_26: bool,
    pub keep_log: bool,
    /// In bytes; 0 is no limit.
    pub max_log_size: u64,
    pub cache_failure: bool,
    pub gc_keep_outputs: bool,
    pub gc_keep_derivations: bool,
    /// Deduplicate what is added.
    pub auto_optimise_store: bool,
    pub gc_reserved_space: u64,
    pub fsync_metadata: bool,
    pub use_sqlite_wal: bool,
    pub sync_before_registering: bool,
    pub poll_interval: u32,
    pub check_root_reachability: bool,
    pub env_keep_derivations: bool,
    /// The administrator has not turned hooks off, and they are built in.
    pub hook_allowed: bool,
    /// Settings by name, as texts.
    pub named: BTreeMap<BString, BString>,
}

/// A setting that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number where one is needed.
    #[error("configuration setting `{0}' should have an integer value")]
    Integer(String),
    /// Neither `true` nor `false`.
    #[error("configuration option `{name}' should be either `true' or `false', not `{value}'")]
    Boolean {
        /// The setting.
        name: String,
        /// What it was set to.
        value: String,
    },
    /// A name or a value that the format for helper programs cannot hold.
    #[error("invalid option name/value")]
    Unpackable,
    /// A bad argument of an option.
    #[error("{0}")]
    Argument(String),
}

impl SessionSettings {
    /// The settings of a daemon without options.
    fn initial() -> SessionSettings {
        let mut settings = SessionSettings {
            keep_failed: false,
            keep_going: false,
            fallback: false,
            verbosity: 1,
            build_verbosity: 0,
            log_type: LogType::Pretty,
            print_build_trace: false,
            multiplexed_build_output: false,
            use_build_hook: cfg!(have_daemon_offload_hook),
            max_build_jobs: 1,
            build_cores: 0,
            max_silent_time: 3600,
            build_timeout: 24 * 3600,
            system: env!("GUIX_SYSTEM").into(),
            use_substitutes: true,
            build_users_group: BString::default(),
            use_chroot: true,
            impersonate_linux_26: false,
            keep_log: true,
            max_log_size: 0,
            cache_failure: false,
            gc_keep_outputs: false,
            gc_keep_derivations: true,
            auto_optimise_store: true,
            gc_reserved_space: 8 * 1024 * 1024,
            fsync_metadata: true,
            use_sqlite_wal: true,
            sync_before_registering: false,
            poll_interval: 5,
            check_root_reachability: false,
            env_keep_derivations: false,
            hook_allowed: cfg!(have_daemon_offload_hook),
            named: BTreeMap::new(),
        };
        settings.set("build-use-substitutes", "true");
        settings.set("substitute-urls", SUBSTITUTE_URLS);
        settings
    }

    /// Sets a setting by its name; takes effect with [`SessionSettings::update`].
    pub fn set(&mut self, name: impl Into<BString>, value: impl Into<BString>) {
        self.named.insert(name.into(), value.into());
    }

    /// The text of a setting, if anybody set it.
    pub fn get(&self, name: &str) -> Option<&BString> {
        self.named.get(name.as_bytes().as_bstr())
    }

    /// The blank-separated words of a setting.
    pub fn words(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let text = self
            .get(name)
            .map(|text| text.as_slice())
            .unwrap_or_default();
        text.split(|byte| b" \t\n\r".contains(byte))
            .filter(|word| !word.is_empty())
    }

    /// How many times more a build is repeated (`build-repeat`). Read on demand, as in Guix: a
    /// bad value is the problem of who builds.
    pub fn build_repeat(&self) -> Result<u32, Error> {
        let mut repeat = 0i64;
        integer(&self.named, "build-repeat", &mut repeat)?;
        u32::try_from(repeat.max(0)).map_err(|_| Error::Integer("build-repeat".into()))
    }

    /// Where the client wants substitutes from: its own list, or else the administrator's.
    pub fn substitute_urls(&self) -> Vec<BString> {
        let enabled = self
            .get("build-use-substitutes")
            .is_some_and(|value| value == "true");
        if !enabled {
            return Vec::new();
        }
        let client = self
            .get("untrusted-substitute-urls")
            .is_some_and(|urls| !urls.is_empty());
        let name = if client {
            "untrusted-substitute-urls"
        } else {
            "substitute-urls"
        };
        self.words(name).map(BString::from).collect()
    }

    /// Makes the texts of [`SessionSettings::named`] take effect.
    pub fn update(&mut self) -> Result<(), Error> {
        let named = &self.named;
        boolean(named, "build-fallback", &mut self.fallback)?;
        integer(named, "build-max-jobs", &mut self.max_build_jobs)?;
        integer(named, "build-cores", &mut self.build_cores)?;
        if let Some(system) = self.get("system") {
            self.system = system.clone();
        }
        let named = &self.named;
        boolean(
            named,
            "multiplexed-build-output",
            &mut self.multiplexed_build_output,
        )?;
        integer(named, "build-max-silent-time", &mut self.max_silent_time)?;
        integer(named, "build-timeout", &mut self.build_timeout)?;
        integer(named, "gc-reserved-space", &mut self.gc_reserved_space)?;
        boolean(named, "fsync-metadata", &mut self.fsync_metadata)?;
        boolean(named, "use-sqlite-wal", &mut self.use_sqlite_wal)?;
        boolean(
            named,
            "sync-before-registering",
            &mut self.sync_before_registering,
        )?;
        boolean(named, "build-use-substitutes", &mut self.use_substitutes)?;
        if let Some(group) = self.named.get(b"build-users-group".as_bstr()) {
            self.build_users_group = group.clone();
        }
        boolean(named, "build-use-chroot", &mut self.use_chroot)?;
        boolean(
            named,
            "build-impersonate-linux-26",
            &mut self.impersonate_linux_26,
        )?;
        boolean(named, "build-keep-log", &mut self.keep_log)?;
        integer(named, "build-max-log-size", &mut self.max_log_size)?;
        boolean(named, "build-cache-failure", &mut self.cache_failure)?;
        integer(named, "build-poll-interval", &mut self.poll_interval)?;
        boolean(
            named,
            "gc-check-reachability",
            &mut self.check_root_reachability,
        )?;
        boolean(named, "gc-keep-outputs", &mut self.gc_keep_outputs)?;
        boolean(named, "gc-keep-derivations", &mut self.gc_keep_derivations)?;
        boolean(named, "auto-optimise-store", &mut self.auto_optimise_store)?;
        boolean(
            named,
            "env-keep-derivations",
            &mut self.env_keep_derivations,
        )
    }

    /// The value of `_NIX_OPTIONS` for helper programs: `NAME=VALUE` lines, sorted by name.
    pub fn pack(&self) -> Result<BString, Error> {
        let mut packed = BString::default();
        for (name, value) in &self.named {
            if name.find_byteset("\n=\0").is_some() || value.find_byteset("\n\0").is_some() {
                return Err(Error::Unpackable);
            }
            packed.push_str(name);
            packed.push(b'=');
            packed.push_str(value);
            packed.push(b'\n');
        }
        Ok(packed)
    }
}

impl Settings {
    /// What `given` options, the environment and the configured directories say.
    ///
    /// Numbers are only checked by [`Settings::effect`], after the sockets have been opened.
    pub fn new(directories: Directories, given: Vec<Given>) -> Result<Settings, Error> {
        let mut settings = Settings {
            hook: HookProgram::none(),
            directories,
            endpoints: Vec::new(),
            log_compression: LogCompression::Gzip,
            use_host_loopback: true,
            discover: false,
            debug: false,
            session: Arc::new(SessionSettings::initial()),
        };
        for (name, value) in given {
            settings.take(name, value)?;
        }
        if settings.session.hook_allowed {
            settings.hook = HookProgram::from_environment(&settings.directories);
        }
        Ok(settings)
    }

    fn session_mut(&mut self) -> &mut SessionSettings {
        Arc::make_mut(&mut self.session)
    }

    fn take(&mut self, name: Name, value: Option<OsString>) -> Result<(), Error> {
        let flag = || yes_or_no(value.as_deref()).map_err(Error::Argument);
        let text = || BString::from(value.clone().unwrap_or_default().into_vec());
        match name {
            Name::System => self.session_mut().system = text(),
            Name::Cores => self.session_mut().set("build-cores", text()),
            Name::MaxJobs => self.session_mut().set("build-max-jobs", text()),
            Name::Timeout => self.session_mut().set("build-timeout", text()),
            Name::MaxSilentTime => self.session_mut().set("build-max-silent-time", text()),
            Name::DisableChroot => self.session_mut().use_chroot = false,
            Name::ChrootDirectory => {
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
            Name::SubstituteUrls => self.session_mut().set("substitute-urls", text()),
            Name::NoOffload => {
                let session = self.session_mut();
                session.hook_allowed = false;
                session.use_build_hook = false;
            }
            Name::CacheFailures => self.session_mut().cache_failure = true,
            Name::Rounds => {
                let repeat = rounds(&text())?.saturating_sub(1);
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

    /// Checks the named settings and makes them take effect.
    pub fn effect(&mut self) -> Result<(), Error> {
        self.session_mut().update()
    }
}

/// `--rounds`: read as by `strtoul`, but what is too large stays large.
fn rounds(text: &BString) -> Result<u64, Error> {
    let bad = || Error::Argument(format!("{text}: invalid number of rounds"));
    if text.is_empty() {
        return Ok(0);
    }
    let (negative, magnitude) = digits(text).ok_or_else(bad)?;
    // Guix wraps negative numbers, and then no build works.
    Ok(if negative { 0 } else { magnitude })
}

/// A number as C++ reads it: leading blanks, a sign, decimal digits, and nothing else.
fn digits(text: &[u8]) -> Option<(bool, u64)> {
    let text = text.trim_start_with(|character| character.is_ascii_whitespace());
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some((negative, digits.to_str().ok()?.parse().ok()?))
}

/// The integer types of settings: unsigned ones take negative numbers and wrap them.
trait Integer: Sized {
    fn from_parts(negative: bool, magnitude: u64) -> Option<Self>;
}

impl Integer for u32 {
    fn from_parts(negative: bool, magnitude: u64) -> Option<u32> {
        let magnitude = u32::try_from(magnitude).ok()?;
        Some(if negative {
            magnitude.wrapping_neg()
        } else {
            magnitude
        })
    }
}

impl Integer for u64 {
    fn from_parts(negative: bool, magnitude: u64) -> Option<u64> {
        Some(if negative {
            magnitude.wrapping_neg()
        } else {
            magnitude
        })
    }
}

impl Integer for i64 {
    fn from_parts(negative: bool, magnitude: u64) -> Option<i64> {
        if negative {
            0i64.checked_sub_unsigned(magnitude)
        } else {
            i64::try_from(magnitude).ok()
        }
    }
}

type Named = BTreeMap<BString, BString>;

fn integer<N: Integer>(named: &Named, name: &str, result: &mut N) -> Result<(), Error> {
    if let Some(text) = named.get(name.as_bytes().as_bstr()) {
        *result = digits(text)
            .and_then(|(negative, magnitude)| N::from_parts(negative, magnitude))
            .ok_or_else(|| Error::Integer(name.to_owned()))?;
    }
    Ok(())
}

fn boolean(named: &Named, name: &str, result: &mut bool) -> Result<(), Error> {
    if let Some(text) = named.get(name.as_bytes().as_bstr()) {
        *result = match text.as_bytes() {
            b"true" => true,
            b"false" => false,
            _ => {
                return Err(Error::Boolean {
                    name: name.to_owned(),
                    value: text.to_string(),
                });
            }
        };
    }
    Ok(())
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
