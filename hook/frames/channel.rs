//! One channel: a socket, and two threads that carry its bytes to the link and back. Each side sends
//! `Close` once, as the last frame of the channel, when both of its threads have ended.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use system::poll::{PollFd, PollFlags, poll};
use system::sync::{Condvar, Mutex};

use super::error::FrameError;
use super::{DATA_LIMIT, WINDOW};

/// How many bytes have to be delivered before the other side is given credit for as many.
const CREDIT_STEP: u32 = WINDOW / 4;

/// How often is looked, while nothing may be sent, whether the socket's peer still is there.
const PEER_INTERVAL: Duration = Duration::from_secs(1);

/// Sends what a channel has to send.
pub(super) trait Output: Send + Sync + 'static {
    /// Sends bytes of the channel.
    fn data(&self, channel: u16, bytes: &[u8]) -> io::Result<()>;
    /// Sends that there are no more.
    fn end(&self, channel: u16) -> io::Result<()>;
    /// Gives the other side credit.
    fn credit(&self, channel: u16, bytes: u32) -> io::Result<()>;
}

/// A channel.
pub(super) struct Channel {
    number: u16,
    socket: OnceLock<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes for the socket.
    incoming: Vec<u8>,
    /// Whether all of them have arrived.
    ended: bool,
    /// How many more may arrive.
    window: u32,
    /// How many more may be sent.
    credit: u32,
    /// Whether nothing more is to be sent but `Close`.
    closed: bool,
    /// Why, if this side has closed it for a reason.
    reason: String,
    close_sent: bool,
    close_received: bool,
    /// Whether the other side has gone, so that not even `Close` is to be sent.
    abandoned: bool,
}

