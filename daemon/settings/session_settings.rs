//! The settings of one client.
//!
//! As in Guix, settings also exist as texts by name ([`SessionSettings::named`]), which helper
//! programs get in `_NIX_OPTIONS`; [`SessionSettings::apply_named`] applies them.

use bstr::{BString, ByteSlice, ByteVec};
use protocol::frames::READ_AHEAD;

use super::error::Error;
use super::values::{MAX_REPEAT, NamedSettings, read_boolean, read_integer, words};

/// The default substitute servers.
pub(super) const SUBSTITUTE_URLS: &str = "https://bordeaux.guix.gnu.org https://ci.guix.gnu.org";

/// How long the names and values of all settings can be together, in bytes. Helper programs get
/// them in a variable of their environment, which can have twice as much.
const MAX_NAMED: usize = 64 << 10;

/// How nested log lines are shown (`log-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogType {
    /// With bars before them.
    Pretty,
    /// With escape sequences.
    Escapes,
    /// Without either.
    Flat,
}

/// The settings of one client.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields have the settings' own names.
pub struct SessionSettings {
    /// Keep the directories of failed builds.
    pub keep_failed: bool,
    /// Continue with other goals after one has failed.
    pub keep_going: bool,
    /// Build items that could not be substituted.
    pub fallback: bool,
    /// Messages up to this level are shown; a [`store::Level`] as a number.
    pub verbosity: u32,
    /// Build output is shown if [`SessionSettings::verbosity`] is at least this.
    pub build_verbosity: u32,
    pub log_type: LogType,
    /// Print `@ …` lines.
    pub print_build_trace: bool,
    pub multiplexed_build_output: bool,
    /// See [`READ_AHEAD`].
    pub read_ahead: bool,
    /// Whether to ask the hook. Only [`SessionSettings::hook_allowed`] may turn it on.
    pub use_build_hook: bool,
    pub max_build_jobs: u32,
    pub build_cores: u32,
    /// The timeout for silent builds, in seconds; 0 or less means none.
    pub max_silent_time: i64,
    /// The timeout for builds, in seconds; 0 or less means none.
    pub build_timeout: i64,
    pub system: BString,
    pub use_substitutes: bool,
    pub build_users_group: BString,
    pub use_chroot: bool,
    pub impersonate_linux_26: bool,
    pub keep_log: bool,
    /// In bytes; 0 means unlimited.
    pub max_log_size: u64,
    pub cache_failure: bool,
    pub gc_keep_outputs: bool,
    pub gc_keep_derivations: bool,
    /// Whether to deduplicate new items.
    pub auto_optimise_store: bool,
    pub gc_reserved_space: u64,
    pub fsync_metadata: bool,
    pub use_sqlite_wal: bool,
    pub sync_before_registering: bool,
    pub poll_interval: u32,
    pub check_root_reachability: bool,
    pub env_keep_derivations: bool,
    /// Whether hooks are built in, and the administrator has not turned them off.
    pub hook_allowed: bool,
    /// Settings by name, as texts.
    pub named: NamedSettings,
}

impl SessionSettings {
    /// The settings of a daemon without options.
    pub fn initial() -> SessionSettings {
        let mut settings = SessionSettings {
            keep_failed: false,
            keep_going: false,
            fallback: false,
            verbosity: 1,
            build_verbosity: 0,
            log_type: LogType::Pretty,
            print_build_trace: false,
            multiplexed_build_output: false,
            read_ahead: false,
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
            named: NamedSettings::new(),
        };
        settings.set("build-use-substitutes", "true");
        settings.set("substitute-urls", SUBSTITUTE_URLS);
        settings
    }

    /// Sets a setting by name; takes effect with [`SessionSettings::apply_named`].
    pub fn set(&mut self, name: impl Into<BString>, value: impl Into<BString>) {
        self.named.insert(name.into(), value.into());
    }

    /// The text of a setting, if it was set.
    pub fn get(&self, name: &str) -> Option<&BString> {
        self.named.get(name.as_bytes().as_bstr())
    }

