//! Versions of the protocol, and what changed with them.

use std::fmt;

/// A version: a major number in the second byte, a minor number in the first.
///
/// The minor number decides what is on the wire. The daemon goes by the client's, the client by
/// the daemon's, so both must announce what they really speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl Version {
    /// What this crate speaks.
    pub const CURRENT: Version = Version(0x164);

    /// What must be equal on both sides.
    pub const fn major(self) -> u32 {
        self.0 & 0xff00
    }

    /// What decides the details.
    pub const fn minor(self) -> u32 {
        self.0 & 0x00ff
    }

    /// SetOptions says whether to use the build hook.
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

    /// SetOptions has the number of cores in a field of its own.
    pub const fn has_cores_field(self) -> bool {
        self.minor() >= 6 && self.minor() < 0x61
    }

    /// QuerySubstitutablePathInfo answers the size of the nar.
    pub const fn has_substitutable_nar_size(self) -> bool {
        self.minor() >= 7
    }

    /// Errors carry a status.
    pub const fn has_error_status(self) -> bool {
        self.minor() >= 8
    }

    /// SetOptions says whether to use substitutes.
    pub const fn has_substitutes_option(self) -> bool {
        self.minor() >= 10
    }

    /// The handshake says whether to reserve disk space.
    pub const fn has_reserve_space(self) -> bool {
        self.minor() >= 11
    }

    /// SetOptions has names and values.
    pub const fn has_overrides(self) -> bool {
        self.minor() >= 12
    }

    /// The handshake may name a processor to stay on.
    pub const fn has_cpu_affinity(self) -> bool {
        self.minor() >= 14
    }

    /// BuildPaths has a mode.
    pub const fn has_build_mode(self) -> bool {
        self.minor() >= 15
    }

    /// SetOptions has the number of jobs and the silence limit in fields of their own.
    pub const fn has_jobs_fields(self) -> bool {
        self.minor() < 0x61
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
