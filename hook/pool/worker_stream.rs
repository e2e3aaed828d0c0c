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
    Settings, Status, VERSION, WorkerHello, decode, encode,
};

/// The longest name that a worker gives, in bytes.
const NAME_LIMIT: usize = 256;
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
        Err(error @ FrameError::Version { .. }) => {
            StreamEnd::NoWorker(Failure::new(FailureKind::NoWorker, error.to_string()))
        }
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
    let (mut bye, mut is_ready) = (false, false);
    while let Some(frame) = reader.next()? {
        match link.receive(&frame)? {
            Received::Done => {}
            Received::Hello => {
                // What hooks have been told of a worker, its key above all, stays as it is.
                if is_ready {
                    return Err(FrameError::unexpected("a second hello"));
                }
                is_ready = true;
                let hello: WorkerHello = decode(&frame)?;
                check(&hello)?;
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

/// Refuses a hello that is not of our version, or gives names that cannot be.
fn check(hello: &WorkerHello) -> Result<(), FrameError> {
    if hello.version != VERSION {
        let theirs = hello.version.to_string();
        return Err(FrameError::Version { theirs });
    }
    let names = [Some(&hello.host), hello.job.as_ref(), Some(&hello.system)];
    let is_name = |name: &&String| name.len() <= NAME_LIMIT && !name.contains(char::is_control);
    match names.iter().flatten().all(is_name) {
        true => Ok(()),
        false => Err(FrameError::unexpected("a hello with an impossible name")),
    }
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// How a keeper's conversation with a worker ends that sends these frames; and what it makes of them.
    fn end_of(frames: &[(Kind, Vec<u8>)]) -> (StreamEnd, Vec<Event>) {
        let (theirs, input) = system::pipe::pipe().unwrap();
        let (output, our_output) = system::pipe::pipe().unwrap();
        let events = Arc::new(Events::new().unwrap());
        let hello = KeeperHello::default();
        read_on_thread(File::from(input), File::from(output), hello, events.clone()).unwrap();
        let mut writer = FrameWriter::new(File::from(our_output));
        writer.greet().unwrap();
        for (kind, payload) in frames {
            // It may have ended already.
            let _ = writer.write(*kind, 0, payload);
        }
        drop(writer);
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(system::poll::wait_readable(&*events, Some(left)).unwrap());
            for event in events.take() {
                match event {
                    Event::Ended(end) => {
                        drop(theirs);
                        return (end, seen);
                    }
                    other => seen.push(other),
                }
            }
        }
    }

    fn hello() -> WorkerHello {
        WorkerHello {
            version: VERSION,
            host: "node-7".to_owned(),
            system: "x86_64-linux".to_owned(),
            key: Some("(public-key)".to_owned()),
            ..WorkerHello::default()
        }
    }

    fn hellos(events: &[Event]) -> usize {
        let is_hello = |event: &&Event| matches!(event, Event::Ready(_));
        events.iter().filter(is_hello).count()
    }

    #[test]
    fn a_worker_says_once_who_it_is() {
        let honest = (Kind::Hello, encode(&hello()));
        let (end, seen) = end_of(&[honest.clone(), (Kind::Bye, Vec::new())]);
        assert!(matches!(end, StreamEnd::Bye), "{end:?}");
        assert_eq!(hellos(&seen), 1);
        let other = WorkerHello {
            key: Some("(another)".to_owned()),
            ..hello()
        };
        let (end, seen) = end_of(&[honest, (Kind::Hello, encode(&other))]);
        let StreamEnd::Failed(failure) = end else {
            panic!("{end:?}");
        };
        assert!(failure.text.contains("a second hello"), "{failure}");
        assert_eq!(hellos(&seen), 1);
    }

    #[test]
    fn impossible_hellos_are_refused() {
        let refused = |hello: WorkerHello| {
            let (end, seen) = end_of(&[(Kind::Hello, encode(&hello))]);
            assert_eq!(hellos(&seen), 0);
            match end {
                StreamEnd::Failed(failure) | StreamEnd::NoWorker(failure) => failure.text,
                other => panic!("{other:?}"),
            }
        };
        let version = refused(WorkerHello {
            version: VERSION + 1,
            ..hello()
        });
        assert!(
            version.contains(&format!("version {} of", VERSION + 1)),
            "{version}"
        );
        for name in ["x".repeat(NAME_LIMIT + 1), "x\u{1b}[2J".to_owned()] {
            let of_host = WorkerHello {
                host: name.clone(),
                ..hello()
            };
            let of_job = WorkerHello {
                job: Some(name.clone()),
                ..hello()
            };
            let of_system = WorkerHello {
                system: name,
                ..hello()
            };
            for hello in [of_host, of_job, of_system] {
                assert!(refused(hello).contains("an impossible name"));
            }
        }
    }
}
