//! The numbers that begin a connection, and those that begin each piece of what the daemon sends
//! while it works.

/// What a client says first.
pub const CLIENT_MAGIC: u32 = 0x6e69_7863;
/// What a daemon says first.
pub const DAEMON_MAGIC: u32 = 0x6478_696f;

/// Text for the person at the client follows: any piece of it, not a line.
pub const NEXT: u64 = 0x6f6c_6d67;
/// The daemon wants data: at most as many bytes as follow.
pub const READ: u64 = 0x6461_7461;
/// Data for the client follows.
pub const WRITE: u64 = 0x6461_7416;
/// The work is done, and the reply follows.
pub const LAST: u64 = 0x616c_7473;
/// The work failed: a message and, for clients that know it, a status.
pub const ERROR: u64 = 0x6378_7470;

/// The longest text of one NEXT or ERROR that a client takes.
pub const MAX_TEXT: u64 = 16 << 20;
/// How much our daemon asks for with its first READ. Each costs a round trip, so it asks for twice
/// as much after each that was answered in full. (Guix's client makes room for all that is asked
/// for. The original daemon asks for 32 KiB.)
pub const READ_SIZE: usize = 1 << 20;
/// The most that it asks for.
pub const READ_MOST: usize = 8 << 20;
/// The size of our daemon's WRITE frames.
pub const WRITE_SIZE: usize = 64 << 10;

/// What failed, in the status of an ERROR.
pub mod status {
    /// Anything.
    pub const FAILURE: u32 = 1;
    /// A build failed, and would again.
    pub const BUILD_FAILED: u32 = 100;
    /// A build took too long.
    pub const TIMED_OUT: u32 = 101;
}
