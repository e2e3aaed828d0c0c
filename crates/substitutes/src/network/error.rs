//! Why a request failed.

use formats::printable::printable;

/// Whether by an HTTP status a server says that it answers later (RFC 9110, RFC 6585).
pub fn is_busy(status: u32) -> bool {
    matches!(status, 429 | 503)
}

/// The longest description of an error that is kept, in bytes.
const TEXT_LIMIT: usize = 1 << 10;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct NetworkError {
    kind: ErrorKind,
    text: String,
}

/// What sort of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The server's name (or its proxy's) isn't known.
    HostNotFound,
    /// No connection to the server.
    Connect,
    /// No encrypted connection to the server.
    Tls,
    /// The server is silent, or too slow.
    Timeout,
    /// The server answered a [`Fetch`](super::Fetch) with this status, which isn't success.
    Status(u32),
    /// The server (or a file) broke off before the end.
    Interrupted,
    /// More bytes than the limit.
    TooLarge,
    /// What came isn't compressed as announced, or needs too much memory to decompress.
    Corrupt,
    /// The server doesn't speak HTTP, or redirects without end.
    Protocol,
    /// A URL that the program doesn't fetch, or a request that breaks a limit of this module.
    Refused,
    /// The pipe was closed at the other end, or can't be written to.
    Output,
    /// The network program died, or said what it must not say.
    ProgramDied,
    /// The network program could not be started.
    ProgramMissing,
}

impl NetworkError {
    /// An error with a description, which is made printable and cut where it is too long.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> NetworkError {
        let mut text = printable(&text.into()).into_owned();
        if text.len() > TEXT_LIMIT {
            let end = (0..=TEXT_LIMIT).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(end.unwrap_or_default());
        }
        NetworkError { kind, text }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What failed, and why: one line without control characters, at most 1 KiB.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the server as a whole can't be reached, so that asking it for something else is of no
    /// use now.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::HostNotFound | ErrorKind::Connect | ErrorKind::Tls
        )
    }

    /// Whether the server says that it is busy.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.kind, ErrorKind::Status(status) if is_busy(status))
    }
}
