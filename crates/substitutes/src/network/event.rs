//! What an [`Exchange`](super::Exchange) is told of its requests.

use super::error::NetworkError;

/// What happened to a request.
///
/// The last event of a request, and no other, is [`Event::Response`], [`Event::Finished`] or
/// [`Event::Failed`] ([`Event::is_last`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server's answer to [`Exchange::get`](super::Exchange::get), after redirections. A server
    /// that is busy (429 or 503) was asked a few times, if it doesn't want to be left alone for
    /// longer than half a minute.
    Response {
        /// The HTTP status, such as 200 or 404.
        status: u32,
        /// `max-age` of `Cache-Control`, in seconds, if the server sent it.
        max_age: Option<u64>,
        /// For how many seconds the server wants to be left alone, if it says so.
        retry_after: Option<u64>,
        /// The body: not more bytes than asked for. That of a status other than 200 is left out.
        body: Vec<u8>,
    },
    /// The server that [`Exchange::get`](super::Exchange::get) asks is busy: it is left alone for a
    /// while, and asked again afterwards. Whoever can ask somebody else need not wait for that.
    Busy,
    /// A source has begun to deliver.
    Started {
        /// Its index among the sources: less than their number.
        source: usize,
        /// The number of bytes of the compressed contents, if it is known.
        total: Option<u64>,
    },
    /// Bytes have arrived. At most five of these in a second; if they aren't taken, only the newest
    /// is kept.
    Progress {
        /// The number of compressed bytes that have arrived from the current source.
        done: u64,
        /// As in [`Event::Started`].
        total: Option<u64>,
    },
    /// A source failed, and another is tried, or the same again.
    SourceFailed {
        /// Its index among the sources: less than their number.
        source: usize,
        /// The reason.
        error: NetworkError,
    },
    /// The program says that it has written everything to the pipe, and has closed it.
    Finished {
        /// The index of the last source.
        source: usize,
        /// The number of compressed bytes that arrived from it.
        received: u64,
        /// For how much of the time since its first bytes the network had brought nothing that could
        /// be decompressed, in percent.
        waited: u32,
    },
    /// The request failed; nothing more will be written to the pipe.
    Failed(NetworkError),
}

impl Event {
    /// Whether no other event of the request follows.
    pub fn is_last(&self) -> bool {
        matches!(
            self,
            Event::Response { .. } | Event::Finished { .. } | Event::Failed(_)
        )
    }
}
