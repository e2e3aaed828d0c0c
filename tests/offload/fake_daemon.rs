//! A program that listens where a machine's daemon should, and is not one.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use protocol::frames::{CLIENT_MAGIC, DAEMON_MAGIC, ERROR, LAST, NEXT};

use crate::harness::Bytes;

const ADD_TEMP_ROOT: u64 = 11;
const QUERY_VALID_PATHS: u64 = 31;

/// Listens until it is dropped.
pub struct FakeDaemon {
    socket: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDaemon {
    /// Does this with each connection, in a thread. That it fails means that the other side has gone.
    pub fn new(
        socket: &Path,
        act: impl Fn(&mut Guest) -> io::Result<()> + Send + Sync + 'static,
    ) -> FakeDaemon {
        let listener = UnixListener::bind(socket).unwrap();
        let (ended, act) = (Arc::new(AtomicBool::new(false)), Arc::new(act));
        let has_ended = ended.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if has_ended.load(Ordering::Relaxed) {
                    break;
                }
                let act = act.clone();
                std::thread::spawn(move || act(&mut Guest(stream)));
            }
        });
        FakeDaemon {
            socket: socket.to_owned(),
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(&self.socket);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// A client of it.
pub struct Guest(pub UnixStream);

impl Guest {
    pub fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.write_all(&bytes.0)
    }

    /// Sends the same again and again.
    pub fn send_endlessly(&mut self, bytes: Bytes) -> io::Result<()> {
        let many = bytes.0.repeat(1 + (64 << 10) / bytes.0.len());
        loop {
            self.0.write_all(&many)?;
        }
    }

    /// Sends an error.
    pub fn fail(&mut self, message: &str, status: u64) -> io::Result<()> {
        self.send(Bytes::new().word(ERROR).string(message).word(status))
    }

    fn word(&mut self) -> io::Result<u64> {
        let mut word = [0; 8];
        self.0.read_exact(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn string(&mut self) -> io::Result<Vec<u8>> {
        let length = self.word()? as usize;
        let mut text = vec![0; length.next_multiple_of(8)];
        self.0.read_exact(&mut text)?;
        text.truncate(length);
        Ok(text)
    }

    /// Performs the handshake of a daemon of this version.
    pub fn shake_hands(&mut self, version: u64) -> io::Result<()> {
        assert_eq!(self.word()?, u64::from(CLIENT_MAGIC));
        for _ in 0..3 {
            self.word()?; // version, processor, reserved space
        }
        let hello = Bytes::new().word(DAEMON_MAGIC.into()).word(version);
        self.send(hello.word(LAST))
    }

    /// Takes temporary roots until it is asked what is valid: returns the paths.
    pub fn take_roots(&mut self) -> io::Result<Vec<Vec<u8>>> {
        loop {
            match self.word()? {
                ADD_TEMP_ROOT => {
                    self.string()?;
                    self.send(Bytes::new().word(LAST).word(1))?;
                }
                QUERY_VALID_PATHS => {
                    let count = self.word()?;
                    let paths = (0..count)
                        .map(|_| self.string())
                        .collect::<io::Result<_>>()?;
                    return Ok(paths);
                }
                other => return Err(io::Error::other(format!("operation {other}"))),
            }
        }
    }

    /// Says that everything is valid, and takes the request to build.
    pub fn take_build(&mut self) -> io::Result<()> {
        let paths = self.take_roots()?;
        self.send(Bytes::new().word(LAST).strings(&paths))?;
        // Options, the build, and the outputs come in one piece.
        let mut request = [0; 64 << 10];
        if self.0.read(&mut request)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.send(Bytes::new().word(LAST))
    }

    /// Sends messages without end.
    pub fn talk(&mut self) -> io::Result<()> {
        self.send_endlessly(Bytes::new().word(NEXT).string("and another thing\n"))
    }
}
