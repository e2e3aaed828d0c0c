//! What is sent to a client during an operation.
//!
//! Messages, build logs and traces are sent through the connection's tunnel if the client's
//! settings request them; between operations, messages go to the daemon's log. The framing of build
//! logs is described in `doc/spec/worker-protocol.md`, section 7.

use std::collections::BTreeSet;
use std::sync::Arc;

use bstr::ByteSlice;
use formats::printable::printable_message;
use protocol::server::Tunnel;
use protocol::trace::Trace;
use store::{Level, Progress};
use system::sync::{Mutex, RwLock};

use crate::building::LogSink;
use crate::cancel::CancellationToken;
use crate::settings::SessionSettings;

/// Sends messages, logs and traces to a client.
pub struct ClientLog {
    tunnel: Tunnel,
    settings: RwLock<Arc<SessionSettings>>,
    cancel: CancellationToken,
    /// The warnings that are given once.
    given: Mutex<BTreeSet<String>>,
}

impl ClientLog {
    /// A log for a client with these settings. If writing to the client fails, `cancel` is
    /// cancelled.
    pub fn new(
        tunnel: Tunnel,
        settings: Arc<SessionSettings>,
        cancel: CancellationToken,
    ) -> ClientLog {
        ClientLog {
            tunnel,
            settings: RwLock::new(settings),
            cancel,
            given: Mutex::default(),
        }
    }

    /// Changes the settings.
    pub fn set_settings(&self, settings: Arc<SessionSettings>) {
        *self.settings.write() = settings;
    }

    fn settings(&self) -> Arc<SessionSettings> {
        self.settings.read().clone()
    }

    fn send(&self, text: &[u8]) {
        match self.tunnel.log(text) {
            Ok(true) => {}
            Ok(false) => tracing::info!("{}", text.trim_ascii_end().as_bstr()),
            // The client has disconnected.
            Err(_) => self.cancel.cancel(),
        }
    }

    /// Sends a message. It may quote untrusted text, so it is changed if it looks like a trace line
    /// or contains escape sequences for the client's terminal.
    fn send_message(&self, level: Level, text: &str) {
        self.send_line(level as u32, &printable_message(text));
    }

    fn send_line(&self, level: u32, text: &str) {
        if level <= self.settings().verbosity {
            let mut line = Vec::with_capacity(text.len() + 1);
            line.extend_from_slice(text.as_bytes());
            line.push(b'\n');
            self.send(&line);
        }
    }

    /// Sends output of the process `pid`, framed if the client requested that.
    fn send_output(&self, settings: &SessionSettings, pid: u32, data: &[u8]) {
        if settings.multiplexed_build_output {
            let length = data.len() as u64;
            let mut framed = format!("{}\n", Trace::BuildLog { pid, length }).into_bytes();
            framed.extend_from_slice(data);
            self.send(&framed);
        } else {
            self.send(data);
        }
    }
}

impl LogSink for ClientLog {
    fn progress(&self) -> &dyn Progress {
        self
    }

    fn build_output(&self, pid: u32, data: &[u8]) {
        let settings = self.settings();
        if settings.verbosity >= settings.build_verbosity {
            self.send_output(&settings, pid, data);
        }
    }

    fn helper_output(&self, pid: Option<u32>, data: &[u8]) {
        match pid {
            Some(pid) => self.send_output(&self.settings(), pid, data),
            None => self.send(data),
        }
    }

    fn warn_once(&self, text: &str) {
        // There are few: what they say depends on the administrator's settings only.
        if self.given.lock().insert(text.to_owned()) {
            self.send_message(Level::Error, text);
        }
    }

    fn trace(&self, line: &str) {
        if self.settings().print_build_trace {
            self.send_line(Level::Error as u32, line);
        }
    }
}

impl Progress for ClientLog {
    fn message(&self, level: Level, text: &str) {
        self.send_message(level, text);
    }

    fn shows(&self, level: Level) -> bool {
        level as u32 <= self.settings().verbosity
    }

    fn interrupted(&self) -> bool {
        self.cancel.is_cancelled()
    }
}
