//! The numbers that begin a connection, and those that begin each frame from the daemon during an
//! operation.

/// The first word from the client.
pub const CLIENT_MAGIC: u32 = 0x6e69_7863;
/// The first word from the daemon.
pub const DAEMON_MAGIC: u32 = 0x6478_696f;

/// Text for the user follows: a fragment of any length, not necessarily a line.
pub const NEXT: u64 = 0x6f6c_6d67;
/// The daemon asks for data: at most as many bytes as the following number.
pub const READ: u64 = 0x6461_7461;
/// Data for the client follows.
pub const WRITE: u64 = 0x6461_7416;
/// The operation is done, and the reply follows.
pub const LAST: u64 = 0x616c_7473;
/// The operation failed: a message and, for clients that support it, a status follow.
pub const ERROR: u64 = 0x6378_7470;

/// The maximum length of the text of a NEXT or ERROR frame that a client accepts.
pub const MAX_TEXT: u64 = 16 << 20;
/// How much our daemon asks for with its first READ, in bytes. Each READ costs a round trip, so it
/// asks for twice as much after each that was answered in full. (Guix's client allocates a buffer
/// for the whole size. The original daemon asks for 32 KiB.)
pub const READ_SIZE: usize = 1 << 20;
/// The setting by which a client permits our daemon to ask for the next piece before it has read the last:
/// a client that is far away never waits for it to ask, then. It has to answer with an empty piece after the
/// end of its data. (Guix's client can't: a READ at the end of its input is an exception there.)
pub const READ_AHEAD: &str = "import-read-ahead";
/// The most that it asks for, in bytes.
pub const READ_MOST: usize = 8 << 20;
/// The size of our daemon's WRITE frames, in bytes.
pub const WRITE_SIZE: usize = 64 << 10;

/// The statuses of ERROR frames.
pub mod status {
    /// Any other failure.
    pub const FAILURE: u32 = 1;
    /// A build failed, and would fail again.
    pub const BUILD_FAILED: u32 = 100;
    /// A build timed out.
    pub const TIMED_OUT: u32 = 101;
}
