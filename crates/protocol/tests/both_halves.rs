//! The client half talks to the server half over a socket pair.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use formats::wire::{ReadExt, WriteExt};
use formats::{Algorithm, Hash, StoreDir, StorePath, nar};
use protocol::Request;
use protocol::client::{self, Options};
use protocol::frames::READ_SIZE;
use protocol::operations::*;
use protocol::server::{Activity, Connection, Error, Watch};
use protocol::{Operation, Version};

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").unwrap()
}

fn path(name: &str) -> StorePath {
    store()
        .join(&format!("00000000000000000000000000000000-{name}"))
        .unwrap()
}

/// Counts the server's writes.
struct Counting(UnixStream, Arc<Mutex<usize>>);

impl Write for Counting {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        *self.1.lock().unwrap() += 1;
        self.0.write(data)
    }
    fn write_vectored(&mut self, data: &[io::IoSlice<'_>]) -> io::Result<usize> {
        *self.1.lock().unwrap() += 1;
        self.0.write_vectored(data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Serves one connection like a daemon, with made-up contents of the store.
fn serve(stream: UnixStream, writes: Arc<Mutex<usize>>) -> Result<(), Error> {
    let writer = Box::new(Counting(stream.try_clone()?, writes));
    let (mut connection, _) = Connection::accept(stream, writer, Box::new(()), store())?;
    connection.begin()?;
    connection.finish_silently()?;
    loop {
        let request = match connection.next_request() {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                if error.can_be_told() {
                    connection.fail(&error.to_string(), 1)?;
                }
                return Err(error);
            }
        };
        match request {
            Request::IsValidPath(request) => {
                connection.begin()?;
                match store().parse(&request.path) {
                    Ok(path) => connection.finish::<IsValidPath>(&(path.name() == "valid"))?,
                    Err(error) => connection.fail(&error.to_string(), 1)?,
                }
            }
            Request::QueryPathInfo(request) => {
                connection.begin()?;
                connection.finish::<QueryPathInfo>(&PathInfo {
                    deriver: None,
                    hash: Hash::sha256(request.path.as_str()),
                    references: [request.path].into(),
                    registration_time: 1,
                    nar_size: 2,
                })?;
            }
            Request::AddToStore(request) => {
                let mut nar = connection.nar();
                let mut data = Vec::new();
                if request.name == "refused" {
                    // A store that fails half-way.
                    nar.read_exact(&mut [0; 30])?;
                    nar.drain()?;
                    connection.begin()?;
                    connection.fail("no space left", 1)?;
                    continue;
                }
                nar.read_to_end(&mut data)?;
                connection.begin()?;
                let hash = Hash::sha256(data);
                let path = store()
                    .fixed_output_path(&request.name, true, &hash)
                    .unwrap();
                connection.finish::<AddToStore>(&path)?;
            }
            Request::BuildPaths(request) => {
                connection.begin()?;
                // From another thread, as during a build.
                let tunnel = connection.tunnel().clone();
                thread::spawn(move || tunnel.log(b"building\n").unwrap())
                    .join()
                    .unwrap();
                let name = request.targets[0].path.name();
                if name == "bad.drv" {
                    connection.fail("build of `bad' failed", 100)?;
                } else {
                    connection.finish::<BuildPaths>(&Default::default())?;
                }
            }
            Request::ExportPath(request) => {
                connection.begin()?;
                let mut sink = connection.export_sink();
                sink.write_all(request.path.as_str().as_bytes())?;
                sink.write_all(&vec![b'x'; 200_001])?;
                sink.write_all(b"end")?;
                sink.finish();
                connection.finish::<ExportPath>(&Default::default())?;
            }
            Request::ImportPaths(_) => {
                connection.begin()?;
                let mut source = connection.import_source(false);
                // The data is a count, followed by that many bytes.
                let result = source.read_u64().and_then(|count| {
                    let mut data = Vec::new();
                    let read = (&mut source).take(count).read_to_end(&mut data)?;
                    Ok(read as u64 == count && data.iter().all(|&byte| byte == 7))
                });
                source.finish()?;
                match result {
                    Ok(true) => connection.finish::<ImportPaths>(&vec![path("imported")])?,
                    Ok(false) => connection.fail("wrong data", 1)?,
                    Err(error) => connection.fail(&error.to_string(), 1)?,
                }
            }
            other => {
                connection.begin()?;
                connection.fail(&format!("{} is not served here", other.operation()), 1)?;
            }
        }
    }
}

struct Daemon {
    server: thread::JoinHandle<Result<(), Error>>,
    writes: Arc<Mutex<usize>>,
}

fn start() -> (client::Connection, Daemon) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let writes = Arc::new(Mutex::new(0));
    let counter = writes.clone();
    let server = thread::spawn(move || serve(theirs, counter));
    let connection = client::Connection::over_unix(ours, &store(), &Options::default()).unwrap();
    (connection, Daemon { server, writes })
}

#[test]
fn queries_cost_one_write() {
    let (mut client, daemon) = start();
    assert_eq!(client.version(), Version::CURRENT);
    let before = *daemon.writes.lock().unwrap();
    assert!(client.is_valid_path(&path("valid")).unwrap());
    assert!(!client.is_valid_path(&path("other")).unwrap());
    let info = client.query_path_info(&path("valid")).unwrap();
    assert_eq!(info.references, [path("valid")].into());
    assert_eq!(*daemon.writes.lock().unwrap() - before, 3);
    drop(client);
    daemon.server.join().unwrap().unwrap();
}

#[test]
fn what_is_put_before_goes_out_with_the_next() {
    let (mut client, daemon) = start();
    let before = *daemon.writes.lock().unwrap();
    let valid = path("valid");
    for _ in 0..3 {
        client
            .put_before(&IsValidPath {
                path: valid.as_str().into(),
            })
            .unwrap();
    }
    assert_eq!(
        *daemon.writes.lock().unwrap(),
        before,
        "nothing is asked yet"
    );
    // Each reply goes to its own request.
    assert!(client.is_valid_path(&valid).unwrap());
    assert!(!client.is_valid_path(&path("other")).unwrap());
    // More than fits one piece.
    for _ in 0..1000 {
        client
            .put_before(&QueryPathInfo {
                path: valid.clone(),
            })
            .unwrap();
    }
    assert!(client.is_valid_path(&valid).unwrap());
    // An error is reported once, and the other requests are still answered.
    client.put_before(&QueryAllValidPaths {}).unwrap();
    client
        .put_before(&QueryPathInfo {
            path: valid.clone(),
        })
        .unwrap();
    let error = client.is_valid_path(&valid).unwrap_err();
    assert!(error.to_string().contains("is not served here"), "{error}");
    assert!(client.is_valid_path(&valid).unwrap());
    client.put_before(&SetOptions::default()).unwrap();
    assert!(
        client.is_valid_path(&valid).is_err(),
        "it is not served either"
    );
}

#[test]
fn what_is_posted_goes_out_at_once_and_is_answered_in_order() {
    let (mut client, daemon) = start();
    let valid = path("valid");
    let mut archive = Vec::new();
    archive.write_u64(100).unwrap();
    archive.resize(108, 7);
    let before = *daemon.writes.lock().unwrap();
    let asked = IsValidPath {
        path: valid.as_str().into(),
    };
    client.put_before(&asked).unwrap();
    client.post_import(&archive);
    client.post(&BuildPaths {
        targets: vec![path("bad.drv").into()],
        mode: BuildMode::Normal,
    });
    client.post(&ExportPath {
        path: path("a"),
        sign: true,
    });
    assert_eq!(*daemon.writes.lock().unwrap(), before);
    let imported = client.reply_to::<ImportPaths>(client::Streams {
        sent_ahead: true,
        ..client::Streams::new(&mut |_| {})
    });
    assert!(imported.is_ok());
    let mut log = Vec::new();
    let mut on_log = |text: &[u8]| log.extend_from_slice(text);
    let built = client.reply_to::<BuildPaths>(client::Streams::new(&mut on_log));
    // A failed request doesn't prevent the others.
    assert_eq!(built.unwrap_err().status(), Some(100));
    assert!(!log.is_empty());
    let mut sent = Vec::new();
    let exported = client.reply_to::<ExportPath>(client::Streams {
        sink: Some(&mut sent),
        ..client::Streams::new(&mut |_| {})
    });
    exported.unwrap();
    assert!(sent.ends_with(b"end"));
    assert!(client.is_valid_path(&valid).unwrap());
}

#[test]
fn errors_leave_the_connection_usable() {
    let (mut client, _daemon) = start();
    let error = client
        .call(&IsValidPath {
            path: "/etc/passwd".into(),
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "path `/etc/passwd' is not in the store");
    assert_eq!(error.status(), Some(1));
    let error = client.builtin_builders().unwrap_err();
    assert_eq!(error.to_string(), "BuiltinBuilders is not served here");
    assert!(client.is_valid_path(&path("valid")).unwrap());
}

#[test]
fn builds_log_and_fail() {
    let (mut client, _daemon) = start();
    let mut log = Vec::new();
    let mut build = |name: &str| {
        let mut on_log = |text: &[u8]| log.extend_from_slice(text);
        client.build_paths(vec![path(name).into()], BuildMode::Normal, &mut on_log)
    };
    build("good.drv").unwrap();
    let error = build("bad.drv").unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.status()),
        ("build of `bad' failed", Some(100))
    );
    assert_eq!(log, b"building\nbuilding\n");
}

