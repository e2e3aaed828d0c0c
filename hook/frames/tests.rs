//! Frames and links, with themselves.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use system::sync::Mutex;

use super::*;

/// Frames as they are written.
fn stream(compressed: bool, frames: &[(Kind, u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(&mut bytes);
    if compressed {
        writer.compress().unwrap();
    }
    for (kind, channel, payload) in frames {
        writer.write(*kind, *channel, payload).unwrap();
    }
    bytes
}

/// A stream that arrives in pieces.
struct Pieces<'a>(Vec<&'a [u8]>);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.0.first().is_some_and(|piece| piece.is_empty()) {
            self.0.remove(0);
        }
        match self.0.first_mut() {
            Some(piece) => piece.read(buffer),
            None => Ok(0),
        }
    }
}

fn read_all(source: impl Read) -> Result<Vec<(Kind, u16, Vec<u8>)>, FrameError> {
    let mut reader = FrameReader::new(source);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next()? {
        frames.push((frame.kind, frame.channel, frame.payload.to_vec()));
    }
    Ok(frames)
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    let random = prop::collection::vec(any::<u8>(), 0..3000);
    let dull = (0..DATA_LIMIT).prop_map(|length| b"guix ".repeat(length.div_ceil(5)));
    let dull = dull.prop_map(|mut text| {
        text.truncate(DATA_LIMIT);
        text
    });
    prop_oneof![random, dull]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn frames_arrive_however_the_stream_is_cut(
        compressed in any::<bool>(),
        payloads in prop::collection::vec(payloads(), 0..8),
        cuts in prop::collection::vec(1usize..5000, 1..20),
    ) {
        let frames: Vec<_> = payloads
            .into_iter()
            .enumerate()
            .map(|(number, payload)| (Kind::Data, number as u16, payload))
            .collect();
        let bytes = stream(compressed, &frames);
        let (mut rest, mut pieces) = (&bytes[..], Vec::new());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, other) = rest.split_at(rest.len().min(*cut));
            pieces.push(piece);
            rest = other;
        }
        prop_assert_eq!(read_all(Pieces(pieces)).unwrap(), frames);
    }

    #[test]
    fn whatever_arrives_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_all(&bytes[..]);
        let _ = FrameReader::new(&bytes[..]).greeting();
    }
}

#[test]
fn a_stream_that_is_cut_is_an_error_but_for_its_end() {
    let bytes = stream(
        true,
        &[(Kind::Data, 7, vec![1; 5000]), (Kind::End, 7, vec![])],
    );
    for length in 1..bytes.len() {
        match read_all(&bytes[..length]) {
            Ok(frames) => assert_eq!((frames.len(), length), (1, bytes.len() - 8)),
            Err(error) => assert!(matches!(error, FrameError::Cut), "{error}"),
        }
    }
}

#[test]
fn headers_that_cannot_be_are_refused_before_the_payload() {
    let error = |header: [u8; 8]| read_all(&header[..]).unwrap_err().to_string();
    assert!(error([0; 8]).contains("unknown type 0"));
    assert!(error([11, 0, 0, 0, 0, 0, 0, 0]).contains("unknown type 11"));
    assert!(error([3, 2, 0, 0, 0, 0, 0, 0]).contains("flags 0x2"));
    assert!(error([3, 0, 0, 0, 1, 0, 1, 0]).contains("65537 bytes is too long"));
    assert!(error([3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).contains("too long"));
    assert!(error([9, 1, 0, 0, 0, 0, 0, 0]).contains("only data is compressed"));
}

#[test]
fn a_piece_that_becomes_too_long_is_refused() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(20).unwrap();
    encoder.write_all(&vec![0; 100 << 20]).unwrap();
    let piece = encoder.finish().unwrap();
    let mut bytes = vec![3, 1, 1, 0];
    bytes.extend((piece.len() as u32).to_le_bytes());
    bytes.extend(&piece);
    assert!(matches!(read_all(&bytes[..]), Err(FrameError::Bomb)));
    // A window that takes more memory than allowed.
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&[0; 1000]).unwrap();
    let piece = encoder.finish().unwrap();
    let mut bytes = vec![3, 1, 1, 0];
    bytes.extend((piece.len() as u32).to_le_bytes());
    bytes.extend(&piece);
    assert!(matches!(
        read_all(&bytes[..]),
        Err(FrameError::Compression(_))
    ));
}

