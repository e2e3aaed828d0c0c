//! What lies between a transfer and the thread that decompresses it: a few hundred kilobytes. When it
//! is full, the transfer pauses, so that the server waits, and not the memory fills.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::sync::{Condvar, Mutex};

/// How many bytes a stream holds, and one piece more.
const CAPACITY: usize = 256 << 10;

/// Bytes on their way from a transfer to a decoder.
#[derive(Default)]
pub struct Stream {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Vec<u8>>,
    size: usize,
    /// Whether the transfer waits for room.
    is_paused: bool,
    end: Option<End>,
    /// When reading began, and for how much of the time since there was nothing to read.
    begun: Option<Instant>,
    waited: Duration,
}

/// How a stream has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// With its last byte.
    Whole,
    /// Too early; what is still in it doesn't matter.
    Abandoned,
}

impl Stream {
    /// Adds a piece, unless the stream is full. If it is, whoever reads it is told to say when there
    /// is room again.
    pub fn push(&self, piece: &[u8]) -> bool {
        let mut state = self.state.lock();
        if state.size >= CAPACITY {
            state.is_paused = true;
            return false;
        }
        state.size += piece.len();
        state.pieces.push_back(piece.to_vec());
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Nothing more comes.
    pub fn finish(&self) {
        self.end(End::Whole);
    }

    /// Whoever reads is to stop.
    pub fn abandon(&self) {
        self.end(End::Abandoned);
    }

    /// Whether [`Stream::abandon`] was called.
    pub fn is_abandoned(&self) -> bool {
        self.state.lock().end == Some(End::Abandoned)
    }

    /// For how much of the time since reading began there was nothing to read, in percent.
    pub fn waited(&self) -> u32 {
        let state = self.state.lock();
        let time = state.begun.map(|begun| begun.elapsed());
        let share = match time {
            Some(time) if !time.is_zero() => state.waited.as_secs_f64() / time.as_secs_f64(),
            _ => 0.0,
        };
        (100.0 * share.min(1.0)) as u32
    }

    fn end(&self, end: End) {
        let mut state = self.state.lock();
        if end == End::Abandoned {
            state.pieces.clear();
            state.size = 0;
        }
        state.end = Some(end);
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for the next piece; returns it (it is empty at the end), and whether the transfer waits
    /// for room, which there is now.
    fn take(&self) -> io::Result<(Vec<u8>, bool)> {
        let mut state = self.state.lock();
        state.begun.get_or_insert_with(Instant::now);
        loop {
            if state.end == Some(End::Abandoned) {
                return Err(io::Error::other("the transfer was given up"));
            }
            if let Some(piece) = state.pieces.pop_front() {
                state.size -= piece.len();
                let has_room = state.is_paused && state.size <= CAPACITY / 2;
                if has_room {
                    state.is_paused = false;
                }
                return Ok((piece, has_room));
            }
            if state.end.is_some() {
                return Ok((Vec::new(), false));
            }
            let since = Instant::now();
            state = self.changed.wait(state);
            state.waited += since.elapsed();
        }
    }
}

/// The end of a stream that a decoder reads from. `on_room` is called when there is room for a transfer
/// that waits.
pub struct StreamReader<F> {
    stream: Arc<Stream>,
    on_room: F,
    piece: Vec<u8>,
    used: usize,
}

impl<F: FnMut()> StreamReader<F> {
    pub fn new(stream: Arc<Stream>, on_room: F) -> StreamReader<F> {
        StreamReader {
            stream,
            on_room,
            piece: Vec::new(),
            used: 0,
        }
    }
}

impl<F: FnMut()> BufRead for StreamReader<F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.piece.len() {
            let (piece, has_room) = self.stream.take()?;
            (self.piece, self.used) = (piece, 0);
            if has_room {
                (self.on_room)();
            }
        }
        Ok(&self.piece[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}

impl<F: FnMut()> Read for StreamReader<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_stream_tells_when_there_is_room() {
        let stream = Arc::new(Stream::default());
        let piece = vec![7; 64 << 10];
        let mut pushed = 0;
        while stream.push(&piece) {
            pushed += 1;
        }
        assert_eq!(pushed, CAPACITY / piece.len());
        let mut calls = 0;
        let mut reader = StreamReader::new(stream.clone(), || calls += 1);
        let mut byte = [0];
        for _ in 0..pushed {
            reader.read_exact(&mut byte).unwrap();
            let length = reader.fill_buf().unwrap().len();
            reader.consume(length);
        }
        stream.finish();
        assert_eq!(reader.read(&mut byte).unwrap(), 0);
        drop(reader);
        assert_eq!(calls, 1);
    }

    #[test]
    fn an_abandoned_stream_wakes_its_reader() {
        let stream = Arc::new(Stream::default());
        let mut reader = StreamReader::new(stream.clone(), || ());
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || reader.read(&mut [0]).map_err(|_| ()));
            stream.abandon();
            assert_eq!(thread.join().unwrap(), Err(()));
        });
        assert!(stream.is_abandoned());
    }
}
