//! The formats of the Guix store, as pure data: nothing here touches a file or a socket, only
//! [`std::io::Read`] and [`std::io::Write`].
//!
//! | module | format |
//! |---|---|
//! | [`base32`] | the store's own base-32 |
//! | [`hash`] | hashes by algorithm, hashing readers and writers |
//! | [`store_path`] | store directories, store file names and how they are computed |
//! | [`wire`] | the padded 8-byte encoding that nars, exports and the worker protocol share |
//! | [`nar`] | normalized archives |
//! | [`derivation`] | `.drv` files, and the hashes that name their outputs |
//! | [`export`] | what surrounds a nar in an export ("nar bundle") |
//! | [`graph`] | no format: walks through graphs of store paths |
//! | [`printable`] | text that others wrote, made safe to print |
//! | [`references`] | finding store references in data |
//!
//! Everything that parses is iterative, and bounds lengths before it allocates: data from a
//! client, a build machine or a builder can be wrong, but can't panic or exhaust memory.

pub mod base32;
pub mod derivation;
pub mod export;
pub mod graph;
pub mod hash;
pub mod nar;
pub mod printable;
pub mod references;
pub mod store_path;
pub mod wire;

pub use bstr::{BStr, BString};
pub use derivation::Derivation;
pub use hash::{Algorithm, Hash, Hasher};
pub use store_path::{StoreDir, StorePath};
