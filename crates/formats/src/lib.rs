//! The formats of the Guix store, as pure data: nothing here opens a file or a socket; it only uses
//! [`std::io::Read`] and [`std::io::Write`].
//!
//! | module | format |
//! |---|---|
//! | [`base32`] | the store's own base-32 |
//! | [`hash`] | hashes by algorithm, hashing readers and writers |
//! | [`store_path`] | store directories, store file names and how they are computed |
//! | [`wire`] | the padded 8-byte encoding that nars, exports and the worker protocol share |
//! | [`mirrors`] | where a download may come from: lists of mirrors, and the expression for contents |
//! | [`nar`] | normalized archives |
//! | [`datum`] | Scheme data, as in `machines.scm` and lists of mirrors |
//! | [`derivation`] | `.drv` files, and the hashes that name their outputs |
//! | [`export`] | what precedes and follows each nar in an export ("nar bundle") |
//! | [`graph`] | not a format: traversals of graphs of store paths |
//! | [`printable`] | untrusted text made safe to print |
//! | [`references`] | finding store references in data |
//! | [`size`] | not a format: numbers of bytes in messages |
//!
//! All parsers are iterative and bound lengths before they allocate: malformed data from a client,
//! a build machine or a builder is reported as an error and can't cause a panic or exhaust memory.

pub mod base32;
pub mod datum;
pub mod derivation;
pub mod export;
pub mod graph;
pub mod hash;
pub mod mirrors;
pub mod nar;
pub mod printable;
pub mod references;
pub mod size;
pub mod store_path;
pub mod wire;

pub use bstr::{BStr, BString};
pub use derivation::Derivation;
pub use hash::{Algorithm, Hash, Hasher};
pub use store_path::{StoreDir, StorePath};
