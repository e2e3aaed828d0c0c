//! What a hook and a keeper say to each other, before the worker protocol: lines of JSON. The hook says
//! what it wants; the keeper says how it is going, until the worker answers.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use system::poll::wait_readable;

use super::failure::Failure;
use super::plan::Needs;

/// The longest line, in bytes.
const LINE_LIMIT: usize = 1 << 20;

/// What a hook wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// A connection to the worker's daemon, for a build.
    Build(Needs),
    /// Another one, for the same build.
    Again,
    /// Only what the keeper knows of its worker.
    Vitals,
}

/// What a keeper answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The job does not run yet.
    Pending {
        /// Why, in the scheduler's words; may be empty.
        reason: String,
    },
    /// The worker answers: the next byte belongs to its daemon.
    Ready(Worker),
    /// This job will not do, and ends: another keeper is to be started.
    Unfit,
    /// There is no job.
    Failed(Failure),
}

/// A worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// The name of its node.
    pub host: String,
    /// The scheduler's name for the job.
    pub job: Option<String>,
    /// Its system type.
    pub system: String,
    /// The processors that it may use.
    pub cores: u32,
    /// Its memory, in bytes.
    pub memory: u64,
    /// Its load average.
    pub load: Option<f64>,
    /// The free space of its store, in bytes.
    pub free: Option<u64>,
    /// Whether no build has had this job before.
    pub is_new: bool,
    /// The key that it has made for this job.
    pub key: Option<String>,
}

/// Writes a message.
pub fn write<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads a message, and nothing that follows it. `None` at the end of the stream; an error of the kind
/// `TimedOut` if it has not come by `deadline`.
pub fn read<T: DeserializeOwned>(
    stream: &UnixStream,
    deadline: Option<Instant>,
) -> io::Result<Option<T>> {
    read_on(stream, deadline, &mut Vec::new())
}

/// The same; what has come of a message by `deadline` stays in `line`, for the next time.
pub fn read_on<T: DeserializeOwned>(
    mut stream: &UnixStream,
    deadline: Option<Instant>,
    line: &mut Vec<u8>,
) -> io::Result<Option<T>> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if !wait_readable(stream, left)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) if byte == *b"\n" => {
                let line = std::mem::take(line);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            Ok(_) if line.len() < LINE_LIMIT => line.push(byte[0]),
            Ok(_) => return Err(io::Error::other("a line is too long")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_beyond_a_message() {
        let (ours, theirs) = system::pipe::socket_pair().unwrap();
        let reply = Reply::Ready(Worker::default());
        write(&theirs, &reply).unwrap();
        (&theirs).write_all(b"cxid").unwrap();
        assert_eq!(read::<Reply>(&ours, None).unwrap(), Some(reply));
        let mut rest = [0; 4];
        (&ours).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"cxid");
        let late = read::<Reply>(&ours, Some(Instant::now())).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
        assert_eq!(read::<Reply>(&ours, None).unwrap(), None);
    }

    #[test]
    fn the_first_half_of_a_message_is_kept_until_the_second_comes() {
        let (ours, theirs) = system::pipe::socket_pair().unwrap();
        let mut line = Vec::new();
        for (number, text) in ["\"unf", "it\"\n\"unfit", "\"\n"].iter().enumerate() {
            (&theirs).write_all(text.as_bytes()).unwrap();
            let read = read_on::<Reply>(&ours, Some(Instant::now()), &mut line);
            match number {
                0 => assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut),
                _ => assert_eq!(read.unwrap(), Some(Reply::Unfit)),
            }
        }
    }
}
