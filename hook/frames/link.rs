//! Channels and heartbeats over one pair of streams: what the worker and the keeper have in common.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use system::sync::{Condvar, Mutex};

use super::channel::{Channel, Output};
use super::error::FrameError;
use super::frame::{Frame, Kind};
use super::hello::{Class, Failure, Status, decode, encode};
use super::writer::FrameWriter;

/// The longest reason of a closed channel, in bytes.
const REASON_LIMIT: usize = 1 << 10;

/// Settings of a link.
pub struct Settings {
    /// How often a ping is sent.
    pub heartbeat: Duration,
    /// How many channels there may be at the same time.
    pub channels: usize,
    /// What pings and their answers say.
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
}

/// A frame that has arrived, as far as the link leaves it to others.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// Nothing more is to be done.
    Done,
    /// The other side's hello.
    Hello,
    /// The other side wants a channel with this number: see [`Link::accept`].
    Open(u16),
    /// The other side's status.
    Status(Status),
    /// The other side wants to end, or ends.
    Bye,
    /// The other side ends because of this.
    Failure(Failure),
}

/// The side of a link that sends; clones are the same link. Whoever reads frames passes them to
/// [`Link::receive`], which never waits for the other side to read: otherwise, both could wait for
/// each other.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    output: Mutex<FrameWriter<Box<dyn Write + Send>>>,
    post: Mutex<Post>,
    posted: Condvar,
    channels: Mutex<BTreeMap<u16, Arc<Channel>>>,
    /// The channels whose threads still run, also those that have been closed.
    live: AtomicUsize,
    heard: Mutex<Instant>,
    /// Since when the frame is being written that is being written.
    writing: Mutex<Option<Instant>>,
    /// Whether something could not be sent.
    broken: AtomicBool,
    settings: Settings,
}

/// What the thread that sends pings is asked for.
#[derive(Default)]
struct Post {
    /// An answer to a ping, or to several.
    pong: bool,
    /// A sign of life, for what is between may hold back what the other side sends until we send something.
    sign: bool,
    /// To end.
    ended: bool,
}

impl Link {
    /// Makes a link that sends by `writer`, and starts its thread.
    pub fn start(
        writer: FrameWriter<Box<dyn Write + Send>>,
        settings: Settings,
    ) -> io::Result<Link> {
        let shared = Arc::new(Shared {
            output: Mutex::new(writer),
            post: Mutex::default(),
            posted: Condvar::new(),
            channels: Mutex::default(),
            live: AtomicUsize::new(0),
            heard: Mutex::new(Instant::now()),
            writing: Mutex::default(),
            broken: AtomicBool::new(false),
            settings,
        });
        let weak = Arc::downgrade(&shared);
        let heartbeat = shared.settings.heartbeat;
        thread::Builder::new()
            .name("pings".into())
            .spawn(move || send_pings(&weak, heartbeat))?;
        Ok(Link(shared))
    }

    /// Sends a frame at once; waits while the other side doesn't read. Not to be called by the thread
    /// that reads frames.
    pub fn send(&self, kind: Kind, channel: u16, payload: &[u8]) -> io::Result<()> {
        self.0.send(kind, channel, payload)
    }

    /// How long nothing has been heard of the other side.
    pub fn silence(&self) -> Duration {
        self.0.heard.lock().elapsed()
    }

