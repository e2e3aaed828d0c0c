//! The worker protocol, which clients and the daemon speak.
//!
//! * [`operation`]: the table of operations, their numbers and names;
//! * [`operations`]: the requests and replies, one file per family of operations;
//! * [`request`]: any request, as a daemon reads it;
//! * [`client`]: connecting to a daemon and calling its operations;
//! * [`server`]: the daemon's side of a connection;
//! * [`trace`]: the lines about builds in a daemon's log that programs parse;
//! * [`builder_filter`]: what builders print, without what could be taken for a hook's words;
//! * [`helper_filter`]: what helper programs say, without what could deceive a client;
//! * [`hook_filter`]: the same of a build hook, and its verdict, which is for the daemon only;
//! * [`version`], [`frames`], [`codec`]: what both halves share.
//!
//! Described in `doc/spec/worker-protocol.md`. Both halves are compatible with Guix: the daemon
//! goes by the *client's* version, and the client by the *daemon's*.

pub mod builder_filter;
pub mod client;
pub mod codec;
pub mod frames;
pub mod helper_filter;
pub mod hook_filter;
pub mod operation;
pub mod operations;
pub mod request;
pub mod server;
pub mod trace;
pub mod version;

pub use operation::Operation;
pub use request::Request;
pub use version::Version;