impl Channel {
    pub fn new(number: u16) -> Channel {
        let state = State {
            window: WINDOW,
            credit: WINDOW,
            ..State::default()
        };
        Channel {
            number,
            socket: OnceLock::new(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Takes bytes that have arrived.
    pub fn arrived(&self, bytes: &[u8]) -> Result<(), FrameError> {
        let mut state = self.state.lock();
        let number = self.number;
        let Some(window) = state.window.checked_sub(bytes.len() as u32) else {
            let text = format!("more arrives in channel {number} than was allowed");
            return Err(FrameError::unexpected(text));
        };
        state.window = window;
        if state.closed && !state.close_received {
            return Ok(()); // sent before the other side knew
        }
        if state.ended {
            let text = format!("bytes arrive in channel {number} after its end");
            return Err(FrameError::unexpected(text));
        }
        // Growing by itself, it could take twice as much as there is.
        let (length, capacity) = (
            state.incoming.len() + bytes.len(),
            state.incoming.capacity(),
        );
        if length > capacity {
            let wanted = (2 * capacity).clamp(length, WINDOW as usize);
            let more = wanted - state.incoming.len();
            state.incoming.reserve_exact(more);
        }
        state.incoming.extend_from_slice(bytes);
        self.changed.notify_all();
        Ok(())
    }

    /// Takes the news that no more bytes will arrive.
    pub fn ended(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// Takes credit.
    pub fn credited(&self, bytes: u32) -> Result<(), FrameError> {
        let mut state = self.state.lock();
        let sum = state.credit.checked_add(bytes);
        let Some(credit) = sum.filter(|sum| *sum <= WINDOW) else {
            let text = format!("there is too much credit in channel {}", self.number);
            return Err(FrameError::unexpected(text));
        };
        state.credit = credit;
        self.changed.notify_all();
        Ok(())
    }

    /// Takes the news that the other side has closed it. What has arrived is still delivered.
    /// Returns whether this side has sent the same.
    pub fn close_received(&self) -> bool {
        let mut state = self.state.lock();
        state.close_received = true;
        state.closed = true;
        state.ended = true;
        self.changed.notify_all();
        let both = state.close_sent;
        drop(state);
        // A thread may wait for bytes to send.
        self.shut_down(Shutdown::Read);
        both
    }

    /// Whether `Close` is to be sent now that both threads have ended; and whether the other side has
    /// sent the same.
    pub fn finish(&self) -> (bool, bool) {
        let mut state = self.state.lock();
        state.closed = true;
        state.close_sent = true;
        (!state.abandoned, state.close_received)
    }

    /// Why this side has closed it; empty if for no particular reason.
    pub fn reason(&self) -> String {
        self.state.lock().reason.clone()
    }

    /// Ends it at once: the other side has gone.
    pub fn abandon(&self) {
        self.state.lock().abandoned = true;
        self.close("");
    }

    /// Closes it: nothing more is sent or delivered.
    pub fn close(&self, reason: &str) {
        let mut state = self.state.lock();
        if !state.closed {
            state.reason = reason.to_owned();
        }
        state.closed = true;
        state.ended = true;
        state.incoming = Vec::new();
        self.changed.notify_all();
        drop(state);
        self.shut_down(Shutdown::Both);
    }

    fn shut_down(&self, direction: Shutdown) {
        if let Some(socket) = self.socket.get() {
            // It may have been closed by its peer.
            let _ = socket.shutdown(direction);
        }
    }

    /// Sets its socket. Returns false if the channel was closed meanwhile.
    pub fn connect(&self, socket: UnixStream) -> bool {
        let _ = self.socket.set(socket);
        !self.state.lock().closed
    }

    /// Carries bytes from the socket to the link, until either has ended.
    pub fn send_all(&self, output: &impl Output) {
        if let Err(error) = self.try_to_send(output) {
            self.close(&error.to_string());
        }
    }

    fn try_to_send(&self, output: &impl Output) -> io::Result<()> {
        let Some(mut socket) = self.socket.get() else {
            return Ok(());
        };
        let mut buffer = vec![0; DATA_LIMIT];
        while let Some(credit) = self.wait_for_credit(socket) {
            let most = buffer.len().min(credit as usize);
            let count = match socket.read(&mut buffer[..most]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Its peer has closed it with bytes unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(error),
            };
            if count == 0 {
                // What is hung up can't be delivered to, either.
                if is_hung_up(socket) {
                    self.close("");
                } else if !self.state.lock().closed {
                    output.end(self.number)?;
                }
                return Ok(());
            }
            self.state.lock().credit -= count as u32;
            output.data(self.number, &buffer[..count])?;
        }
        Ok(())
    }

    /// Waits until something may be sent: `None` once the channel is closed. The other side may never give
    /// credit: a peer that has gone isn't kept waiting for.
    fn wait_for_credit(&self, socket: &UnixStream) -> Option<u32> {
        let mut state = self.state.lock();
        while state.credit == 0 && !state.closed {
            let before = Instant::now();
            state = self.changed.wait_timeout(state, PEER_INTERVAL);
            let is_late = state.credit == 0 && before.elapsed() >= PEER_INTERVAL;
            if is_late && is_hung_up(socket) {
                drop(state);
                self.close("");
                return None;
            }
        }
        (!state.closed).then_some(state.credit)
    }

    /// Carries bytes from the link to the socket, until they end.
    pub fn deliver_all(&self, output: &impl Output) {
        if let Err(error) = self.try_to_deliver(output) {
            self.close(&error.to_string());
        }
    }

    fn try_to_deliver(&self, output: &impl Output) -> io::Result<()> {
        let Some(mut socket) = self.socket.get() else {
            return Ok(());
        };
        let mut delivered = 0;
        while let Some(bytes) = self.wait_for_bytes() {
            socket.write_all(&bytes)?;
            let mut state = self.state.lock();
            state.window += bytes.len() as u32;
            let more = !state.ended;
            drop(state);
            delivered += bytes.len() as u32;
            if more && delivered >= CREDIT_STEP {
                output.credit(self.number, std::mem::take(&mut delivered))?;
            }
        }
        let closed = self.state.lock().closed;
        self.shut_down(if closed {
            Shutdown::Both
        } else {
            Shutdown::Write
        });
        Ok(())
    }

    /// Waits for bytes for the socket, and takes no more than credit is given for at a time: `None` once
    /// there will be none.
    fn wait_for_bytes(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        while state.incoming.is_empty() && !state.ended {
            state = self.changed.wait(state);
        }
        let bytes = match state.incoming.len() <= CREDIT_STEP as usize {
            true => std::mem::take(&mut state.incoming),
            false => state.incoming.drain(..CREDIT_STEP as usize).collect(),
        };
        (!bytes.is_empty()).then_some(bytes)
    }
}

/// Whether the peer has closed a socket in both directions.
fn is_hung_up(socket: &UnixStream) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    let polled = poll(&mut fds, Some(Duration::ZERO));
    let hang_up = PollFlags::POLLHUP | PollFlags::POLLERR;
    let events = fds[0].revents();
    polled.is_ok() && events.is_some_and(|events| events.intersects(hang_up))
}
