//! Where a hook's attempts, and the states of machines, are remembered: the farm's history.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farm::ItemName;
use farm::history::{Attempt, Limits, Line, MachineState, Pipe, Token, Writer, WriterOptions};

use crate::stderr_line;

/// How long a hook waits for others who write to the history, before it loses a row.
const PATIENCE: Duration = Duration::from_millis(250);

/// What remembers how attempts went, and how machines are. Our daemon is told that, since it has the database
/// open; under another one, the hook writes by itself.
#[derive(Debug)]
pub struct History {
    daemon: Option<Pipe>,
    writer: Writer,
}

impl History {
    /// What remembers in the hook's directory, or by telling the daemon that has given the hook a pipe for that;
    /// nothing if nothing is to be remembered.
    pub fn open(directory: &Path, daemon: Option<Pipe>) -> Option<Arc<History>> {
        let limits = Limits::from_environment().unwrap_or_else(|error| {
            stderr_line!("warning: {error}");
            Some(Limits::default())
        })?;
        let writer = Writer::new(WriterOptions {
            directory: directory.to_owned(),
            limits,
            patience: PATIENCE,
            warn: Arc::new(|text| stderr_line!("warning: {text}")),
        });
        Some(Arc::new(History { daemon, writer }))
    }

    /// Opens the database while nothing else is to be done, if it will be needed.
    pub fn prepare(&self) {
        if self.daemon.is_none() {
            self.writer.prepare();
        }
    }

    /// Remembers an attempt. `item` finds out what it was to make, which our daemon knows.
    pub fn attempt(&self, attempt: Attempt, item: impl FnOnce() -> ItemName) {
        if let Some(Line::Attempt(mut attempt)) = self.untold(Line::Attempt(attempt)) {
            attempt.item = item();
            self.writer.attempt(attempt, Token::from_environment());
        }
    }

    /// Remembers the state of a machine.
    pub fn state(&self, state: MachineState) {
        if let Some(Line::State(state)) = self.untold(Line::State(state)) {
            self.writer.state(state);
        }
    }

    /// Tells the daemon a row, and returns it if that isn't possible.
    fn untold(&self, line: Line) -> Option<Line> {
        let is_told = self.daemon.as_ref().is_some_and(|pipe| pipe.tell(&line));
        (!is_told).then_some(line)
    }
}
