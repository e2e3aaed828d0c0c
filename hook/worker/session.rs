//! The conversation with the keeper: its hello, channels, heartbeats, and every way in which it ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use system::process::exit_now;
use system::signal::{self, Signal};

use super::node::Node;
use super::streams::{Streams, say};
use crate::frames::{
    Class, Compression, Failure, FrameError, FrameReader, FrameWriter, KeeperHello, Kind, Link,
    Received, Settings, VERSION, WorkerHello, decode, encode,
};

/// How many channels may be open at the same time.
const CHANNELS: usize = 16;
/// Bounds of the times that a keeper wants.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A daemon that answers.
pub(super) struct Ready {
    pub hello: WorkerHello,
    pub served: Served,
    /// Waits for its end; returns why it has ended, if that can be known.
    pub watch: Box<dyn FnOnce() -> Option<Failure> + Send>,
}

/// What is served to the keeper.
pub(super) struct Served {
    pub connect: Box<dyn Fn() -> io::Result<UnixStream> + Send + Sync>,
    pub node: Node,
}

/// The conversation.
pub(super) struct Session {
    input: File,
    output: FrameWriter<Box<dyn Write + Send>>,
    patience: Duration,
}

impl Session {
    pub fn new(streams: Streams, patience: Duration) -> Session {
        Session {
            input: streams.input,
            output: streams.output,
            patience,
        }
    }

    /// Serves until the keeper wants no more. `prepare` starts the daemon as the keeper wants it,
    /// while heartbeats go on.
    ///
    /// What can't wait for this thread ends the process: silence, a signal, the daemon's end.
    pub fn serve(
        self,
        prepare: impl FnOnce(&KeeperHello) -> Result<Ready, Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let Session {
            input,
            mut output,
            patience,
        } = self;
        let watch = Arc::new(Watch::new(patience));
        watch.start().map_err(local)?;
        let mut reader = FrameReader::new(input);
        let hello = match read_hello(&mut reader) {
            Ok(hello) => hello,
            Err(failure) => {
                let _ = output.write(Kind::Error, 0, &encode(&failure));
                return Err(failure);
            }
        };
        if hello.compression == Compression::Zstd {
            output.compress().map_err(local)?;
        }
        let limited = |ms| Duration::from_millis(ms).clamp(SHORTEST, LONGEST);
        let ready: Arc<OnceLock<Served>> = Arc::new(OnceLock::new());
        let settings = Settings {
            heartbeat: limited(hello.heartbeat_ms),
            channels: CHANNELS,
            status: {
                let ready = ready.clone();
                Box::new(move || {
                    let node = ready.get().map(|ready| ready.node.status());
                    node.unwrap_or_default()
                })
            },
        };
        let link = Link::start(output, settings).map_err(local)?;
        watch.follow(link.clone(), limited(hello.lost_ms));
        prepare_on_a_thread(link.clone(), ready.clone(), hello, prepare).map_err(local)?;
        let served = receive(&mut reader, &link, &ready);
        if let Err(failure) = &served {
            let _ = link.send(Kind::Error, 0, &encode(failure));
        }
        link.abandon();
        served
    }
}

/// A failure of this process itself.
fn local(error: io::Error) -> Failure {
    Failure::new(Class::Other, error.to_string())
}

/// A failure of the conversation.
fn protocol(error: FrameError) -> Failure {
    let class = match &error {
        FrameError::Version { .. } => Class::Version,
        _ => Class::Protocol,
    };
    Failure::new(class, format!("the head can't be understood: {error}"))
}

fn read_hello(reader: &mut FrameReader<File>) -> Result<KeeperHello, Failure> {
    reader.greeting().map_err(protocol)?;
    let missing = || FrameError::unexpected("it ended before its hello");
    let frame = reader.next().map_err(protocol)?;
    let frame = frame.ok_or_else(missing).map_err(protocol)?;
    if frame.kind != Kind::Hello {
        let text = format!("a {} frame before its hello", frame.kind.name());
        return Err(protocol(FrameError::unexpected(text)));
    }
    let hello: KeeperHello = decode(&frame).map_err(protocol)?;
    if hello.version != VERSION {
        let theirs = hello.version.to_string();
        return Err(protocol(FrameError::Version { theirs }));
    }
    Ok(hello)
}

