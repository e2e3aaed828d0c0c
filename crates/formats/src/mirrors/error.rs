//! What can be wrong with mirrors.

use crate::datum::{Datum, Position, SyntaxError};

/// Why mirrors could not be read or evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not Scheme data.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// An expression that is wrong, or unknown here.
    #[error("{}:{}: {message}", position.line, position.column)]
    Expression {
        /// The position of the expression.
        position: Position,
        /// What is wrong with it.
        message: String,
    },
    /// The file has no datum, or its value is something else.
    #[error("{0}")]
    Value(&'static str),
    /// More steps, memory or depth than mirrors need.
    #[error("evaluation takes too much {0}")]
    Limit(&'static str),
}

/// A wrong expression at `datum`.
pub(super) fn wrong(datum: &Datum, message: impl Into<String>) -> Error {
    Error::Expression {
        position: datum.position,
        message: message.into(),
    }
}
