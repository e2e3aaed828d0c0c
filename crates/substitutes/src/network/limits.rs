//! Limits of what is asked for and answered, which both sides keep.

use std::time::Duration;

/// The longest URL, in bytes.
pub const URL_LIMIT: usize = 8 << 10;
/// The largest body that [`Exchange::get`](super::Exchange::get) can ask for, in bytes.
pub const BODY_LIMIT: u64 = 1 << 20;
/// The maximum number of sources of a [`Fetch`](super::Fetch).
pub const SOURCES_LIMIT: usize = 32;
/// The maximum number of files among the sources of a [`Fetch`](super::Fetch).
pub const FILES_LIMIT: usize = 3;
/// How often the sources of a [`Fetch`](super::Fetch) are tried at most. That a source begins anew, because it
/// has changed or can't be continued, counts as often as trying all of them. So there are no more than
/// `2 * ROUNDS_LIMIT` events [`Started`](super::Event::Started) and
/// [`SourceFailed`](super::Event::SourceFailed) for each source.
pub const ROUNDS_LIMIT: usize = 3;
/// The longest time that a server may be silent.
pub const PATIENCE_LIMIT: Duration = Duration::from_secs(3600);