/// Starts the daemon, says hello, and waits for the daemon's end.
fn prepare_on_a_thread(
    link: Link,
    ready: Arc<OnceLock<Served>>,
    hello: KeeperHello,
    prepare: impl FnOnce(&KeeperHello) -> Result<Ready, Failure> + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        let prepared = match prepare(&hello) {
            Ok(prepared) => prepared,
            Err(failure) => end(&link, &failure),
        };
        let hello = encode(&prepared.hello);
        let _ = ready.set(prepared.served);
        // If this fails, the keeper has gone, as the other thread notices.
        let _ = link.send(Kind::Hello, 0, &hello);
        if let Some(failure) = (prepared.watch)() {
            end(&link, &failure);
        }
    };
    let thread = thread::Builder::new().name("daemon".into());
    thread.spawn(run).map(drop)
}

/// Handles frames until the keeper wants no more.
fn receive(
    reader: &mut FrameReader<File>,
    link: &Link,
    ready: &Arc<OnceLock<Served>>,
) -> Result<(), Failure> {
    while let Some(frame) = reader.next().map_err(protocol)? {
        match link.receive(&frame).map_err(protocol)? {
            Received::Done | Received::Status(_) => {}
            Received::Open(channel) => {
                if ready.get().is_none() {
                    let error =
                        FrameError::unexpected("a channel is opened before there is a daemon");
                    return Err(protocol(error));
                }
                let ready = ready.clone();
                let connect = move || match ready.get() {
                    Some(ready) => (ready.connect)(),
                    None => Err(io::ErrorKind::NotConnected.into()),
                };
                link.accept(channel, connect).map_err(protocol)?;
            }
            Received::Bye => {
                let _ = link.send(Kind::Bye, 0, b"");
                return Ok(());
            }
            Received::Hello => return Err(protocol(FrameError::unexpected("a second hello"))),
            Received::Failure(failure) => {
                let text = format!("the head ends: {failure}");
                return Err(Failure::new(failure.class, text));
            }
        }
    }
    Ok(())
}

/// Tells the keeper why the worker ends, and ends it.
fn end(link: &Link, failure: &Failure) -> ! {
    say(failure);
    let _ = link.send(Kind::Error, 0, &encode(failure));
    exit_now(1)
}

/// Ends the process after a silence, which no other thread could do: all may wait for the keeper.
struct Watch {
    started: Instant,
    patience: Duration,
    link: OnceLock<(Link, Duration)>,
}

impl Watch {
    fn new(patience: Duration) -> Watch {
        Watch {
            started: Instant::now(),
            patience,
            link: OnceLock::new(),
        }
    }

    fn follow(&self, link: Link, lost: Duration) {
        let _ = self.link.set((link, lost));
    }

    /// How long may be waited, and how much of it has passed.
    fn silence(&self) -> (Duration, Duration) {
        match self.link.get() {
            Some((link, lost)) => (*lost, link.silence()),
            None => (self.patience, self.started.elapsed()),
        }
    }

    fn start(self: &Arc<Watch>) -> io::Result<()> {
        signal::block(&ENDING)?;
        let watch = self.clone();
        let run = move || loop {
            let (most, passed) = watch.silence();
            if passed >= most {
                let text = format!("nothing was heard of the head for {} s", most.as_secs_f32());
                end_in_silence(text);
            }
            if watch.link.get().is_some_and(|(link, _)| link.is_broken()) {
                end_in_silence("the head reads no more".to_owned());
            }
            // The link may be a shorter one by then.
            thread::sleep((most - passed).min(Duration::from_millis(500)));
        };
        thread::Builder::new().name("watch".into()).spawn(run)?;
        let watch = self.clone();
        let run = move || {
            if let Ok(signal) = signal::wait_for(&ENDING) {
                watch.end_by(signal);
            }
        };
        let thread = thread::Builder::new().name("signals".into());
        thread.spawn(run).map(drop)
    }

    fn end_by(&self, signal: Signal) -> ! {
        let text = format!(
            "the worker was told to end by a signal ({})",
            signal::describe(signal as i32)
        );
        let failure = Failure::new(Class::Signal, text);
        match self.link.get() {
            Some((link, _)) => end(link, &failure),
            None => say(&failure),
        }
        exit_now(1)
    }
}

/// Ends the process without a word to the keeper, which would not hear it.
fn end_in_silence(text: String) -> ! {
    say(&Failure::new(Class::Silence, text));
    exit_now(1)
}

/// The signals by which a scheduler ends a job.
pub(super) const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT];
