//! The worker protocol: how clients talk to a daemon.
//!
//! * [`operation`]: the table of operations, their numbers and names;
//! * [`operations`]: the requests and replies, one file per family of operations;
//! * [`request`]: any of the requests, as a daemon reads it;
//! * [`client`]: connecting to a daemon and calling it;
//! * [`server`]: what a daemon reads and answers;
//! * [`trace`]: the lines about builds that programs read in a daemon's log;
//! * [`version`], [`frames`], [`codec`]: what both halves share.
//!
//! Described in `doc/spec/worker-protocol.md`.
//! Both halves speak to unmodified Guix: a daemon serves clients by the *client's* version, a
//! client asks by the *daemon's*.

pub mod client;
pub mod codec;
pub mod frames;
pub mod operation;
pub mod operations;
pub mod request;
pub mod server;
pub mod trace;
pub mod version;

pub use operation::Operation;
pub use request::Request;
pub use version::Version;