    /// The words (separated by blanks) of a setting.
    pub fn words(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let text = self
            .get(name)
            .map(|text| text.as_slice())
            .unwrap_or_default();
        words(text)
    }

    /// The host's files and directories that builds in a chroot see (`--chroot-directory`):
    /// `INSIDE=OUTSIDE`, or one name for both.
    pub fn shown_directories(&self) -> impl Iterator<Item = &[u8]> {
        ["build-chroot-dirs", "build-extra-chroot-dirs"]
            .into_iter()
            .flat_map(|setting| self.words(setting))
    }

    /// How many times a build is repeated after the first time (`build-repeat`), at most 10,000. As
    /// in Guix, an invalid value is only an error when something is built.
    pub fn build_repeat(&self) -> Result<u32, Error> {
        let mut repeat = 0i64;
        read_integer(&self.named, "build-repeat", &mut repeat)?;
        match u32::try_from(repeat.max(0)) {
            Ok(repeat) if repeat <= MAX_REPEAT => Ok(repeat),
            _ => Err(Error::TooLarge {
                name: "build-repeat",
                limit: MAX_REPEAT.into(),
            }),
        }
    }

    /// The substitute servers that the client chose, or else the administrator's.
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

    /// The substitute servers that the administrator has named, if any.
    pub fn named_servers(&self) -> Option<String> {
        let urls = self.get("substitute-urls")?.to_string();
        (urls != SUBSTITUTE_URLS).then_some(urls)
    }

    /// Applies the texts in [`SessionSettings::named`].
    pub fn apply_named(&mut self) -> Result<(), Error> {
        let lengths = self
            .named
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2);
        if lengths.sum::<usize>() > MAX_NAMED {
            return Err(Error::TooMany { limit: MAX_NAMED });
        }
        let named = &self.named;
        read_boolean(named, "build-fallback", &mut self.fallback)?;
        read_integer(named, "build-max-jobs", &mut self.max_build_jobs)?;
        read_integer(named, "build-cores", &mut self.build_cores)?;
        if let Some(system) = self.get("system") {
            self.system = system.clone();
        }
        let named = &self.named;
        read_boolean(
            named,
            "multiplexed-build-output",
            &mut self.multiplexed_build_output,
        )?;
        read_boolean(named, READ_AHEAD, &mut self.read_ahead)?;
        read_integer(named, "build-max-silent-time", &mut self.max_silent_time)?;
        read_integer(named, "build-timeout", &mut self.build_timeout)?;
        read_integer(named, "gc-reserved-space", &mut self.gc_reserved_space)?;
        read_boolean(named, "fsync-metadata", &mut self.fsync_metadata)?;
        read_boolean(named, "use-sqlite-wal", &mut self.use_sqlite_wal)?;
        read_boolean(
            named,
            "sync-before-registering",
            &mut self.sync_before_registering,
        )?;
        read_boolean(named, "build-use-substitutes", &mut self.use_substitutes)?;
        if let Some(group) = self.named.get(b"build-users-group".as_bstr()) {
            self.build_users_group = group.clone();
        }
        read_boolean(named, "build-use-chroot", &mut self.use_chroot)?;
        read_boolean(
            named,
            "build-impersonate-linux-26",
            &mut self.impersonate_linux_26,
        )?;
        read_boolean(named, "build-keep-log", &mut self.keep_log)?;
        read_integer(named, "build-max-log-size", &mut self.max_log_size)?;
        read_boolean(named, "build-cache-failure", &mut self.cache_failure)?;
        read_integer(named, "build-poll-interval", &mut self.poll_interval)?;
        read_boolean(
            named,
            "gc-check-reachability",
            &mut self.check_root_reachability,
        )?;
        read_boolean(named, "gc-keep-outputs", &mut self.gc_keep_outputs)?;
        read_boolean(named, "gc-keep-derivations", &mut self.gc_keep_derivations)?;
        read_boolean(named, "auto-optimise-store", &mut self.auto_optimise_store)?;
        read_boolean(
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