    /// How long the other side hasn't read what is being sent: each frame is awaited by itself, so that a
    /// slow stream isn't taken for one that stands still.
    pub fn blocked(&self) -> Duration {
        let since = *self.0.writing.lock();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether something could not be sent: the other side reads no more.
    pub fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Acquire)
    }

    /// How many channels are in use.
    pub fn channels(&self) -> usize {
        self.0.live.load(Ordering::Acquire)
    }

    /// Opens a channel for this socket; returns its number. The other side is told by the channel's own
    /// thread: the caller never waits for it to read. If that fails, the socket is closed.
    pub fn open(&self, socket: UnixStream) -> io::Result<u16> {
        let (number, channel) = {
            let mut channels = self.0.channels.lock();
            let free = (1..=u16::MAX).find(|number| !channels.contains_key(number));
            let number = free.filter(|_| self.has_room()).ok_or_else(too_many)?;
            let channel = Arc::new(Channel::new(number));
            channels.insert(number, channel.clone());
            (number, channel)
        };
        self.0.live.fetch_add(1, Ordering::AcqRel);
        let shared = self.0.clone();
        let say = move || shared.send(Kind::Open, number, b"").map(|()| socket);
        if let Err(error) = self.run(channel, say) {
            self.0.channels.lock().remove(&number);
            return Err(error);
        }
        Ok(number)
    }

    /// Accepts a channel that the other side has opened; `connect` connects its socket, on another
    /// thread. If that fails, the other side is told why.
    pub fn accept(
        &self,
        number: u16,
        connect: impl FnOnce() -> io::Result<UnixStream> + Send + 'static,
    ) -> Result<(), FrameError> {
        if number == 0 {
            return Err(FrameError::unexpected("channel 0 can't be opened"));
        }
        let mut channels = self.0.channels.lock();
        if channels.contains_key(&number) {
            let text = format!("channel {number} is open already");
            return Err(FrameError::unexpected(text));
        }
        if !self.has_room() {
            return Err(FrameError::unexpected(too_many().to_string()));
        }
        let channel = Arc::new(Channel::new(number));
        channels.insert(number, channel.clone());
        drop(channels);
        self.0.live.fetch_add(1, Ordering::AcqRel);
        Ok(self.run(channel, connect)?)
    }

    fn has_room(&self) -> bool {
        self.channels() < self.0.settings.channels
    }

    /// Starts the threads of a channel.
    fn run(
        &self,
        channel: Arc<Channel>,
        connect: impl FnOnce() -> io::Result<UnixStream> + Send + 'static,
    ) -> io::Result<()> {
        let shared = self.0.clone();
        let thread = thread::Builder::new().name("channel".into());
        let spawned = thread.spawn(move || {
            match connect() {
                Ok(socket) => {
                    if channel.connect(socket) {
                        carry(&shared, &channel);
                    }
                }
                Err(error) => channel.close(&error.to_string()),
            }
            shared.finish(&channel);
        });
        if spawned.is_err() {
            self.0.live.fetch_sub(1, Ordering::AcqRel);
        }
        spawned.map(drop)
    }

    /// Handles a frame that has arrived.
    pub fn receive(&self, frame: &Frame<'_>) -> Result<Received, FrameError> {
        *self.0.heard.lock() = Instant::now();
        let number = frame.channel;
        match frame.kind {
            Kind::Hello => return Ok(Received::Hello),
            Kind::Open => return Ok(Received::Open(number)),
            Kind::Bye => return Ok(Received::Bye),
            Kind::Error => return Ok(Received::Failure(failure(frame))),
            Kind::Ping => {
                let status = decode(frame)?;
                self.0.post.lock().pong = true;
                self.0.posted.notify_one();
                return Ok(Received::Status(status));
            }
            Kind::Pong => match decode(frame)? {
                status if status == Status::default() => {}
                status => return Ok(Received::Status(status)),
            },
            Kind::Data => self.channel(frame)?.arrived(frame.payload)?,
            Kind::End => self.channel(frame)?.ended(),
            Kind::Credit => {
                self.channel(frame)?.credited(frame.credit()?)?;
                self.0.post.lock().sign = true;
                self.0.posted.notify_one();
            }
            Kind::Close => {
                if self.channel(frame)?.close_received() {
                    self.0.channels.lock().remove(&number);
                }
            }
        }
        Ok(Received::Done)
    }

    fn channel(&self, frame: &Frame<'_>) -> Result<Arc<Channel>, FrameError> {
        let channels = self.0.channels.lock();
        channels.get(&frame.channel).cloned().ok_or_else(|| {
            let (kind, number) = (frame.kind.name(), frame.channel);
            FrameError::unexpected(format!(
                "a {kind} frame for channel {number}, which isn't open"
            ))
        })
    }

    /// Ends all channels: the other side has gone.
    pub fn abandon(&self) {
        let channels = std::mem::take(&mut *self.0.channels.lock());
        for channel in channels.values() {
            channel.abandon();
        }
        self.0.post.lock().ended = true;
        self.0.posted.notify_one();
    }
}

fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "too many channels are open")
}

/// What an error frame says, whatever it is.
fn failure(frame: &Frame<'_>) -> Failure {
    decode(frame).unwrap_or_else(|_| Failure::new(Class::Other, frame.text()))
}

/// Carries the bytes of a channel in both directions.
fn carry(shared: &Arc<Shared>, channel: &Arc<Channel>) {
    let (other, output) = (channel.clone(), shared.clone());
    let thread = thread::Builder::new().name("channel".into());
    match thread.spawn(move || other.send_all(&*output)) {
        Ok(sending) => {
            channel.deliver_all(&**shared);
            // A panic there would be a fault of ours, and ends the channel all the same.
            let _ = sending.join();
        }
        Err(error) => channel.close(&error.to_string()),
    }
}

impl Shared {
    fn send(&self, kind: Kind, channel: u16, payload: &[u8]) -> io::Result<()> {
        let mut output = self.output.lock();
        *self.writing.lock() = Some(Instant::now());
        let sent = output.write(kind, channel, payload);
        *self.writing.lock() = None;
        drop(output);
        if sent.is_err() {
            self.broken.store(true, Ordering::Release);
        }
        sent
    }

    /// Sends that a channel has ended, whose number can be used again once both sides have said so.
    fn finish(&self, channel: &Channel) {
        let (say, both) = channel.finish();
        // Before the other side knows, and opens the next.
        self.live.fetch_sub(1, Ordering::AcqRel);
        if both {
            self.channels.lock().remove(&channel.number());
        }
        if say {
            let reason = channel.reason();
            let reason = &reason.as_bytes()[..reason.len().min(REASON_LIMIT)];
            // If this fails, the link has ended.
            let _ = self.send(Kind::Close, channel.number(), reason);
        }
    }
}

impl Output for Shared {
    fn data(&self, channel: u16, bytes: &[u8]) -> io::Result<()> {
        self.send(Kind::Data, channel, bytes)
    }

    fn end(&self, channel: u16) -> io::Result<()> {
        self.send(Kind::End, channel, b"")
    }

    fn credit(&self, channel: u16, bytes: u32) -> io::Result<()> {
        self.send(Kind::Credit, channel, &bytes.to_le_bytes())
    }
}

/// Sends pings and their answers, and signs of life, as long as there is a link.
fn send_pings(link: &Weak<Shared>, heartbeat: Duration) {
    let mut next = Instant::now() + heartbeat;
    while let Some(link) = link.upgrade() {
        let mut post = link.post.lock();
        let left = next.saturating_duration_since(Instant::now());
        if !post.pong && !post.sign && !post.ended && !left.is_zero() {
            post = link.posted.wait_timeout(post, left);
        }
        if post.ended {
            return;
        }
        let Post { pong, sign, .. } = std::mem::take(&mut *post);
        drop(post);
        let status = || (link.settings.status)();
        let mut frames = Vec::new();
        if pong {
            frames.push((Kind::Pong, status()));
        } else if sign {
            frames.push((Kind::Pong, Status::default()));
        }
        if Instant::now() >= next {
            next = Instant::now() + heartbeat;
            frames.push((Kind::Ping, status()));
        }
        for (kind, status) in frames {
            if link.send(kind, 0, &encode(&status)).is_err() {
                return; // the other side has gone, as whoever reads frames will notice
            }
        }
    }
}
