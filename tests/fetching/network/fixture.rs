//! The program, what it is asked for, and hand-written servers for what nginx doesn't do.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use substitutes::Compression;
use substitutes::network::{
    self, Event, Exchange, Fetch, Network, NetworkError, RequestId, Source, User,
};

use crate::harness::TEST_TIMEOUT;

/// The program, started when it is first needed.
pub struct Program {
    pub network: Network,
    pid: Arc<AtomicI32>,
    starts: Arc<AtomicUsize>,
}

impl Program {
    pub fn new() -> Program {
        Program::with_environment(&[])
    }

    /// With these variables.
    pub fn with_environment(variables: &[(&str, &str)]) -> Program {
        Program::launch(Path::new(env!("CARGO_BIN_EXE_guix-fetch")), variables)
    }

    /// Another program, which executes this one.
    pub fn by(program: &Path) -> Program {
        Program::launch(program, &[])
    }

    fn launch(program: &Path, variables: &[(&str, &str)]) -> Program {
        let program = program.to_owned();
        let variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let (pid, starts) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicUsize::new(0)));
        let (new_pid, more_starts) = (pid.clone(), starts.clone());
        let network = Network::new(move |socket| {
            let program = network::program(&program, socket);
            let program = variables
                .iter()
                .fold(program, |program, (name, value)| program.env(name, value));
            let child = program.spawn()?;
            new_pid.store(child.pid(), Ordering::SeqCst);
            more_starts.fetch_add(1, Ordering::SeqCst);
            Ok(child)
        });
        Program {
            network,
            pid,
            starts,
        }
    }

    /// Its process, once it was started.
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::SeqCst)
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        self.starts.load(Ordering::SeqCst)
    }

    /// The most memory that it has had, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let word = line.unwrap().split_whitespace().nth(1);
        word.unwrap().parse().unwrap()
    }

    pub fn exchange(&self) -> Exchange {
        Exchange::new(&self.network).unwrap()
    }

    /// An exchange of a user.
    pub fn exchange_of(&self, user: u64) -> Exchange {
        Exchange::new(&self.network.of_user(User::from_number(user))).unwrap()
    }

    /// The answer to a request for a small body.
    pub fn get(&self, url: &str, limit: u64) -> Answer {
        let mut exchange = self.exchange();
        let id = exchange.get(url, limit);
        let mut events = all_of(&mut exchange, id);
        answer(events.pop().unwrap())
    }

    /// Fetches contents of a size.
    pub fn fetch(&self, sources: Vec<Source>, size: u64) -> Fetched {
        self.fetch_patiently(sources, size, Duration::from_secs(60))
    }

    /// The same, from servers that may be silent for so long.
    pub fn fetch_patiently(&self, sources: Vec<Source>, size: u64, patience: Duration) -> Fetched {
        let mut exchange = self.exchange();
        exchange.set_patience(patience);
        let (id, reader) = start(&mut exchange, sources, size);
        let events = all_of(&mut exchange, id);
        Fetched {
            body: reader.join().unwrap(),
            events,
        }
    }
}

/// Status, `max-age` and body, or the error.
pub type Answer = Result<(u32, Option<u64>, Vec<u8>), NetworkError>;

