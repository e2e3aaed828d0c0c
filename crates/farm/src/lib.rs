//! What is known of a farm as a whole, and what can be told from it: which machine, in which order,
//! until when.
//!
//! Daemon, hook, client and the simulator share it. Nothing here is needed for a build to succeed: it
//! decides only where and in which order, and says why.
//!
//! | module | content |
//! |---|---|
//! | [`history`] | what was built where, how long it took, how machines were: a database |
//! | [`estimate`] | how long a build will take, by what its like took |
//! | [`placement`] | which machine should get a build |
//! | [`order`] | what the longest remaining path waits for |
//! | [`fair_share`] | which client comes first |
//! | [`status`] | what is being built, and what waits |
//! | [`waiting`] | why something waits |
//! | [`ItemName`] | the name of what a derivation makes, with its version apart |

pub mod estimate;
pub mod fair_share;
pub mod history;
mod item_name;
pub mod order;
pub mod placement;
pub mod status;
pub mod waiting;

pub use item_name::{Class, ItemName};
