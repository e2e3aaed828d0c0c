//! Substitutes: store items that were built elsewhere (`doc/spec/substitutes.md`).
//!
//! This crate decides. It reads what servers say of an item (a *narinfo*), judges whether an
//! authorised key signed it for the item that was asked for, and checks the contents that arrive.
//! It never touches the network itself: bytes come from a program without privileges, `guix-fetch`,
//! which can withhold and delay them, and nothing else.
//!
//! | module | content |
//! |---|---|
//! | [`servers`] | substitute servers, lists of them, those that were discovered |
//! | [`narinfo`] | what a server says of an item |
//! | [`compression`] | how nars are compressed |
//! | [`trust`] | which narinfos are believed |
//! | [`choice`] | choosing among several servers' narinfos, and among the files they offer |
//! | [`cache`] | narinfos that were received earlier, by us or by Guix |
//! | [`health`] | which servers did not answer lately |
//! | [`told`] | what a client has been told already |
//! | [`lookup`] | what the servers say of many items, and of what these refer to |
//! | [`item`] | fetching one item |
//! | [`waiter`] | who waits for both |
//! | [`settings`] | which servers a client has, and what it wants to be told |
//! | [`survey`] | what each of several servers says, for people who want to know |
//! | [`network`] | the conversation with the program that touches the network |

pub mod agent_request;
pub mod cache;
pub mod choice;
pub mod compression;
pub mod health;
pub mod item;
pub mod lookup;
pub mod narinfo;
pub mod network;
mod progress;
mod reports;
pub mod servers;
pub mod settings;
pub mod survey;
pub mod told;
pub mod trust;
pub mod waiter;

pub use choice::{Choice, Learned, Preference, choose};
pub use compression::Compression;
pub use health::{Health, UserHealth};
pub use narinfo::{Location, Narinfo, Variant};
pub use servers::Server;
pub use told::Told;
pub use trust::{Judge, Trust};
pub use waiter::{Stop, Waiter};