pub fn answer(event: Event) -> Answer {
    match event {
        Event::Response {
            status,
            max_age,
            body,
            ..
        } => Ok((status, max_age, body)),
        Event::Failed(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

/// What came of fetching something.
#[derive(Debug)]
pub struct Fetched {
    /// What was written to the pipe.
    pub body: Vec<u8>,
    pub events: Vec<Event>,
}

impl Fetched {
    /// The body, which must be complete.
    pub fn whole(self) -> Vec<u8> {
        match self.events.last() {
            Some(Event::Finished { .. }) => self.body,
            _ => panic!("{:?} bytes, {:?}", self.body.len(), self.events),
        }
    }

    /// Why it failed.
    pub fn error(&self) -> &NetworkError {
        match self.events.last() {
            Some(Event::Failed(error)) => error,
            _ => panic!("{:?} bytes, {:?}", self.body.len(), self.events),
        }
    }

    /// The errors of sources that were not the last.
    pub fn failed_sources(&self) -> Vec<(usize, &NetworkError)> {
        let failed = self.events.iter().filter_map(|event| match event {
            Event::SourceFailed { source, error } => Some((*source, error)),
            _ => None,
        });
        failed.collect()
    }
}

/// Starts to fetch something; its bytes are read on a thread.
pub fn start(
    exchange: &mut Exchange,
    sources: Vec<Source>,
    size: u64,
) -> (RequestId, std::thread::JoinHandle<Vec<u8>>) {
    let (reader, writer) = system::pipe::pipe().unwrap();
    let id = exchange.fetch(Fetch { sources, size }, writer);
    let reader = std::thread::spawn(move || {
        let mut body = Vec::new();
        File::from(reader).read_to_end(&mut body).unwrap();
        body
    });
    (id, reader)
}

/// The next event, which should come soon.
pub fn next(exchange: &mut Exchange) -> (RequestId, Event) {
    let event = exchange.wait(Some(2 * TEST_TIMEOUT)).unwrap();
    event.expect("an event in time")
}

/// All events of the only request.
pub fn all_of(exchange: &mut Exchange, id: RequestId) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let (of, event) = next(exchange);
        assert_eq!(of, id);
        let is_last = event.is_last();
        events.push(event);
        if is_last {
            assert_eq!(exchange.next_event(), None);
            return events;
        }
    }
}

/// The last events of all requests.
pub fn last_events(exchange: &mut Exchange) -> HashMap<RequestId, Event> {
    let mut events = HashMap::new();
    while let Some((id, event)) = exchange.wait(Some(2 * TEST_TIMEOUT)).unwrap() {
        if event.is_last() {
            assert!(events.insert(id, event).is_none());
        }
    }
    assert_eq!(exchange.pending(), 0);
    events
}

pub fn url(url: impl Into<String>, compression: Compression) -> Source {
    Source::Url {
        url: url.into(),
        compression,
    }
}

/// Bytes that don't compress to nothing, the same each time.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state as u32 & 0x3f3f_3f3f).to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// What the program for a compression makes of bytes.
pub fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let program = match compression {
        Compression::None => return bytes.to_vec(),
        Compression::Gzip => "gzip",
        Compression::Lzip => "lzip",
        Compression::Zstd => "zstd",
        Compression::Xz => "xz",
        Compression::Bzip2 => "bzip2",
    };
    let mut child = Command::new(program)
        .args(["-1", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}

/// An open file with these bytes.
pub fn file(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file.into()
}

/// A server that answers as the test says. `serve` is called for each request, with its number, its
/// header, and the connection, which is closed afterwards.
pub struct HandServer {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl HandServer {
    pub fn start(
        serve: impl Fn(usize, &str, &mut TcpStream) + Send + Sync + 'static,
    ) -> HandServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = requests.clone();
        let serve = Arc::new(serve);
        // It ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let (heard, serve) = (heard.clone(), serve.clone());
                std::thread::spawn(move || {
                    let header = read_header(&stream);
                    if header.is_empty() {
                        return;
                    }
                    let mut requests = heard.lock().unwrap();
                    let number = requests.len();
                    requests.push(header.clone());
                    drop(requests);
                    serve(number, &header, &mut stream);
                });
            }
        });
        HandServer { address, requests }
    }

    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        self.address.trim_start_matches("http://")
    }

    /// The headers of the requests.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn read_header(stream: &TcpStream) -> String {
    let mut header = String::new();
    let mut lines = BufReader::new(stream);
    loop {
        match lines.read_line(&mut header) {
            Ok(0) | Err(_) => return String::new(),
            Ok(_) if header.ends_with("\r\n\r\n") => return header,
            Ok(_) => {}
        }
    }
}

/// Writes a whole answer. If the other side has gone, that is what the test is about.
pub fn respond(stream: &mut TcpStream, status: &str, fields: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{fields}\r\n");
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

/// Answers so slowly that it takes a second for 500 bytes, and not so slowly that anybody would take it
/// for dead; until the other side hangs up.
pub fn drip(stream: &mut TcpStream, body: &[u8]) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut sent = stream.write_all(head.as_bytes());
    for piece in body.chunks(50) {
        if sent.is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        sent = stream.write_all(piece);
    }
}

/// The value of a field in a header.
pub fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The first byte that is asked for.
pub fn range_start(header: &str) -> Option<usize> {
    let range = field(header, "Range")?.strip_prefix("bytes=")?;
    range.split('-').next()?.parse().ok()
}
