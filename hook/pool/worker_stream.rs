//! The frames of the worker, from the command's standard output and to its standard input
//! (`doc/spec/worker-frames.md`).

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use super::events::{Event, Events, StreamEnd};
use super::failure::{Failure, FailureKind, last_lines};
use crate::frames::{
    Class, Compression, FrameError, FrameReader, FrameWriter, KeeperHello, Kind, Link, Received,
    Settings, Status, WorkerHello, decode, encode,
};

/// How many connections to the worker's daemon there may be at the same time.
const CHANNELS: usize = 16;

/// Reads all frames of a worker, on a thread of its own, and tells the keeper what matters.
pub fn read_on_thread(
    input: File,
    output: File,
    hello: KeeperHello,
    events: Arc<Events>,
) -> std::io::Result<()> {
    let read = move || {
        let end = read(input, output, &hello, &events);
        events.push(Event::Ended(end));
    };
    let thread = std::thread::Builder::new().name("worker".into());
    thread.spawn(read).map(drop)
}

fn read(input: File, output: File, hello: &KeeperHello, events: &Events) -> StreamEnd {
    let mut reader = FrameReader::new(output);
    if let Err(error) = reader.greeting() {
        let kind = match &error {
            FrameError::EndBeforeGreeting(_) | FrameError::Io(_) => FailureKind::Rejected,
            _ => FailureKind::NoWorker,
        };
        return StreamEnd::NoWorker(Failure::new(kind, error.to_string()));
    }
    match talk(reader, input, hello, events) {
        Ok(end) => end,
        Err(FrameError::Cut) => StreamEnd::Cut,
        Err(error) => StreamEnd::Failed(Failure::new(FailureKind::Lost, error.to_string())),
    }
}

fn talk(
    mut reader: FrameReader<File>,
    input: File,
    hello: &KeeperHello,
    events: &Events,
) -> Result<StreamEnd, FrameError> {
    let input: Box<dyn Write + Send> = Box::new(input);
    let mut writer = FrameWriter::new(input);
    writer.greet()?;
    writer.write(Kind::Hello, 0, &encode(hello))?;
    if hello.compression == Compression::Zstd {
        writer.compress()?;
    }
    let settings = Settings {
        heartbeat: Duration::from_millis(hello.heartbeat_ms),
        channels: CHANNELS,
        status: Box::new(Status::default),
    };
    let link = Link::start(writer, settings)?;
    events.push(Event::Greeted(link.clone()));
    let mut bye = false;
    while let Some(frame) = reader.next()? {
        match link.receive(&frame)? {
            Received::Done => {}
            Received::Hello => {
                let hello: WorkerHello = decode(&frame)?;
                events.push(Event::Ready(Box::new(hello)));
            }
            Received::Status(status) => events.push(Event::Status(status)),
            Received::Bye => bye = true,
            Received::Failure(failure) => return Ok(StreamEnd::Failed(of_worker(&failure))),
            Received::Open(_) => {
                let reason = "the worker wants a connection to a daemon here";
                return Err(FrameError::unexpected(reason));
            }
        }
    }
    Ok(if bye { StreamEnd::Bye } else { StreamEnd::Cut })
}

/// What a worker has said before it ended.
fn of_worker(failure: &crate::frames::Failure) -> Failure {
    let kind = match failure.class {
        Class::Disk => FailureKind::Exhausted,
        Class::SameStore => FailureKind::SameStore,
        Class::Signal | Class::Silence => FailureKind::Lost,
        Class::Version
        | Class::Protocol
        | Class::Namespaces
        | Class::Daemon
        | Class::Key
        | Class::Other => FailureKind::NoWorker,
    };
    Failure::new(kind, last_lines(&failure.text))
}
