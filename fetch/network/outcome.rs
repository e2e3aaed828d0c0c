//! How decompressing an item can end.

use std::io;

use super::output::OutputError;

/// How decompressing has ended.
#[derive(Debug)]
pub enum Outcome {
    /// Everything was written.
    Complete,
    /// The source ended before everything was written.
    Short,
    /// The source isn't compressed as it should be.
    Corrupt(io::Error),
    /// The source, a file, can't be read.
    Unreadable(io::Error),
    /// The pipe doesn't take any more.
    Output(OutputError),
    /// The stream was abandoned.
    Abandoned,
}
