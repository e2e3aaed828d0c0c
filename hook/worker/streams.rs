//! The standard input and output, which only the worker has, and what it says of its failures.

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result};

use crate::frames::{Failure, FrameWriter, Kind, encode};

/// The streams of a worker.
pub(super) struct Streams {
    pub input: File,
    pub output: FrameWriter<Box<dyn Write + Send>>,
}

impl Streams {
    /// Those that this process has inherited.
    pub fn take() -> Result<Streams> {
        Ok(Streams {
            input: inherited(0, "input")?,
            output: FrameWriter::new(Box::new(inherited(1, "output")?)),
        })
    }

    /// Tells the keeper why there is nothing to serve.
    pub fn refuse(&mut self, failure: &Failure) {
        say(failure);
        // It may have gone.
        let _ = self.output.write(Kind::Error, 0, &encode(failure));
    }
}

fn inherited(number: i32, name: &str) -> Result<File> {
    let fd = system::pipe::inherited(number)?;
    let fd = fd.with_context(|| format!("standard {name} is closed"))?;
    // A launcher may have left it so.
    system::pipe::set_nonblocking(&fd, false)?;
    Ok(fd.into())
}

/// Writes a failure to standard error, which a scheduler keeps or passes on.
pub(super) fn say(failure: &Failure) {
    crate::stderr_line!("guix offload: worker: {failure}");
}