fn file(data: &[u8]) -> impl FnOnce(&mut nar::Writer<&mut dyn Write>) -> io::Result<()> {
    move |writer| nar::Sink::regular(writer, false, data.len() as u64, &mut { data })
}

#[test]
fn adding_streams_and_survives_refusal() {
    let (mut client, _daemon) = start();
    for size in [0, 1, 8, 4095, 300_000, 3_000_000] {
        let data = vec![3; size];
        let expected = Hash::sha256(nar::of_file(false, &data));
        let path = client
            .add_to_store("file", true, Algorithm::Sha256, file(&data))
            .unwrap();
        assert_eq!(
            path,
            store().fixed_output_path("file", true, &expected).unwrap()
        );
        let error = client.add_to_store("refused", true, Algorithm::Sha256, file(&data));
        assert_eq!(error.unwrap_err().to_string(), "no space left");
    }
}

#[test]
fn exports_arrive_whole() {
    let (mut client, _daemon) = start();
    let mut data = Vec::new();
    client.export_path(&path("a"), true, &mut data).unwrap();
    let expected = [
        path("a").as_str().as_bytes(),
        &vec![b'x'; 200_001][..],
        b"end",
    ]
    .concat();
    assert_eq!(data, expected);
    let paths = BTreeSet::from([path("a"), path("b")]);
    data.clear();
    client.export_paths(&paths, true, &mut data).unwrap();
    assert_eq!(data.len(), 2 * (8 + expected.len()) + 8);
}