#[test]
fn text_becomes_shorter_and_noise_hardly_longer() {
    let text = b"a line of a log, as builders print it\n".repeat(1500);
    let text = stream(true, &vec![(Kind::Data, 1, text); 20]);
    assert!(text.len() < 20 * 57_000 / 10, "{}", text.len());
    let noise: Vec<u8> = (0..DATA_LIMIT).map(|_| rand::random()).collect();
    let frames = vec![(Kind::Data, 1, noise); 20];
    let bytes = stream(true, &frames);
    assert!(bytes.len() < 20 * DATA_LIMIT + 1000, "{}", bytes.len());
    assert_eq!(read_all(&bytes[..]).unwrap(), frames);
}

#[test]
fn the_greeting_is_found_after_what_scripts_print() {
    let greet = |before: &[u8], line: &str| {
        let bytes = [
            before,
            line.as_bytes(),
            &stream(false, &[(Kind::Bye, 0, vec![])]),
        ]
        .concat();
        let mut reader = FrameReader::new(&bytes[..]);
        let before = reader.greeting()?.before;
        assert_eq!(reader.next()?.unwrap().kind, Kind::Bye);
        Ok::<_, FrameError>(before)
    };
    let line = "\nguix-offload worker 2\n";
    assert_eq!(greet(b"", line).unwrap(), "");
    assert_eq!(
        greet(b"Welcome!\n\nmodule loaded", line).unwrap(),
        "Welcome!\n\nmodule loaded"
    );
    let long = [&b"x".repeat(60_000)[..], b"\nlast line\n"].concat();
    let kept = greet(&long, line).unwrap();
    assert!(
        kept.ends_with("xx\nlast line") && kept.len() < 2100,
        "{kept}"
    );
    let error = |before: &[u8], line| greet(before, line).unwrap_err().to_string();
    assert!(error(b"", "\nguix-offload worker 9\n").contains("version 9 of"));
    assert!(error(b"", "\nguix-offload worker 9\n").contains("here is version 2"));
    assert!(error(b"", "\nguix-offload worker 2\r\n").contains("a terminal"));
    let refused = error(b"srun: error: no partition\n", "guix-offload: not found\n");
    assert!(refused.contains("ended before its greeting: srun: error: no partition"));
    let endless = b"not yet\n".repeat(9000);
    assert!(matches!(
        greet(&endless, line),
        Err(FrameError::NoGreeting(_))
    ));
}

