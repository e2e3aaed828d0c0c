//! What has happened on the farm: every attempt to build something, and how the machines were
//! (`doc/spec/history.md`).
//!
//! It is an SQLite database, `<state>/offload/history.sqlite`, bounded in age and in rows. Nothing
//! needs it: it can be deleted at any time, and where it can't be written, builds go on and only rows
//! are lost. A daemon writes to it by a [`Writer`], on a thread of its own; its hooks tell it their rows
//! ([`Line`]), and write them by themselves under other daemons. A [`Reader`] reads.
//!
//! | file | content |
//! |---|---|
//! | `record` | the rows |
//! | `limits` | for how long, and how many rows are kept |
//! | `token` | how a daemon finds out what a hook has written |
//! | `lines` | the rows that a hook tells its daemon |
//! | `files` | the database's file: that it is ours, and replacing a damaged one |
//! | `database` | writing rows, and deleting old ones |
//! | `writer` | the thread that writes |
//! | `reader` | queries |
//! | `summary` | what attempts to build one thing say together |

mod database;
mod files;
mod limits;
mod lines;
mod reader;
mod record;
mod summary;
mod token;
mod writer;

use std::io;
use std::path::PathBuf;

pub use limits::Limits;
pub use lines::{Line, Lines, Pipe};
pub use reader::{Filter, Reader, literal};
pub use record::{
    Attempt, AttemptResult, Kind, LOCAL, MachineState, State, Times, UNKNOWN_MACHINE,
};
pub use summary::{MachineSummary, SystemSummary, summary};
pub use token::Token;
pub use writer::{Writer, WriterOptions};

/// The format's version, in the database as `user_version`.
const VERSION: i64 = 1;

/// Why the history can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be opened, created or renamed.
    #[error("{}: {source}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something else in its place.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// It is the database of something else.
    #[error("{} is another program's database", .0.display())]
    Foreign(PathBuf),
    /// It was written by a newer program.
    #[error("{} has version {version}, and this program knows version {VERSION}", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: i64,
    },
    /// Another process holds it for longer than we wait.
    #[error("{}: another process holds its lock", .0.display())]
    Busy(PathBuf),
    /// It is damaged.
    #[error("{} is damaged ({source})", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// In SQLite's words.
        source: rusqlite::Error,
    },
    /// Anything else: a full disk, for example.
    #[error("{}: {source}", .file.display())]
    Database {
        /// The file.
        file: PathBuf,
        /// In SQLite's words.
        source: rusqlite::Error,
    },
}
