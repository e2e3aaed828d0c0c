//! What is known of a farm as a whole, and what can be told from it: which machine, in which order,
//! until when.
//!
//! Daemon, hook, client and the simulator share it. Nothing here is needed for a build to succeed: it
//! decides only where and in which order, and says why.

pub mod order;
