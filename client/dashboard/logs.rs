//! The ends of logs, and logs that grow.
//!
//! Logs are as long as builders make them, and compressed: the end of one is found by reading all of it. So only
//! few are read at the same time, by threads of their own, and each only for its turn (`turns.rs`). What is added
//! to a log afterwards is read by as many as follow it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use formats::StorePath;
use formats::printable::printable;
use hyper::body::Bytes;
use store::Directories;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Sender};

use super::document;
use super::responses::{COMMENT, KEEP_ALIVE, RETRY};
use super::turns::{Refused, Turn, Turns};
use crate::log::{Log, is_locked};
use crate::output;
use crate::plan::read_derivation;

/// How much of a log is shown.
const END: usize = 64 << 10;
/// How many are followed at the same time.
const FOLLOWERS: usize = 64;

/// Why a log can't be shown.
#[derive(Debug)]
pub enum Error {
    /// That is no derivation's name.
    BadName,
    /// There is none.
    NoLog,
    /// Too many are read.
    Busy,
    /// It can't be read.
    Failed(String),
}

impl Error {
    /// Why there was no turn for a log.
    fn of(refused: Refused, log: &Log) -> Error {
        match refused {
            Refused::Busy => Error::Busy,
            Refused::TooLong => Error::Failed(too_long(log).to_string()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BadName => f.write_str("expected a derivation's file name, HASH-NAME.drv"),
            Error::NoLog => f.write_str("there is no log of it here"),
            Error::Busy => f.write_str("too many logs are being read; try again later"),
            Error::Failed(why) => f.write_str(&printable(why)),
        }
    }
}

/// All logs.
pub struct Logs {
    directories: Directories,
    turns: Turns,
    followers: Arc<Semaphore>,
}

impl Logs {
    /// The logs of a daemon with these directories.
    pub fn new(directories: Directories) -> Logs {
        Logs {
            directories,
            turns: Turns::default(),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        }
    }

    /// The log of the derivation with this file name.
    fn find(&self, name: &str) -> Result<Log, Error> {
        let log = Log::of_name(&self.directories, name);
        log.map_err(|_| Error::BadName)?.ok_or(Error::NoLog)
    }

    /// The end of a log, as it is now.
    pub async fn end(&self, name: &str) -> Result<String, Error> {
        let log = self.find(name)?;
        let turn = self.turns.next(&log.file).await;
        let turn = turn.map_err(|refused| Error::of(refused, &log))?;
        let read = tokio::task::spawn_blocking(move || end_of(&log, &turn));
        match read.await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(Error::Failed(output::text(&error))),
            Err(_) => Err(Error::Failed("it cannot be read".to_owned())),
        }
    }

    /// The end of a log, and then what is added to it, as events.
    pub async fn follow(&self, name: &str) -> Result<mpsc::Receiver<Bytes>, Error> {
        let log = self.find(name)?;
        let place = self
            .followers
            .clone()
            .try_acquire_owned()
            .map_err(|_| Error::Busy)?;
        let (sender, receiver) = mpsc::channel(1);
        let turn = match self.turns.next(&log.file).await {
            Ok(turn) => turn,
            Err(Refused::Busy) => return Err(Error::Busy),
            Err(refused @ Refused::TooLong) => {
                // A page that follows sees no other answer than events.
                let why = Error::of(refused, &log).to_string();
                let _ = sender.try_send(end_event(Some(&why)).into());
                return Ok(receiver);
            }
        };
        let store = self.directories.store.clone();
        let follow = move || {
            // The thread goes on for a moment when the browser has gone.
            let _place = place;
            let outputs: Vec<StorePath> = match read_derivation(&log.derivation, &store) {
                Ok(derivation) => derivation.output_paths().cloned().collect(),
                Err(_) => Vec::new(),
            };
            let _ = sender.blocking_send(Bytes::from_static(RETRY));
            let sent = send_log(&log, &sender, turn, || outputs.iter().any(is_locked));
            let error = sent.err().map(|error| output::text(&error));
            let _ = sender.blocking_send(end_event(error.as_deref()).into());
        };
        let thread = std::thread::Builder::new().name("log".into());
        thread
            .spawn(follow)
            .map_err(|error| Error::Failed(error.to_string()))?;
        Ok(receiver)
    }
}

/// The last part of a text.
#[derive(Default)]
struct End {
    bytes: VecDeque<u8>,
    is_cut: bool,
}

impl End {
    fn add(&mut self, data: &[u8]) {
        let data = match data.len().checked_sub(END) {
            Some(surplus @ 1..) => {
                self.is_cut = true;
                &data[surplus..]
            }
            _ => data,
        };
        let surplus = (self.bytes.len() + data.len()).saturating_sub(END);
        self.is_cut |= surplus > 0;
        self.bytes.drain(..surplus);
        self.bytes.extend(data);
    }

