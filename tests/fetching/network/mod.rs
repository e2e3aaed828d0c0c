//! `guix-fetch network`, asked as the daemon asks it.

mod bad_servers;
mod busy;
mod contents;
pub mod fixture;
mod interruptions;
mod memory;
mod shares;
mod small_bodies;
