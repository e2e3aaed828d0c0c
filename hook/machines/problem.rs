//! Mistakes in machine files: in one entry, or in the whole file.

use std::fmt;
use std::path::PathBuf;

use formats::datum::Position;

/// A position in a machine file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line and column in it.
    pub position: Position,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}",
            self.file.display(),
            self.position.line,
            self.position.column
        )
    }
}

/// A mistake in a machine file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {}{message}", .field.as_ref().map(|f| format!("field `{f}': ")).unwrap_or_default())]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The field.
    pub field: Option<String>,
    /// The message.
    pub message: String,
}

/// Why a whole machine file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("failed to open machine file '{}': {}", file.display(), system::errno::message(.reason))]
    Open {
        /// The file.
        file: PathBuf,
        /// Why. It is no `source`: then a chain of errors would give it twice.
        reason: std::io::Error,
    },
    /// Its syntax is wrong.
    #[error("failed to load machine file: {0}")]
    Syntax(Problem),
    /// Guile reports an error.
    #[error("failed to load machine file '{}': {message}", file.display())]
    Guile {
        /// The file.
        file: PathBuf,
        /// Its message.
        message: String,
    },
}
