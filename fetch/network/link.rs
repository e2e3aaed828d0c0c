//! The socket to whoever decides: requests come in, replies go out, and neither waits for the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, bail};
use substitutes::network::message::{Reply, Request, VERSION};
use substitutes::network::{Event, Frames, RequestId};
use system::socket::{receive_with_fds, send_some};

/// How many bytes of replies wait before no more requests are taken.
const BACKLOG: usize = 2 << 20;
/// How many open files wait for the message that they belong to. They come just before it, so there
/// are more only if the other side doesn't keep the rules.
const FILES: usize = 64;

/// A request, and the open files that came with it.
pub type Received = (Request, Vec<OwnedFd>);

/// Both directions of the conversation.
pub struct Link {
    socket: UnixStream,
    incoming: Frames,
    files: VecDeque<OwnedFd>,
    has_greeted: bool,
    outgoing: Vec<u8>,
    sent: usize,
}

impl Link {
    pub fn new(socket: UnixStream) -> io::Result<Link> {
        system::pipe::set_nonblocking(&socket, true)?;
        let mut outgoing = Vec::new();
        Reply::Hello { version: VERSION }.append_to(&mut outgoing);
        Ok(Link {
            socket,
            incoming: Frames::default(),
            files: VecDeque::new(),
            has_greeted: false,
            outgoing,
            sent: 0,
        })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether more replies wait than is good.
    pub fn is_busy(&self) -> bool {
        self.outgoing.len() - self.sent > BACKLOG
    }

    /// Whether replies wait.
    pub fn has_replies(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    /// The requests that have arrived; `None` if the other side has hung up.
    pub fn receive(&mut self) -> anyhow::Result<Option<Vec<Received>>> {
        let mut requests = Vec::new();
        let mut buffer = [0; 64 << 10];
        let (count, files) = match receive_with_fds(&self.socket, &mut buffer) {
            Ok((0, _)) => return Ok(None),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(requests)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error).context("cannot receive requests"),
        };
        self.files.extend(files);
        if self.files.len() > FILES {
            bail!("too many files were sent");
        }
        self.incoming.add(&buffer[..count]);
        while let Some(message) = self.incoming.take()? {
            let request = Request::decode(message)?;
            match request {
                Request::Hello { version: VERSION } if !self.has_greeted => {
                    self.has_greeted = true;
                    continue;
                }
                Request::Hello { version } => {
                    bail!("the daemon has version {version} of the protocol, not {VERSION}")
                }
                _ if !self.has_greeted => bail!("the daemon doesn't greet"),
                _ => {}
            }
            let count = request.files();
            if count > self.files.len() {
                bail!("a request lacks files");
            }
            let files = self.files.drain(..count).collect();
            requests.push((request, files));
        }
        Ok(Some(requests))
    }

    /// Adds a reply to what waits.
    pub fn reply(&mut self, id: RequestId, event: Event) {
        Reply::Event { id, event }.append_to(&mut self.outgoing);
    }

    /// Sends what can be sent; `false` if the other side has hung up.
    pub fn send(&mut self) -> anyhow::Result<bool> {
        while self.has_replies() {
            match send_some(&self.socket, &self.outgoing[self.sent..], &[]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(error).context("cannot send replies"),
            }
        }
        if !self.has_replies() {
            self.sent = 0;
            if self.outgoing.capacity() > 2 * BACKLOG {
                self.outgoing = Vec::new();
            }
            self.outgoing.clear();
        } else if self.sent > BACKLOG {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Ok(true)
    }
}
