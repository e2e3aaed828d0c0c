//! Versions of the protocol, and the changes they brought.

use std::fmt;

/// A version: a major number in the second byte, a minor number in the first.
/// The minor number determines the encoding. The daemon goes by the client's version and the client
/// by the daemon's, so both must announce what they really support.
/// the daemon's, so both must announce what they really speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl Version {
    /// The version that this crate implements.
    pub const CURRENT: Version = Version(0x164);

    /// The major number, which must be the same on both sides.
    pub const fn major(self) -> u32 {
        self.0 & 0xff00
    }

    /// The minor number, which determines the encoding.
    pub const fn minor(self) -> u32 {
        self.0 & 0x00ff
    }

    /// SetOptions has whether to use the build hook.
    pub const fn has_build_hook_option(self) -> bool {
        self.minor() >= 2
    }

    /// SetOptions has build verbosity, log type and whether to print traces.
    pub const fn has_log_options(self) -> bool {
        self.minor() >= 4
    }

    /// CollectGarbage has two more obsolete words.
    pub const fn has_obsolete_gc_words(self) -> bool {
        self.minor() >= 5
    }

    /// SetOptions has the number of cores in a separate field.
    pub const fn has_cores_field(self) -> bool {
        self.minor() >= 6 && self.minor() < 0x61
    }

    /// QuerySubstitutablePathInfo returns the size of the nar.
    pub const fn has_substitutable_nar_size(self) -> bool {
        self.minor() >= 7
    }

    /// Errors carry a status.
    pub const fn has_error_status(self) -> bool {
        self.minor() >= 8
    }

    /// SetOptions has whether to use substitutes.
    pub const fn has_substitutes_option(self) -> bool {
        self.minor() >= 10
    }

    /// The handshake has whether to reserve disk space.
    pub const fn has_reserve_space(self) -> bool {
        self.minor() >= 11
    }

    /// SetOptions has settings by name.
    pub const fn has_overrides(self) -> bool {
        self.minor() >= 12
    }

    /// The handshake may have a processor to run on.
    pub const fn has_cpu_affinity(self) -> bool {
        self.minor() >= 14
    }

    /// BuildPaths has a mode.
    pub const fn has_build_mode(self) -> bool {
        self.minor() >= 15
    }

    /// SetOptions has the number of jobs and the timeout for silent builds in separate fields.
    pub const fn has_jobs_fields(self) -> bool {
        self.minor() < 0x61
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
