//! Why a stream of frames can't be understood.

use std::io;

use super::{PAYLOAD_LIMIT, VERSION};

/// Why a greeting or a frame can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The system's error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something else than the greeting arrives.
    #[error("it says something else than `guix-offload worker'{}", .0)]
    NoGreeting(Said),
    /// A greeting of another version.
    #[error("it speaks version {theirs} of the worker's protocol; here is version {VERSION}")]
    Version {
        /// The other side's version.
        theirs: String,
    },
    /// Lines end with a carriage return.
    #[error("a terminal is in between, which changes what is sent through it")]
    Terminal,
    /// The stream ends before the greeting.
    #[error("it ended before its greeting{}", .0)]
    EndBeforeGreeting(Said),
    /// The stream ends in the middle of a frame.
    #[error("the stream ends in the middle of a frame")]
    Cut,
    /// A frame of a type that this version doesn't have.
    #[error("a frame has the unknown type {0} (here is version {VERSION} of the protocol)")]
    Kind(u8),
    /// Flags that this version doesn't have.
    #[error("a frame has unknown flags {0:#x} (here is version {VERSION} of the protocol)")]
    Flags(u8),
    /// A payload that is longer than allowed.
    #[error("a frame of {0} bytes is too long")]
    TooLong(u32),
    /// A payload that can't be decompressed.
    #[error("a frame can't be decompressed: {0}")]
    Compression(String),
    /// A payload that becomes longer than allowed.
    #[error("a frame is longer than {PAYLOAD_LIMIT} bytes when it is decompressed")]
    Bomb,
    /// A payload that is not what frames of this type have.
    #[error("a {frame} frame has a wrong payload: {reason}")]
    Payload {
        /// The type of frame.
        frame: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A frame that can't come now.
    #[error("{0}")]
    Unexpected(String),
}

/// What somebody said instead of the greeting: the end of it, which may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said(pub String);

impl std::fmt::Display for Said {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_str() {
            "" => Ok(()),
            said => write!(formatter, ": {said}"),
        }
    }
}

impl FrameError {
    /// A frame that can't come now, because of `reason`.
    pub fn unexpected(reason: impl Into<String>) -> FrameError {
        FrameError::Unexpected(reason.into())
    }
}
