//! The settings of a connection.

use bstr::BString;

use crate::codec::{Decode, Encode, Error, Nothing, Source};
use crate::version::Version;

/// The most that a request with settings may be, in bytes.
const MAX_OPTIONS: u64 = 1 << 20;

/// Settings for the following operations on this connection. Fields that the client's version
/// doesn't send are `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct SetOptions {
    /// Keep the directories of failed builds.
    pub keep_failed: bool,
    /// Continue with other builds after one has failed.
    pub keep_going: bool,
    /// Build items that could not be substituted.
    pub fallback: bool,
    /// The verbosity: 0 for errors only, 1 for information, up to 5.
    pub verbosity: u32,
    /// The number of builds at a time; newer clients send the override `build-max-jobs`.
    pub max_build_jobs: Option<u32>,
    /// The timeout for silent builds, in seconds; newer clients send `build-max-silent-time`.
    pub max_silent_time: Option<u32>,
    /// Whether to offload builds.
    pub use_build_hook: Option<bool>,
    /// The verbosity from which build logs are shown.
    pub build_verbosity: Option<u32>,
    /// The format of log messages: 0 nested, 1 with escapes, 2 flat.
    pub log_type: Option<u32>,
    /// Whether to report builds as trace lines, which start with `@`.
    pub print_build_trace: Option<bool>,
    /// The number of cores for each build; newer clients send `build-cores`.
    pub build_cores: Option<u32>,
    /// Whether to use substitutes.
    pub use_substitutes: Option<bool>,
    /// All other settings, by name.
    pub overrides: Vec<(BString, BString)>,
}
reply!(SetOptions -> Nothing);

/// What Guix's client sends without any options.
impl Default for SetOptions {
    fn default() -> Self {
        SetOptions {
            keep_failed: false,
            keep_going: false,
            fallback: false,
            verbosity: 0,
            max_build_jobs: None,
            max_silent_time: None,
            use_build_hook: Some(true),
            build_verbosity: Some(0),
            log_type: Some(0),
            print_build_trace: Some(true),
            build_cores: None,
            use_substitutes: Some(true),
            overrides: Vec::new(),
        }
    }
}

impl SetOptions {
    /// Adds an override.
    pub fn set(&mut self, name: &str, value: impl Into<BString>) {
        self.overrides.push((name.into(), value.into()));
    }
}

impl Encode for SetOptions {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        self.keep_failed.encode(out, version);
        self.keep_going.encode(out, version);
        self.fallback.encode(out, version);
        self.verbosity.encode(out, version);
        if version.has_jobs_fields() {
            self.max_build_jobs.unwrap_or(1).encode(out, version);
            self.max_silent_time.unwrap_or(3600).encode(out, version);
        }
        if version.has_build_hook_option() {
            self.use_build_hook.unwrap_or(true).encode(out, version);
        }
        if version.has_log_options() {
            self.build_verbosity.unwrap_or(0).encode(out, version);
            self.log_type.unwrap_or(0).encode(out, version);
            self.print_build_trace.unwrap_or(false).encode(out, version);
        }
        if version.has_cores_field() {
            self.build_cores.unwrap_or(0).encode(out, version);
        }
        if version.has_substitutes_option() {
            self.use_substitutes.unwrap_or(true).encode(out, version);
        }
        if version.has_overrides() {
            self.overrides.encode(out, version);
        }
    }
}

impl Decode for SetOptions {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        source.limit(MAX_OPTIONS);
        let version = source.version();
        fn only<T: Decode>(there: bool, source: &mut Source<'_>) -> Result<Option<T>, Error> {
            there.then(|| source.get()).transpose()
        }
        Ok(SetOptions {
            keep_failed: source.get()?,
            keep_going: source.get()?,
            fallback: source.get()?,
            verbosity: source.get()?,
            max_build_jobs: only(version.has_jobs_fields(), source)?,
            max_silent_time: only(version.has_jobs_fields(), source)?,
            use_build_hook: only(version.has_build_hook_option(), source)?,
            build_verbosity: only(version.has_log_options(), source)?,
            log_type: only(version.has_log_options(), source)?,
            print_build_trace: only(version.has_log_options(), source)?,
            build_cores: only(version.has_cores_field(), source)?,
            use_substitutes: only(version.has_substitutes_option(), source)?,
            overrides: only(version.has_overrides(), source)?.unwrap_or_default(),
        })
    }
}
