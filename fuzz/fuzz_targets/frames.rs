//! What arrives from a worker or its keeper: a greeting and frames, and what they do to a link. However the
//! stream is cut, it is understood the same.
#![no_main]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hook::frames::{
    FrameReader, FrameWriter, KeeperHello, Kind, Link, Received, Settings, Status, WorkerHello, decode, encode,
};

/// A stream that arrives in pieces.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.1);
        self.0.read(&mut buffer[..most])
    }
}

/// What is understood: the frames, and why there are no more.
fn understood(data: &[u8], piece: usize) -> (Vec<(Kind, u16, Vec<u8>)>, String) {
    let mut reader = FrameReader::new(Pieces(data, piece));
    let mut frames = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(frame)) => {
                if let Ok(hello) = decode::<WorkerHello>(&frame) {
                    let _ = encode(&hello);
                }
                if let Ok(hello) = decode::<KeeperHello>(&frame) {
                    let _ = encode(&hello);
                }
                frames.push((frame.kind, frame.channel, frame.payload.to_vec()));
            }
            Ok(None) => return (frames, String::new()),
            Err(error) => return (frames, error.to_string()),
        }
    }
}

fn greeting(data: &[u8], piece: usize) -> String {
    let mut reader = FrameReader::new(Pieces(data, piece));
    format!("{:?}", reader.greeting())
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert_eq!(greeting(data, 1), greeting(data, 1000));
    let whole = understood(data, usize::MAX);
    assert_eq!(understood(data, 1), whole);
    assert_eq!(understood(data, 100), whole);
    // A link takes any of it, without a thread that waits for ever.
    if whole.0.len() > 64 || !whole.0.iter().any(|(kind, ..)| *kind == Kind::Open) {
        return;
    }
    let sink: FrameWriter<Box<dyn Write + Send>> = FrameWriter::new(Box::new(io::sink()));
    let settings = Settings {
        heartbeat: Duration::from_secs(1),
        channels: 4,
        status: Box::new(Status::default),
    };
    let link = Link::start(sink, settings).unwrap();
    let mut reader = FrameReader::new(data);
    while let Ok(Some(frame)) = reader.next() {
        let handled = match link.receive(&frame) {
            Ok(Received::Open(channel)) => link.accept(channel, || Ok(UnixStream::pair()?.0)),
            other => other.map(drop),
        };
        if handled.is_err() {
            break;
        }
    }
    link.abandon();
});
