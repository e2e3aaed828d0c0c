//! Unpacking in a separate thread: files are written while the following data is read and hashed.
//!
//! Calls are sent to the thread in chunks through a small bounded queue. The next call, or
//! [`Unpacker::finish`], returns the thread's error.

use std::io::{self, Read};
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bstr::{BStr, BString};
use formats::nar::Sink;

use crate::dump::FILE_CHUNK_SIZE;
use crate::restore::Restorer;

/// The size of a chunk of calls, in bytes.
const PIECE: usize = 64 * 1024;

/// The capacity of the queue, in chunks.
const PIECES: usize = 2;

/// Bytes that each node adds to a chunk's size, besides its contents.
pub(crate) const NODE: usize = 64;

/// A recorded call of a [`Sink`].
pub(crate) enum Event {
    BeginDirectory,
    Entry(BString),
    EndDirectory,
    Symlink(BString),
    Regular(bool, Vec<u8>),
    /// A file whose contents follow.
    Large(bool, u64, Contents),
}

impl Event {
    /// Replays the call.
    pub(crate) fn tell(self, sink: &mut Restorer) -> io::Result<()> {
        match self {
            Event::BeginDirectory => sink.begin_directory(),
            Event::Entry(name) => sink.entry(BStr::new(&name)),
            Event::EndDirectory => sink.end_directory(),
            Event::Symlink(target) => sink.symlink(BStr::new(&target)),
            Event::Regular(executable, data) => {
                sink.regular(executable, data.len() as u64, &mut data.as_slice())
            }
            Event::Large(executable, size, mut contents) => {
                sink.regular(executable, size, &mut contents)
            }
        }
    }
}

/// The contents of a file, received in chunks. Ends early if the sender gives up.
pub(crate) struct Contents {
    chunks: Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.chunks.recv() {
                Ok(chunk) => self.current = io::Cursor::new(chunk),
                Err(_) => return Ok(0),
            }
        }
    }
}

/// A [`Restorer`] that runs in a thread, which is joined on drop.
pub(crate) struct Unpacker {
    /// The calls to send next, and their size.
    piece: Vec<Event>,
    size: usize,
    /// `None` once everything has been sent.
    pieces: Option<SyncSender<Vec<Event>>>,
    /// Returns whether the item is a single file.
    thread: Option<JoinHandle<io::Result<bool>>>,
    is_file: bool,
}

impl Unpacker {
    /// Starts the thread with the calls recorded so far.
    pub(crate) fn start(restorer: Restorer, begin: Vec<Event>) -> io::Result<Unpacker> {
        let (sender, pieces) = sync_channel(PIECES);
        let thread = thread::Builder::new()
            .name("unpack".into())
            .stack_size(256 * 1024)
            .spawn(move || unpack(restorer, begin, &pieces))?;
        Ok(Unpacker {
            piece: Vec::new(),
            size: 0,
            pieces: Some(sender),
            thread: Some(thread),
            is_file: false,
        })
    }

    /// Waits until everything is unpacked. Returns whether it is a single file.
    pub(crate) fn finish(&mut self) -> io::Result<bool> {
        if self.pieces.is_some() {
            self.send()?;
            self.join()?;
        }
        Ok(self.is_file)
    }

    fn tell(&mut self, size: usize, event: Event) -> io::Result<()> {
        self.piece.push(event);
        self.size += size + NODE;
        if self.size < PIECE {
            return Ok(());
        }
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        self.size = 0;
        let piece = mem::take(&mut self.piece);
        match self.pieces.as_ref().map(|pieces| pieces.send(piece)) {
            Some(Ok(())) => Ok(()),
            // The thread has ended; this returns its error.
            _ => self.give_up(),
        }
    }

    /// Lets the thread end, and joins it.
    fn join(&mut self) -> io::Result<()> {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            self.is_file = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    }

    /// The error of a thread that ended early.
    fn give_up(&mut self) -> io::Result<()> {
        self.join()?;
        Err(io::Error::other("unpacking has ended"))
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sink for Unpacker {
    fn begin_directory(&mut self) -> io::Result<()> {
        self.tell(0, Event::BeginDirectory)
    }

    fn entry(&mut self, name: &BStr) -> io::Result<()> {
        self.tell(name.len(), Event::Entry(name.to_owned()))
    }

    fn end_directory(&mut self) -> io::Result<()> {
        self.tell(0, Event::EndDirectory)
    }

    fn symlink(&mut self, target: &BStr) -> io::Result<()> {
        self.tell(target.len(), Event::Symlink(target.to_owned()))
    }

    fn regular(&mut self, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        if size <= PIECE as u64 {
            let mut data = vec![0; size as usize];
            contents.read_exact(&mut data)?;
            return self.tell(data.len(), Event::Regular(executable, data));
        }
        let (sender, chunks) = sync_channel(PIECES);
        let current = io::Cursor::default();
        let contents_there = Contents { chunks, current };
        self.tell(PIECE, Event::Large(executable, size, contents_there))?;
        let mut left = size;
        while left > 0 {
            let most = left.min(FILE_CHUNK_SIZE as u64);
            let mut chunk = Vec::with_capacity(most as usize);
            if contents.take(most).read_to_end(&mut chunk)? as u64 != most {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if sender.send(chunk).is_err() {
                return self.give_up();
            }
            left -= most;
        }
        Ok(())
    }
}

/// The thread's function: replays calls until there are no more or one fails.
fn unpack(
    mut restorer: Restorer,
    begin: Vec<Event>,
    pieces: &Receiver<Vec<Event>>,
) -> io::Result<bool> {
    for event in std::iter::once(begin).chain(pieces).flatten() {
        event.tell(&mut restorer)?;
    }
    Ok(restorer.is_file())
}