#[test]
fn hellos_survive_and_may_have_more() {
    let hello = KeeperHello {
        pool: "nodes".to_owned(),
        key: Some("(public-key)".to_owned()),
        ..KeeperHello::default()
    };
    let payload = encode(&hello);
    let frame = Frame {
        kind: Kind::Hello,
        channel: 0,
        payload: &payload,
    };
    assert_eq!(decode::<KeeperHello>(&frame).unwrap(), hello);
    let read = |payload: &[u8]| {
        decode::<WorkerHello>(&Frame { payload, ..frame }).map_err(|error| error.to_string())
    };
    let later = br#"{"version":2,"host":"n7","status":{"free":5,"color":1},"new":[{}]}"#;
    let hello = read(later).unwrap();
    assert_eq!((hello.host.as_str(), hello.status.free), ("n7", Some(5)));
    assert!(read(b"[").unwrap_err().contains("hello frame"));
    let failure: Failure =
        serde_json::from_str(r#"{"class":"of-later","text":"it is raining"}"#).unwrap();
    assert_eq!(failure, Failure::new(Class::Other, "it is raining"));
    let long = Failure::new(Class::Daemon, "\u{1}ä".repeat(50_000));
    assert!(encode(&long).len() <= PAYLOAD_LIMIT);
}

/// One side of a link, whose frames are handled by a thread.
struct Side {
    link: Link,
    seen: Arc<Mutex<Vec<Received>>>,
    thread: JoinHandle<Result<(), FrameError>>,
}

/// Both sides of a link; on the second one, `connect` makes the sockets of channels.
fn link(
    heartbeat: Duration,
    connect: impl Fn() -> io::Result<UnixStream> + Clone + Send + 'static,
) -> (Side, Side) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let side = |stream: UnixStream| {
        let connect = connect.clone();
        let mut writer: FrameWriter<Box<dyn Write + Send>> =
            FrameWriter::new(Box::new(stream.try_clone().unwrap()));
        writer.compress().unwrap();
        let settings = Settings {
            heartbeat,
            channels: 4,
            status: Box::new(|| Status {
                load: Some(1.5),
                free: None,
            }),
        };
        let link = Link::start(writer, settings).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (also, seen_too) = (link.clone(), seen.clone());
        let thread = thread::spawn(move || {
            let mut reader = FrameReader::new(stream);
            while let Some(frame) = reader.next()? {
                match also.receive(&frame)? {
                    Received::Open(channel) => also.accept(channel, connect.clone())?,
                    Received::Done => {}
                    other => seen_too.lock().push(other),
                }
            }
            Ok(())
        });
        Side { link, seen, thread }
    };
    (side(ours), side(theirs))
}

const LONG: Duration = Duration::from_secs(3600);

/// What sends back what it gets.
fn echo() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    thread::spawn(move || {
        let _ = io::copy(&mut &theirs, &mut &theirs);
        let _ = theirs.shutdown(Shutdown::Write);
    });
    Ok(ours)
}

