//! What a client gets to see while the daemon works for it.
//!
//! Messages, build logs and traces all go through the tunnel of the connection, by the client's
//! own settings; outside of work they go to the daemon's log. The framing of build logs is in
//! `doc/spec/worker-protocol.md`, section 7.

use std::sync::Arc;

use bstr::ByteSlice;
use formats::printable::printable_lines;
use protocol::server::Tunnel;
use protocol::trace::Trace;
use store::{Level, Progress};
use system::sync::RwLock;

use crate::building::LogSink;
use crate::cancel::CancellationToken;
use crate::settings::SessionSettings;

/// The way to the person at the client.
pub struct ClientLog {
    tunnel: Tunnel,
    settings: RwLock<Arc<SessionSettings>>,
    cancel: CancellationToken,
}

impl ClientLog {
    /// A log for a client with these settings; `cancel` is thrown when it cannot be written to.
    pub fn new(
        tunnel: Tunnel,
        settings: Arc<SessionSettings>,
        cancel: CancellationToken,
    ) -> ClientLog {
        ClientLog {
            tunnel,
            settings: RwLock::new(settings),
            cancel,
        }
    }

    /// From now on these settings hold.
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
            // The client has gone, and with it who wanted the work done.
            Err(_) => self.cancel.cancel(),
        }
    }

    /// A message, which may hold what others wrote: it can't pass for a trace line, nor send
    /// escape sequences to the client's terminal.
    fn send_message(&self, level: Level, text: &str) {
        let mut shown = String::with_capacity(text.len());
        for line in printable_lines(text).split_inclusive('\n') {
            if line.starts_with("@ ") {
                shown.push(' ');
            }
            shown.push_str(line);
        }
        self.say(level as u32, &shown);
    }

    fn say(&self, level: u32, text: &str) {
        if level <= self.settings().verbosity {
            let mut line = Vec::with_capacity(text.len() + 1);
            line.extend_from_slice(text.as_bytes());
            line.push(b'\n');
            self.send(&line);
        }
    }

    /// A piece of what the process `pid` wrote, marked as such where the client wants that.
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

    fn trace(&self, line: &str) {
        if self.settings().print_build_trace {
            self.say(Level::Error as u32, line);
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