    /// Takes all but the beginning of a character whose rest is missing, unless `is_last`. A line of which
    /// only the end is left is left out.
    fn take(&mut self, is_last: bool) -> String {
        if std::mem::take(&mut self.is_cut) {
            if let Some(line) = self.bytes.iter().position(|byte| *byte == b'\n') {
                self.bytes.drain(..=line);
            }
        }
        let bytes = self.bytes.make_contiguous();
        let whole = match is_last {
            true => bytes.len(),
            false => bytes.len() - unfinished(bytes),
        };
        let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
        self.bytes.drain(..whole);
        text
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let most = bytes.len().min(3);
    let end = &bytes[bytes.len() - most..];
    let first = end.iter().rposition(|byte| byte & 0xc0 != 0x80);
    let Some(first) = first else { return 0 };
    let length = match end[first] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let there = most - first;
    if there < length { there } else { 0 }
}

/// The end of a log.
fn end_of(log: &Log, turn: &Turn) -> anyhow::Result<String> {
    let in_time = || match turn.is_over() {
        true => Err(too_long(log)),
        false => Ok(()),
    };
    let mut contents = log.open_end(END as u64, move |_| in_time(), || false)?;
    let mut end = End {
        is_cut: contents.is_cut,
        ..End::default()
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match read(&mut *contents.reader, &mut buffer)? {
            0 => break,
            count => end.add(&buffer[..count]),
        }
        in_time()?;
    }
    Ok(end.take(true))
}

/// Reads on; 0 at the end. That of a compressed log is missing while a build runs.
fn read(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn too_long(log: &Log) -> io::Error {
    let text = format!(
        "the log is too long to be read here; `guix-client log {}' shows it",
        log.derivation
    );
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Sends a log as events, until it ends, or nobody wants it. The turn is over when all has been read that was there
/// at first: before anything is sent, since a browser may take its time.
fn send_log(
    log: &Log,
    events: &Sender<Bytes>,
    turn: Turn,
    is_running: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let end = RefCell::new(End::default());
    let sent = RefCell::new(Instant::now());
    let turn = RefCell::new(Some(turn));
    let check = |is_new: bool| {
        if events.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if is_new {
            turn.take();
        }
        match turn.borrow().as_ref().is_some_and(Turn::is_over) {
            true => Err(too_long(log)),
            false => Ok(()),
        }
    };
    let send = |is_last: bool| {
        let text = end.borrow_mut().take(is_last);
        let event = match text.is_empty() {
            true if sent.borrow().elapsed() < KEEP_ALIVE => return,
            true => Bytes::from_static(COMMENT),
            false => event(&text).into(),
        };
        let _ = events.blocking_send(event);
        *sent.borrow_mut() = Instant::now();
    };
    // Asked at the end of what there is.
    let goes_on = || {
        turn.take();
        send(false);
        !events.is_closed() && is_running()
    };
    let contents = log.open_end(END as u64, check, goes_on)?;
    end.borrow_mut().is_cut = contents.is_cut;
    let mut reader = contents.reader;
    let mut buffer = vec![0; 32 << 10];
    while !events.is_closed() {
        match read(&mut *reader, &mut buffer)? {
            0 => break,
            count => end.borrow_mut().add(&buffer[..count]),
        }
        // What was there before is not sent but for its end; what is added is.
        match turn.borrow().is_none() {
            true => send(false),
            false => check(false)?,
        }
    }
    turn.take();
    send(true);
    Ok(())
}

/// The last event: with the error, if there is one.
fn end_event(error: Option<&str>) -> String {
    let data = match error {
        Some(error) => serde_json::json!({ "error": document::text(error) }).to_string(),
        None => "{}".to_owned(),
    };
    format!("event: end\ndata: {data}\n\n")
}

fn event(text: &str) -> String {
    let text = serde_json::to_string(text).unwrap_or_default();
    format!("event: log\ndata: {text}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        let mut end = End::default();
        let mut shown = String::new();
        for byte in "aä€🦀\n".bytes() {
            end.add(&[byte]);
            shown += &end.take(false);
        }
        assert_eq!(shown, "aä€🦀\n");
        end.add(b"\xe2\x82");
        assert_eq!(
            (end.take(false), end.take(true)),
            (String::new(), "\u{fffd}".to_owned())
        );
        end.add(b"\x80\x80\x80\x80\xff");
        assert_eq!(end.take(false).chars().count(), 5);
    }

    #[test]
    fn only_whole_lines_of_the_end_are_kept() {
        let mut end = End::default();
        for number in 0..20_000 {
            end.add(format!("line {number}\n").as_bytes());
        }
        let text = end.take(true);
        assert!(text.len() <= END && text.len() > END - 20, "{}", text.len());
        assert!(text.starts_with("line ") && text.ends_with("line 19999\n"));
        end.add(&vec![b'x'; 2 * END]);
        assert_eq!(end.take(true).len(), END);
        end.add(b"next\n");
        assert_eq!(end.take(true), "next\n");
    }
}