fn eventually(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

#[test]
fn several_connections_go_through_one_link() {
    let (near, far) = link(LONG, echo);
    let exchanges: Vec<_> = (0..4u8)
        .map(|number| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            near.link.open(theirs).unwrap();
            thread::spawn(move || {
                let sent = vec![number; 3 << 20];
                let expected = sent.clone();
                let mut writer = ours.try_clone().unwrap();
                let writing = thread::spawn(move || {
                    writer.write_all(&sent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                (&ours).read_to_end(&mut back).unwrap();
                assert!(back == expected);
                writing.join().unwrap();
            })
        })
        .collect();
    let (ours, theirs) = UnixStream::pair().unwrap();
    assert!(near.link.open(theirs).is_err(), "four are the limit");
    drop(ours);
    for exchange in exchanges {
        exchange.join().unwrap();
    }
    // Numbers are free again on both sides.
    for side in [&near, &far] {
        assert!(eventually(|| side.link.channels() == 0));
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    near.link.open(theirs).unwrap();
    ours.write_all(b"again").unwrap();
    let mut back = [0; 5];
    ours.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"again");
}

#[test]
fn who_does_not_read_holds_up_no_other_channel_and_no_ping() {
    let (near, far) = link(Duration::from_millis(20), echo);
    let (mut stuck, theirs) = UnixStream::pair().unwrap();
    near.link.open(theirs).unwrap();
    // More than windows and sockets hold: nobody reads what comes back.
    stuck
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    stuck.write_all(&vec![0; 16 << 20]).unwrap_err();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    near.link.open(theirs).unwrap();
    ours.write_all(b"quick").unwrap();
    let mut back = [0; 5];
    ours.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"quick");
    let before = far.seen.lock().len();
    let said = |status: &Received| matches!(status, Received::Status(s) if s.load == Some(1.5));
    assert!(eventually(|| far.seen.lock().len() > before + 4));
    assert!(far.seen.lock().iter().all(said));
}

#[test]
fn a_client_that_hangs_up_ends_the_connection_there() {
    let (sender, far_ends) = std::sync::mpsc::channel();
    let (near, far) = link(LONG, move || {
        let (ours, theirs) = UnixStream::pair()?;
        sender.send(theirs).unwrap();
        Ok(ours)
    });
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    near.link.open(theirs).unwrap();
    ours.write_all(b"x").unwrap();
    let mut there = far_ends.recv().unwrap();
    there.read_exact(&mut [0]).unwrap();
    drop(ours);
    // Not only its input ends: nothing can be written, either.
    assert_eq!(there.read(&mut [0]).unwrap(), 0);
    assert!(eventually(|| (&there).write_all(b"y").is_err()));
    assert!(eventually(
        || far.link.channels() == 0 && near.link.channels() == 0
    ));
}

#[test]
fn a_connection_that_cannot_be_made_is_closed_with_what_came_before() {
    let (near, _far) = link(LONG, || Err(io::Error::other("no daemon")));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    near.link.open(theirs).unwrap();
    let _ = ours.write_all(b"hello");
    let mut back = Vec::new();
    let _ = ours.read_to_end(&mut back);
    assert_eq!(back, b"");
    assert!(eventually(|| near.link.channels() == 0));
}

#[test]
fn the_end_of_the_other_side_ends_all_channels() {
    let (near, far) = link(LONG, echo);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    near.link.open(theirs).unwrap();
    near.link.abandon();
    far.link.abandon();
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    assert!(!near.thread.is_finished());
}

#[test]
fn what_no_honest_side_sends_is_refused() {
    let refused = |frames: &[(Kind, u16, Vec<u8>)]| {
        let mut sink: FrameWriter<Box<dyn Write + Send>> = FrameWriter::new(Box::new(io::sink()));
        sink.compress().unwrap();
        let settings = Settings {
            heartbeat: LONG,
            channels: 2,
            status: Box::new(Status::default),
        };
        let link = Link::start(sink, settings).unwrap();
        let bytes = stream(false, frames);
        let mut reader = FrameReader::new(&bytes[..]);
        let mut outcome = Ok(Received::Done);
        let mut kept = Vec::new();
        while let Some(frame) = reader.next().unwrap() {
            outcome = link.receive(&frame);
            if let Ok(Received::Open(channel)) = outcome {
                let (ours, theirs) = UnixStream::pair().unwrap();
                kept.push(theirs);
                outcome = link.accept(channel, || Ok(ours)).map(|()| Received::Done);
            }
            if outcome.is_err() {
                break;
            }
        }
        link.abandon();
        outcome.unwrap_err().to_string()
    };
    let open = |channel| (Kind::Open, channel, vec![]);
    assert!(refused(&[open(0)]).contains("channel 0"));
    assert!(refused(&[open(1), open(1)]).contains("open already"));
    assert!(refused(&[open(1), open(2), open(3)]).contains("too many"));
    assert!(refused(&[(Kind::Data, 9, vec![1])]).contains("isn't open"));
    assert!(refused(&[open(1), (Kind::Credit, 1, vec![1, 0, 0, 0])]).contains("too much credit"));
    assert!(refused(&[open(1), (Kind::Credit, 1, vec![1])]).contains("wrong payload"));
    let end = (Kind::End, 1, vec![]);
    assert!(refused(&[open(1), end, (Kind::Data, 1, vec![1])]).contains("after its end"));
    let flood = vec![(Kind::Data, 1, vec![0; DATA_LIMIT]); 2 * WINDOW as usize / DATA_LIMIT];
    assert!(refused(&[&[open(1)], &flood[..]].concat()).contains("than was allowed"));
    assert!(refused(&[(Kind::Ping, 0, b"[".to_vec())]).contains("ping frame"));
}

/// Something to write to that nobody reads from, and who could.
fn full_pipe() -> (FrameWriter<Box<dyn Write + Send>>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (FrameWriter::new(Box::new(ours)), theirs)
}

fn quiet(channels: usize) -> Settings {
    Settings {
        heartbeat: LONG,
        channels,
        status: Box::new(Status::default),
    }
}

#[test]
fn a_side_that_reads_nothing_holds_up_nobody_who_opens_a_channel() {
    let (writer, unread) = full_pipe();
    let link = Link::start(writer, quiet(4)).unwrap();
    assert_eq!(link.blocked(), Duration::ZERO);
    let (mut stuck, theirs) = UnixStream::pair().unwrap();
    link.open(theirs).unwrap();
    stuck
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    stuck.write_all(&vec![0; 16 << 20]).unwrap_err();
    assert!(eventually(|| link.blocked() > Duration::from_millis(100)));
    let (sender, opened) = std::sync::mpsc::channel();
    let also = link.clone();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || sender.send(also.open(theirs).is_ok()));
    assert_eq!(opened.recv_timeout(Duration::from_secs(30)), Ok(true));
    // The end of the stream ends all of them.
    drop(unread);
    assert!(eventually(|| link.is_broken() && link.channels() == 0));
    assert!(matches!(ours.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(link.blocked(), Duration::ZERO);
}

#[test]
fn a_client_that_has_gone_waits_for_no_credit() {
    let writer: FrameWriter<Box<dyn Write + Send>> = FrameWriter::new(Box::new(io::sink()));
    let link = Link::start(writer, quiet(4)).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    link.open(theirs).unwrap();
    ours.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    ours.write_all(&vec![0; 16 << 20]).unwrap_err();
    assert_eq!(link.channels(), 1);
    drop(ours);
    assert!(eventually(|| link.channels() == 0));
}

#[test]
fn credit_is_given_while_the_rest_is_delivered_and_is_answered() {
    let (near, mut far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut reader = FrameReader::new(near.try_clone().unwrap());
    let writer: FrameWriter<Box<dyn Write + Send>> = FrameWriter::new(Box::new(near));
    let link = Link::start(writer, quiet(4)).unwrap();
    let receiving = thread::spawn(move || -> Result<(), FrameError> {
        let mut daemons = Vec::new();
        while let Some(frame) = reader.next()? {
            if let Received::Open(channel) = link.receive(&frame)? {
                let (ours, theirs) = UnixStream::pair()?;
                daemons.push(theirs);
                link.accept(channel, || Ok(ours))?;
            }
            // All of the window is there before any of it is delivered.
            if let (Kind::Data, Some(mut daemon)) = (frame.kind, daemons.first()) {
                if frame.payload == b"last" {
                    let mut most = vec![0; WINDOW as usize / 2];
                    daemon.read_exact(&mut most)?;
                }
            }
        }
        Ok(())
    });
    let mut frames = vec![(Kind::Open, 1, vec![])];
    let mut left = WINDOW as usize - 4;
    while left > 0 {
        let count = left.min(DATA_LIMIT);
        frames.push((Kind::Data, 1, vec![7; count]));
        left -= count;
    }
    frames.push((Kind::Data, 1, b"last".to_vec()));
    far.write_all(&stream(false, &frames)).unwrap();
    let mut answers = FrameReader::new(far.try_clone().unwrap());
    // Nobody reads the other half of it.
    let answer = answers.next().unwrap().unwrap();
    assert_eq!(answer.kind, Kind::Credit);
    assert!(answer.credit().unwrap() <= WINDOW / 2);
    // Credit is answered: TCP may keep back what this side says next until it has heard something.
    far.write_all(&stream(false, &[(Kind::Credit, 1, vec![0; 4])]))
        .unwrap();
    loop {
        let answer = answers.next().unwrap().unwrap();
        if answer.kind == Kind::Pong {
            assert_eq!(answer.payload, b"{}");
            break;
        }
        assert_eq!(answer.kind, Kind::Credit);
    }
    far.shutdown(Shutdown::Both).unwrap();
    receiving.join().unwrap().unwrap();
}
