//! Unpacking in a thread of its own: files are made while what comes next is read and hashed.
//!
//! What is told to an [`Unpacker`] goes to the thread in pieces, of which few are on their way at
//! any time. What the thread could not do is the error of whatever is told next, or of
//! [`Unpacker::finish`].

use std::io::{self, Read};
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bstr::{BStr, BString};
use formats::nar::Sink;

use crate::dump::FILE_CHUNK_SIZE;
use crate::restore::Restorer;

/// How much is told to the thread at once.
const PIECE: usize = 64 * 1024;

/// How many pieces wait for the thread.
const PIECES: usize = 2;

/// What each node counts for, besides its contents.
pub(crate) const NODE: usize = 64;

/// One call of a [`Sink`], remembered.
pub(crate) enum Event {
    BeginDirectory,
    Entry(BString),
    EndDirectory,
    Symlink(BString),
    Regular(bool, Vec<u8>),
    /// A file whose contents come one after the other.
    Large(bool, u64, Contents),
}

impl Event {
    /// Makes the call.
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

/// Contents of a file that arrive in chunks. Ends early if whoever sends them gives up.
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

/// A [`Restorer`] at work in a thread, which has ended when this is dropped.
pub(crate) struct Unpacker {
    /// What will be told next, and how much it is.
    piece: Vec<Event>,
    size: usize,
    /// Nothing once all has been told.
    pieces: Option<SyncSender<Vec<Event>>>,
    /// Answers whether the item is a single file.
    thread: Option<JoinHandle<io::Result<bool>>>,
    is_file: bool,
}

impl Unpacker {
    /// Starts with what is known already.
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

    /// Waits until everything is there. Says whether it is a single file.
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
            // It has ended, and says why.
            _ => self.give_up(),
        }
    }

    /// Lets the thread end, and waits for it.
    fn join(&mut self) -> io::Result<()> {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            self.is_file = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    }

    /// The error of a thread that has ended too early.
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

/// What the thread does: what it is told, until there is no more or something fails.
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
