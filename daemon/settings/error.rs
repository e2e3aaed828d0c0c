//! Errors in settings.

/// An invalid setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number.
    #[error("configuration setting `{0}' should have an integer value")]
    Integer(String),
    /// The argument of an option is not a number.
    #[error("configuration setting `{name}' should have an integer value, not `{value}'")]
    NotInteger {
        /// The setting.
        name: &'static str,
        /// The argument.
        value: String,
    },
    /// A number that is too large.
    #[error("configuration setting `{name}' should be at most {limit}")]
    TooLarge {
        /// The setting.
        name: &'static str,
        /// The largest allowed number.
        limit: u64,
    },
    /// A client's settings take more memory than they may.
    #[error("too many settings: their names and values can have {limit} bytes together")]
    TooMany {
        /// The most that they can have, in bytes.
        limit: usize,
    },
    /// Neither `true` nor `false`.
    #[error("configuration option `{name}' should be either `true' or `false', not `{value}'")]
    Boolean {
        /// The setting.
        name: String,
        /// The invalid value.
        value: String,
    },
    /// A name or value that can't be encoded in `_NIX_OPTIONS`.
    #[error("invalid option name/value")]
    Unpackable,
    /// An invalid argument of an option.
    #[error("{0}")]
    Argument(String),
}
