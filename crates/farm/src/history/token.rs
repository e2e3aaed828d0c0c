//! How a daemon finds out what a hook of its own has written.

use std::fmt;

const VARIABLE: &str = "GUIX_OFFLOAD_TOKEN";

/// A number that a daemon gives to each hook process, which writes it into its rows. Then the daemon can
/// add what a hook that was killed, or is another program, did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub i64);

impl Token {
    /// The environment variable that has it.
    pub const VARIABLE: &str = VARIABLE;

    /// The token of this hook; nothing under another daemon.
    pub fn from_environment() -> Option<Token> {
        let text = std::env::var(Token::VARIABLE).ok()?;
        text.parse().ok().map(Token)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