#[test]
fn imports_are_asked_for() {
    let (mut client, _daemon) = start();
    for size in [0u64, 1, 100, 128 << 10, 1_000_001] {
        let mut data = Vec::new();
        data.write_u64(size).unwrap();
        data.resize(8 + size as usize, 7);
        // More than the daemon wants: the rest is discarded.
        data.extend_from_slice(&[9; 1000]);
        assert_eq!(
            client.import_paths(&mut &data[..]).unwrap(),
            [path("imported")]
        );
        // Less than it wants.
        data[7] = 1;
        let error = client.import_paths(&mut &data[..]).unwrap_err();
        assert_eq!(error.to_string(), "unexpected end-of-file");
    }
    assert!(client.is_valid_path(&path("valid")).unwrap());
}

/// A client that only sends bytes: a greeting and, once that is answered, a request. Returns what
/// it received.
fn raw(greeting: &[u8], request: &[u8]) -> (Vec<u8>, Result<(), Error>) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || serve(theirs, Default::default()));
    // The server may close the connection before it has read everything.
    let _ = ours.write_all(greeting);
    if !request.is_empty() {
        ours.read_exact(&mut [0; 24]).unwrap();
        let _ = ours.write_all(request);
    }
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = ours.read_to_end(&mut answer);
    (answer, server.join().unwrap())
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn greetings_of_every_age() {
    for (version, rest) in [
        (0x10a, &[][..]),
        (0x10b, &[1][..]),
        (0x10e, &[0, 1][..]),
        (0x10e, &[1, 3, 1][..]),
        (0x164, &[0, 0][..]),
    ] {
        let greeting = [&[0x6e697863, version][..], rest].concat();
        let (answer, result) = raw(&words(&greeting), b"");
        assert_eq!(
            answer,
            words(&[0x6478696f, 0x164, 0x616c7473]),
            "{version:#x}"
        );
        assert!(result.is_ok());
    }
    assert_eq!(
        raw(&words(&[0x6e697864, 0x164, 0, 0]), b"").0,
        b"",
        "wrong magic: no word"
    );
    assert!(matches!(
        raw(b"GET / HTTP/1.0\r\n\r\n", b"").1,
        Err(Error::Mismatch)
    ));
}

#[test]
fn nonsense_is_answered_and_the_end() {
    let greeting = [0x6e697863, 0x164, 0, 1];
    let answer = |request: &[u64]| {
        let (answer, result) = raw(&words(&greeting), &words(request));
        assert!(result.is_err());
        let mut answer = &answer[..];
        assert_eq!(answer.read_u64().unwrap(), 0x63787470);
        let message = answer.read_string(1000).unwrap();
        assert_eq!(answer.read_u64().unwrap(), 1, "status");
        message
    };
    assert_eq!(answer(&[2]), "invalid operation 2");
    assert_eq!(answer(&[26, 0]), "path `' is not in the store");
    assert_eq!(
        answer(&[26, 1 << 40]),
        "implementation cannot deal with > 32-bit integers"
    );
    assert!(answer(&[26, 0xffff_ffff]).starts_with("string is too long"));
    assert!(answer(&[9, 0, 7]).starts_with("invalid build mode 7"));
}

