//! Settings that cannot be understood.

/// A setting that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number where one is needed.
    #[error("configuration setting `{0}' should have an integer value")]
    Integer(String),
    /// A larger number than makes sense.
    #[error("configuration setting `{name}' should be at most {limit}")]
    TooLarge {
        /// The setting.
        name: &'static str,
        /// The largest number that it can be.
        limit: u32,
    },
    /// Neither `true` nor `false`.
    #[error("configuration option `{name}' should be either `true' or `false', not `{value}'")]
    Boolean {
        /// The setting.
        name: String,
        /// What it was set to.
        value: String,
    },
    /// A name or a value that `_NIX_OPTIONS` cannot hold.
    #[error("invalid option name/value")]
    Unpackable,
    /// A bad argument of an option.
    #[error("{0}")]
    Argument(String),
}
