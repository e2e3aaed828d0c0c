//! A simulated farm: the functions with which daemon and hook choose what is built next and where
//! (`crates/farm`), over a simulated clock, machines and network.
//!
//! Beside them, first come, first served, as with Guix.
//!
//! | | |
//! |---|---|
//! | [`graph`], [`machines`], [`mod@line`] | what is built, by what, and over which lines |
//! | [`policy`] | who decides |
//! | [`simulation`] | what happens |
//! | [`report`], [`fairness`], [`sweep`], [`bounds`] | what that means |
//! | [`plots`] | pictures of it |
//! | [`farm_files`] | a farm in the midst of its work, for the dashboard |

pub mod bounds;
pub mod fairness;
pub mod farm_files;
pub mod graph;
pub mod line;
pub mod machines;
pub mod plots;
pub mod policy;
pub mod report;
mod seconds;
pub mod simulation;
pub mod sweep;