struct Always(Activity);
impl Watch for Always {
    fn activity(&self) -> io::Result<Activity> {
        Ok(self.0)
    }
}

#[test]
fn speaking_out_of_turn_is_noticed() {
    let begin = |input: &[u8], activity| {
        let (connection, _) = Connection::accept(
            input,
            Box::new(Vec::new()),
            Box::new(Always(activity)),
            store(),
        )
        .unwrap();
        let mut connection = connection;
        connection.begin()
    };
    let greeting = words(&[0x6e697863, 0x164, 0, 1]);
    assert!(begin(&greeting, Activity::Quiet).is_ok());
    assert!(matches!(
        begin(&greeting, Activity::Closed),
        Err(Error::Gone)
    ));
    assert!(matches!(
        begin(&greeting, Activity::Data),
        Err(Error::Pipelined)
    ));
    // Requests that arrive in one piece are accepted.
    let more = [greeting, words(&[Operation::SyncWithGC.number().into()])].concat();
    assert!(begin(&more, Activity::Quiet).is_ok());
}

#[test]
fn daemons_that_are_none() {
    let talk = |bytes: Vec<u8>| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&bytes).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        client::Connection::over_unix(ours, &store(), &Options::default())
            .err()
            .unwrap()
    };
    assert!(matches!(talk(Vec::new()), client::Error::Io { .. }));
    assert!(matches!(talk(words(&[1])), client::Error::Protocol { .. }));
    assert!(matches!(
        talk(words(&[0x6478696f, 0x264])),
        client::Error::Version(_)
    ));
    // An early error, without a status.
    let mut refusal = words(&[0x6478696f, 0x164, 0x63787470]);
    refusal.write_bytes("no database").unwrap();
    assert_eq!(talk(refusal).to_string(), "no database");
    assert!(matches!(
        talk(words(&[0x6478696f, 0x164, 5])),
        client::Error::Protocol { .. }
    ));
}

/// A source of data that counts how often it was read from after so many bytes.
struct Watched {
    left: usize,
    late_below: usize,
    late: Arc<AtomicUsize>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left <= self.late_below {
            self.late.fetch_add(1, Ordering::SeqCst);
        }
        let count = self.left.min(buffer.len());
        self.left -= count;
        Ok(count)
    }
}

#[test]
fn the_next_piece_is_asked_for_before_a_full_one_is_read() {
    for size in [READ_SIZE, READ_SIZE + 1, 3 * READ_SIZE, 8 * READ_SIZE + 5] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let late = Arc::new(AtomicUsize::new(0));
        let mut source = Watched {
            left: size,
            late_below: size - READ_SIZE,
            late: late.clone(),
        };
        let server = thread::spawn(move || -> Result<(), Error> {
            let writer = Box::new(theirs.try_clone()?);
            let (mut connection, _) = Connection::accept(theirs, writer, Box::new(()), store())?;
            connection.begin()?;
            connection.finish_silently()?;
            while !matches!(connection.next_request()?, Some(Request::ImportPaths(_))) {
                connection.begin()?;
                connection.finish::<SetOptions>(&Default::default())?;
            }
            connection.begin()?;
            let mut data = connection.import_source(true);
            // All but the end of the first piece: the client can't be done with sending it.
            data.read_exact(&mut vec![0; READ_SIZE - 1])?;
            let deadline = Instant::now() + Duration::from_secs(60);
            while late.load(Ordering::SeqCst) == 0 {
                assert!(
                    Instant::now() < deadline,
                    "the next piece was not asked for"
                );
                thread::sleep(Duration::from_millis(1));
            }
            // What was asked for in vain is dropped.
            data.finish()?;
            connection.finish::<ImportPaths>(&vec![path("imported")])?;
            assert!(matches!(
                connection.next_request()?,
                Some(Request::IsValidPath(_))
            ));
            connection.begin()?;
            connection.finish::<IsValidPath>(&true)?;
            Ok(())
        });
        let mut client =
            client::Connection::over_unix(ours, &store(), &Options::default()).unwrap();
        assert_eq!(
            client.import_paths(&mut source).unwrap(),
            [path("imported")]
        );
        assert!(client.is_valid_path(&path("valid")).unwrap(), "{size}");
        server.join().unwrap().unwrap();
    }
}
