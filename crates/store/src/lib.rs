//! The store on disk, exactly as GNU Guix keeps it: the directory of items, the SQLite database,
//! locks, temporary and permanent roots, canonical metadata, deduplication, export and import,
//! garbage collection and verification.
//!
//! The store can be used interchangeably with Guix's own daemon, even at the same time: the formats
//! are those of `doc/spec/store-formats.md` (sections 5 to 11), and the lock files are the same,
//! locked with open-file-description locks, which conflict with the `fcntl` locks that Guix takes.
//!
//! [`Store`] is the entry point: cheap to clone, and shared by threads. Files written by clients or
//! builders are only accessed through directory descriptors, without following links.
//!
//! | module | content |
//! |---|---|
//! | [`directories`] | the names of all directories |
//! | [`options`] | how the store is opened |
//! | `database`, `queries`, `input_sizes`, `registration` | the database |
//! | [`path_locks`], [`temp_roots`], [`roots`] | protecting items from other sessions and the
//! collector |
//! | `restore`, `unpack`, `dump`, [`scan`], [`canonical`], [`links`] | items as trees of files |
//! | [`files`] | trees of files elsewhere |
//! | [`mentions`], `private_directory` | what somebody else has fetched |
//! | `receive`, [`add`], [`expected`], [`export`], [`import`] | adding, receiving, exporting and
//! importing items |
//! | [`gc`], [`verify`] | garbage collection and verification |
//!
//! Invariants: an item is registered only after its files are complete, canonical and in place, and
//! while its path lock is held; it is unregistered before its files are deleted; files in the store
//! directory that aren't registered are garbage unless a temporary root names them.

pub mod add;
pub mod canonical;
mod database;
pub mod directories;
mod dump;
mod error;
pub mod expected;
pub mod export;
mod file_hash;
pub mod files;
pub mod gc;
pub mod import;
mod input_sizes;
pub mod links;
pub mod mentions;
pub mod options;
pub mod path_locks;
mod private_directory;
mod progress;
mod queries;
mod receive;
mod registration;
mod restore;
pub mod roots;
pub mod scan;
mod store;
pub mod temp_roots;
mod unpack;
pub mod verify;
pub mod writable;

pub use add::AddOptions;
pub use canonical::InodesSeen;
pub use directories::{Defaults, Directories};
pub use error::{Error, Result};
pub use expected::{ExpectedItem, ReceiveOptions, ReceivedItem, WaitingItem};
pub use export::Authority;
pub use gc::{GcAction, GcRequest, GcResult};
pub use import::ImportOptions;
pub use links::OptimiseStats;
pub use mentions::Mentions;
pub use options::StoreOptions;
pub use path_locks::PathLocks;
pub use private_directory::PrivateDirectory;
pub use progress::{Level, Progress, Quiet};
pub use queries::{Closure, PathInfo};
pub use registration::NewPath;
pub use roots::Credentials;
pub use scan::{FileHashes, Scan};
pub use store::Store;
pub use temp_roots::TempRoots;
pub use verify::{Checked, VerifyRequest};
