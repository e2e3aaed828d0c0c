//! Messages to the client.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use formats::printable::printable_message;
use formats::wire::padding;
use system::sync::{Mutex, MutexGuard};

use crate::codec::{Encode, put_bytes, put_long};
use crate::frames::{ERROR, LAST, MAX_TEXT, NEXT, READ, WRITE};
use crate::version::Version;

/// Sends messages to the client; shared by every thread that does so. Cheap to clone.
#[derive(Clone)]
pub struct Tunnel {
    state: Arc<Mutex<State>>,
    version: Version,
}

struct State {
    client: Box<dyn Write + Send>,
    /// Whether an operation is in progress; otherwise, only replies may be sent.
    working: bool,
    /// How many more texts may be sent in this operation, if that is limited.
    logs_left: Option<u32>,
    /// Whether a write has failed: then nothing more is sent.
    broken: bool,
    /// The message that is being composed.
    message: Vec<u8>,
}

impl State {
    /// Sends the message.
    fn send(&mut self) -> io::Result<()> {
        let mut message = std::mem::take(&mut self.message);
        let sent = self.send_parts(&mut [IoSlice::new(&message)]);
        message.clear();
        // Don't keep the memory of a rare, large reply.
        if message.capacity() <= 64 * 1024 {
            self.message = message;
        }
        sent
    }

    fn send_parts(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        while !parts.is_empty() {
            let sent = match self.client.write_vectored(parts) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other,
            };
            match sent {
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(error) => {
                    self.broken = true;
                    return Err(error);
                }
            }
        }
        self.client.flush()
    }
}

impl Tunnel {
    pub(super) fn new(client: Box<dyn Write + Send>, version: Version) -> Tunnel {
        let state = State {
            client,
            working: false,
            logs_left: None,
            broken: false,
            message: Vec::new(),
        };
        Tunnel {
            state: Arc::new(Mutex::new(state)),
            version,
        }
    }

    pub(super) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The client's protocol version.
    pub fn version(&self) -> Version {
        self.version
    }

    pub(super) fn set_working(&self, working: bool) {
        self.lock().working = working;
    }

    /// Permits only so many more [`log`](Tunnel::log)s until the operation ends.
    pub(super) fn limit_logs(&self, count: u32) {
        self.lock().logs_left = Some(count);
    }

    /// Sends text for the user. Returns `false`, without sending, if no operation is in progress or
    /// no more text may be sent: it should go elsewhere.
    pub fn log(&self, text: &[u8]) -> io::Result<bool> {
        let mut state = self.lock();
        if !state.working || state.logs_left == Some(0) {
            return Ok(false);
        }
        state.logs_left = state.logs_left.map(|left| left - 1);
        for chunk in text.chunks(MAX_TEXT as usize / 2) {
            put_long(&mut state.message, NEXT);
            put_bytes(&mut state.message, chunk);
            state.send()?;
        }
        Ok(true)
    }

    /// Sends `data` in WRITE frames.
    pub(super) fn write_data(&self, data: &[u8]) -> io::Result<()> {
        // A length has 32 bits.
        for chunk in data.chunks(1 << 30) {
            let mut head = Vec::with_capacity(16);
            put_long(&mut head, WRITE);
            put_long(&mut head, chunk.len() as u64);
            let tail = &[0; 8][..padding(chunk.len() as u64)];
            let mut parts = [IoSlice::new(&head), IoSlice::new(chunk), IoSlice::new(tail)];
            let parts = if tail.is_empty() {
                &mut parts[..2]
            } else {
                &mut parts[..]
            };
            let mut state = self.lock();
            if !state.message.is_empty() {
                state.send()?;
            }
            state.send_parts(parts)?;
        }
        Ok(())
    }

    /// Sends `data` together with the next message, usually the reply, so that the client isn't
    /// woken up twice.
    pub(super) fn write_data_later(&self, data: &[u8]) {
        let mut state = self.lock();
        put_long(&mut state.message, WRITE);
        put_bytes(&mut state.message, data);
    }

    /// Asks for at most `most` bytes. Until the client has sent them, nothing else may be sent, so
    /// log messages are suspended.
    pub(super) fn ask(&self, most: usize) -> io::Result<()> {
        let mut state = self.lock();
        state.working = false;
        put_long(&mut state.message, READ);
        put_long(&mut state.message, most as u64);
        state.send()
    }

    /// Sends numbers outside of any frame.
    pub(super) fn send_raw(&self, values: &[u32]) -> io::Result<()> {
        let mut state = self.lock();
        values
            .iter()
            .for_each(|&value| put_long(&mut state.message, value.into()));
        state.send()
    }

    /// Ends the operation with a reply.
    pub fn finish(&self, reply: &impl Encode) -> io::Result<()> {
        let mut state = self.lock();
        state.working = false;
        state.logs_left = None;
        put_long(&mut state.message, LAST);
        reply.encode(&mut state.message, self.version);
        state.send()
    }

    /// Ends the operation with an error. It may quote untrusted text, so control characters are
    /// escaped.
    pub fn fail(&self, message: &str, status: u32) -> io::Result<()> {
        let message = printable_message(message);
        let mut state = self.lock();
        state.working = false;
        state.logs_left = None;
        put_long(&mut state.message, ERROR);
        let end = message.len().min(MAX_TEXT as usize);
        put_bytes(&mut state.message, &message.as_bytes()[..end]);
        if self.version.has_error_status() && status != 0 {
            put_long(&mut state.message, status.into());
        }
        state.send()
    }
}
