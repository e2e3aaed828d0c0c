//! What a client sees of its builds: messages, build output, output of helper programs, and trace
//! lines.

use std::sync::Arc;

use store::{Level, Progress};

/// Receives a waiting client's log. Messages are sent with [`Progress::message`].
pub trait LogSink: Progress {
    /// This as what operations of the store report to.
    fn progress(&self) -> &dyn Progress;
    /// A piece of a build's log, as read from the process `pid`. The sink frames it as the client
    /// requested, and drops it if the client does not want it.
    fn build_output(&self, pid: u32, data: &[u8]);
    /// Output of a hook or a substituter. `pid` is given once the helper works on a build: its
    /// output is then framed like build output, but shown at any verbosity.
    fn helper_output(&self, pid: Option<u32>, data: &[u8]);
    /// A warning that a client gets once, however many of its requests meet the same.
    fn warn_once(&self, text: &str);
    /// A [`protocol::trace::Trace`] as text, for clients that requested traces.
    fn trace(&self, line: &str);
}

/// A recorded call of a [`LogSink`].
#[derive(Clone, Debug)]
pub(super) enum LogRecord {
    /// A message of the daemon, without the newline.
    Message(Level, String),
    /// A trace line.
    Trace(String),
    /// A piece of a build's log.
    BuildOutput { pid: u32, data: Arc<[u8]> },
    /// Output of a hook or a substituter.
    HelperOutput { pid: Option<u32>, data: Arc<[u8]> },
}

impl LogRecord {
    /// The size of the text in bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            LogRecord::Message(_, text) | LogRecord::Trace(text) => text.len(),
            LogRecord::BuildOutput { data, .. } | LogRecord::HelperOutput { data, .. } => {
                data.len()
            }
        }
    }

    /// Whether it is output of a process, whose amount is unlimited.
    pub(super) fn is_output(&self) -> bool {
        matches!(
            self,
            LogRecord::BuildOutput { .. } | LogRecord::HelperOutput { .. }
        )
    }

    /// Replays the call.
    pub(super) fn send_to(&self, sink: &dyn LogSink) {
        match self {
            LogRecord::Message(level, text) => sink.message(*level, text),
            LogRecord::Trace(line) => sink.trace(line),
            LogRecord::BuildOutput { pid, data } => sink.build_output(*pid, data),
            LogRecord::HelperOutput { pid, data } => sink.helper_output(*pid, data),
        }
    }
}
