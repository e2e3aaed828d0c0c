//! The store on disk, exactly as GNU Guix keeps it: the directory of items, the SQLite database,
//! locks, temporary and permanent roots, canonical metadata, deduplication, export and import,
//! garbage collection and verification.
//!
//! Everything here is interchangeable with Guix's own daemon, which may even run on the same
//! store at the same time: the formats are those of `doc/spec/store-formats.md` (sections 5 to 11),
//! the locks are the same files, taken as open-file-description locks, which conflict with the
//! `fcntl` locks that Guix takes.
//!
//! [`Store`] is the face of it all: cheap to clone, shared by threads. What a client or builder
//! wrote is only ever touched through directory descriptors, without following links.
//!
//! | module | what |
//! |---|---|
//! | [`directories`] | where everything is |
//! | [`options`] | how the store is opened |
//! | `database`, `queries`, `registration` | the database |
//! | [`path_locks`], [`temp_roots`], [`roots`] | what keeps items from others and from the collector |
//! | `restore`, `unpack`, `dump`, [`scan`], [`canonical`], [`links`] | items as trees of files |
//! | `receive`, [`add`], [`export`], [`import`] | items that come and go |
//! | [`gc`], [`verify`] | the garbage collector and the check |
//!
//! Rules that hold everywhere: an item is registered only after its files are complete, canonical
//! and in place, and while its path lock is held; it is unregistered before its files go; what is
//! in the store directory without being registered is garbage unless a temporary root names it.

pub mod add;
pub mod canonical;
mod database;
pub mod directories;
mod dump;
mod error;
pub mod export;
mod file_hash;
pub mod gc;
pub mod import;
pub mod links;
pub mod options;
pub mod path_locks;
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
pub use export::Authority;
pub use gc::{GcAction, GcRequest, GcResult};
pub use import::ImportOptions;
pub use links::OptimiseStats;
pub use options::StoreOptions;
pub use path_locks::PathLocks;
pub use progress::{Level, Progress, Quiet};
pub use queries::{Closure, PathInfo};
pub use registration::NewPath;
pub use scan::{FileHashes, Scan};
pub use store::Store;
pub use temp_roots::TempRoots;
pub use verify::{Checked, VerifyRequest};
