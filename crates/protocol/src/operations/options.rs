//! The settings of a connection.

use bstr::BString;

use crate::codec::{Decode, Encode, Error, Nothing, Source};
use crate::version::Version;

/// Settings for what follows on this connection. What a client's version doesn't send is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct SetOptions {
    /// Keep the directories of failed builds.
    pub keep_failed: bool,
    /// Go on with other builds when one has failed.
    pub keep_going: bool,
    /// Build what could not be substituted.
    pub fallback: bool,
    /// How much to say: 0 errors, 1 information, up to 5.
    pub verbosity: u32,
    /// How many builds at a time; later clients send the override `build-max-jobs`.
    pub max_build_jobs: Option<u32>,
    /// After how many silent seconds to give up; later, `build-max-silent-time`.
    pub max_silent_time: Option<u32>,
    /// Offload.
    pub use_build_hook: Option<bool>,
    /// At what verbosity to show build logs.
    pub build_verbosity: Option<u32>,
    /// 0 nested, 1 with escapes, 2 flat.
    pub log_type: Option<u32>,
    /// Tell of builds with `@` lines.
    pub print_build_trace: Option<bool>,
    /// How many cores for each build; later, `build-cores`.
    pub build_cores: Option<u32>,
    /// Substitute.
    pub use_substitutes: Option<bool>,
    /// Everything else, by name.
    pub overrides: Vec<(BString, BString)>,
}
reply!(SetOptions -> Nothing);

/// What Guix's client sends when it is given no options.
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
